"""WWW-Authenticate, as RFC 9110 has it and as servers write it."""

from __future__ import annotations

import pytest

from fastlayer.registry.challenge import Challenge, parse_challenges

DOCKER = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", []),
        (
            DOCKER,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Basic", [("basic", {})]),
        ("Basic, Bearer", [("basic", {}), ("bearer", {})]),
        ('Basic realm="a", Bearer realm="b", scope="c d"',
         [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "scope": "c d"})]),
        ('Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
         [("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}), ("basic", {"realm": "simple"})]),
        ("Negotiate YII==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate abc/def+g=, Bearer realm=y", [("negotiate", {}), ("bearer", {"realm": "y"})]),
        ("bEARER REALM=https://a/token?x=y,Service=z", [("bearer", {"realm": "https://a/token?x=y", "service": "z"})]),
        ('Bearer realm = "a" , service = b', [("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a,b=c",service="d"', [("bearer", {"realm": "a,b=c", "service": "d"})]),
        ('Bearer realm="never ends', [("bearer", {"realm": "never ends"})]),
        ('Bearer realm="ends with \\', [("bearer", {"realm": "ends with \\"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ("Bearer realm=", [("bearer", {"realm": ""})]),
        ('realm="nobody\'s", Basic', [("basic", {})]),
        (',,, , Bearer ,, realm="a",,', [("bearer", {"realm": "a"})]),
        ('"quoted, first" , Basic realm=x', [("basic", {"realm": "x"})]),
        ('<<>>;;{}, Basic realm="x"', [("basic", {"realm": "x"})]),
        ('Bearer realm="a";service="b"', [("bearer", {"realm": "a"})]),
        ('Bearer error="invalid_token",error_description="The token ""is"" old"', None),
    ],
)  # fmt: skip
def test_challenges(text: str, expected: list[tuple[str, dict[str, str]]] | None) -> None:
    found = parse_challenges(text)
    if expected is not None:
        assert found == tuple(Challenge(scheme, parameters) for scheme, parameters in expected)
    else:
        assert found[0].parameters["error"] == "invalid_token"


def test_garbage_ends_and_raises_nothing() -> None:
    import random

    rng = random.Random(6)
    for _ in range(3000):
        text = "".join(rng.choice('Bearer =",\\ \tx/;\u00e9\n') for _ in range(rng.randrange(40)))
        for one in parse_challenges(text):
            assert one.scheme


def test_much_is_cut() -> None:
    assert len(parse_challenges("a, " * 100_000)) <= 64
    assert len(parse_challenges("Bearer " + ",".join(f"a{n}=b" for n in range(10_000)))[0].parameters) <= 64
    assert parse_challenges('"' * 100_000) == ()
