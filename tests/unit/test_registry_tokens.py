"""Being let in: tokens by scope, kept, shared by threads, refreshed; basic; anonymous; no secret anywhere."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping

import pytest

from fastlayer.errors import NotFoundError, RegistryDeniedError, RegistryError
from fastlayer.registry.client import Registry
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Budget, Endpoint
from fastlayer.registry.scopes import covers, merge_scopes, repository_scope
from tests.registry_server import RegistryServer

JANE = Credential("jane", "s3cret-pa55")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        found.auth = "token"
        found.add_manifest("a", "latest", {"schemaVersion": 2})
        found.add_manifest("b", "latest", {"schemaVersion": 2})
        yield found


def registry(server: RegistryServer, who: Credential | None = None, **settings: object) -> Registry:
    return Registry(
        Endpoint(server.url),
        credentials=lambda: who,
        budget=Budget(1),  # a token must not need a second connection
        **settings,  # type: ignore[arg-type]
    )


def test_scopes() -> None:
    assert repository_scope("a/b", "push", "pull") == "repository:a/b:pull,push"
    merged = merge_scopes(
        ["repository:b:pull", "repository:a:push", "repository:a:pull,push", "", "x", "registry:catalog:*"]
    )
    assert merged == ("registry:catalog:*", "repository:a:pull,push", "repository:b:pull")
    assert merge_scopes(["repository:h:5000/a:pull"]) == ("repository:h:5000/a:pull",)
    assert covers(merged, ("repository:a:pull",)) and covers(merged, ())
    assert not covers(merged, ("repository:a:delete",)) and not covers(merged, ("repository:c:pull",))


def test_anonymous_tokens_are_kept_per_scope(server: RegistryServer) -> None:
    with registry(server) as found:
        for _ in range(3):
            found.repository("a").manifest("latest")
        found.repository("b").manifest("latest")
    assert [one.partition("&scope=")[2] for one in server.calls("/token")] == [
        "repository%3Aa%3Apull",
        "repository%3Ab%3Apull",
    ]
    assert "service=the%2C+registry" in server.calls("/token")[0]
    assert len(server.calls("/manifests/")) == 5  # one 401 in all


def test_a_password_is_sent_to_the_token_server_only(server: RegistryServer) -> None:
    with registry(server, JANE) as found:
        found.repository("a").push_bytes(b"blob")
        found.repository("a").manifest("latest")  # the token for pushing is good for that
    assert len(server.calls("/token")) == 1 and "account=jane" in server.calls("/token")[0]
    for one in server.seen:
        basic = one.headers.get("Authorization", "").startswith("Basic ")
        assert basic == one.path.startswith("/token")


def test_a_wrong_password(server: RegistryServer) -> None:
    with registry(server, Credential("jane", "wr0ng-pass")) as found, pytest.raises(RegistryDeniedError) as caught:
        found.repository("a").manifest("latest")
    text = str(caught.value)
    assert "token: status 401" in text and "incorrect username or password" in text
    assert text.endswith(f": the login of jane is not taken, log in anew: fastlayer login {server.host}")
    assert "wr0ng" not in text and "amFuZTp3cjBuZy1wYXNz" not in text


def test_what_anonymous_tokens_do_not_allow(server: RegistryServer) -> None:
    with registry(server) as found, pytest.raises(RegistryDeniedError, match="UNAUTHORIZED: authentication required"):
        found.repository("a").push_bytes(b"blob")
    assert len(server.seen) < 8


def test_identity_tokens(server: RegistryServer) -> None:
    with registry(server, Credential(identity_token="identity-t0ken")) as found:
        found.repository("a").push_bytes(b"blob")
    seen = server.last("/token")
    assert seen.method == "POST" and b"grant_type=refresh_token" in seen.body and b"client_id=fastlayer" in seen.body
    assert b"scope=repository%3Aa%3Apull%2Cpush" in seen.body
    server.post_tokens = False
    with registry(server, JANE._replace(identity_token="identity-t0ken")) as found:
        found.repository("a").manifest("latest")  # by the password then
    with registry(server, Credential(identity_token="old")) as found, pytest.raises(RegistryError, match="status 405"):
        found.repository("a").manifest("latest")


def test_a_login_gets_an_identity_token(server: RegistryServer) -> None:
    with registry(server, JANE, offline=True) as found:
        found.ping()
        assert found.tokens.identity_token == "identity-t0ken"
        found.repository("a").manifest("latest")
    assert [one.method for one in server.seen if one.path.startswith("/token")] == ["GET", "POST"]
    with registry(server, JANE) as found:
        found.ping()
        assert found.tokens.identity_token == ""


def test_a_registry_token_is_taken_as_it_is(server: RegistryServer) -> None:
    token = server.new_token(["repository:a:pull"])
    with registry(server, Credential(registry_token=token)) as found:
        found.repository("a").manifest("latest")
        with pytest.raises(RegistryDeniedError):
            found.repository("b").manifest("latest")
    with registry(server, Credential(registry_token="b4d\r\nX: y")) as found, pytest.raises(RegistryError) as caught:
        found.repository("a").manifest("latest")
    assert "b4d" not in str(caught.value)
    assert not server.calls("/token")


def test_tokens_are_renewed_before_they_end(server: RegistryServer) -> None:
    now = 0.0
    server.expires_in = 100
    with registry(server) as found:
        found.tokens._clock = lambda: now
        for now, count in ((0.0, 1), (79.0, 1), (81.0, 2), (150.0, 2), (162.0, 3)):  # noqa: B007
            found.repository("a").manifest("latest")
            assert len(server.calls("/token")) == count
    assert len(server.calls("/manifests/")) == 6  # never one that had ended


@pytest.mark.parametrize("life", [0, -5, None, "300", True, 10**30])
def test_tokens_that_do_not_say_how_long_live_a_minute(server: RegistryServer, life: object) -> None:
    now = 0.0
    server.expires_in = life
    with registry(server) as found:
        found.tokens._clock = lambda: now
        for now, count in ((0.0, 1), (47.0, 1), (49.0, 2)):  # noqa: B007
            found.repository("a").manifest("latest")
            assert len(server.calls("/token")) == count


def test_a_token_that_is_taken_no_longer_is_replaced(server: RegistryServer) -> None:
    with registry(server) as found:
        found.repository("a").manifest("latest")
        server.revoke()
        found.repository("a").manifest("latest")
    assert len(server.calls("/token")) == 2


def test_one_that_never_helps_is_no_circle(server: RegistryServer) -> None:
    server.anonymous = ()
    with registry(server) as found, pytest.raises(RegistryDeniedError, match="status 401"):
        found.repository("a").manifest("latest")
    assert len(server.calls("/manifests/")) <= 3 and len(server.calls("/token")) <= 3


def test_many_threads_and_one_token(server: RegistryServer) -> None:
    with registry(server) as found:
        found.repository("b").manifest("latest")
        server.fail("/token", wait=0.05)
        assert together(lambda: found.repository("a").manifest("latest").media_type, 8) == 8
    assert len(server.calls("/token.*aa?%3Apull|/token.*Aa%3A")) == 1


def test_many_threads_and_one_refusal(server: RegistryServer) -> None:
    failed: list[str] = []

    def ask() -> None:
        try:
            found.tokens.authorization(("repository:a:pull",))
        except RegistryError as exc:
            failed.append(str(exc))

    with Registry(Endpoint(server.url)) as found:
        found.repository("b").manifest("latest")
        server.fail("/token", status=503, wait=0.1)
        together(ask, 6)
        asked = len(server.calls("/token.*Aa%3A"))
        assert len(failed) == 6 and asked < 4
        server.faults.clear()
        assert found.tokens.authorization(("repository:a:pull",)).startswith("Bearer ")


def together(work: object, count: int) -> int:
    done: list[object] = []
    threads = [threading.Thread(target=lambda: done.append(work())) for _ in range(count)]  # type: ignore[operator]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done)


def test_mounts_ask_for_both_repositories(server: RegistryServer) -> None:
    digest = server.add_blob("b", b"layer")
    with registry(server, JANE) as found:
        assert found.repository("a").mount_blob(digest, "b") is None
    assert "scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull" in server.calls("/token")[0]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": b"{}"},
        {"status": 200, "body": b"<html>"},
        {"status": 200, "body": json.dumps({"token": 7}).encode()},
        {"status": 200, "body": json.dumps({"token": "a b\nc"}).encode()},
        {"status": 200, "body": b" " * (2 << 20)},
        {"status": 500, "body": b""},
        {"status": 302, "headers": {"Location": "/token"}},
    ],
)
def test_token_servers_that_are_none(server: RegistryServer, answer: Mapping[str, object]) -> None:
    server.fail("/token", **answer)
    with registry(server, JANE) as found, pytest.raises(RegistryError) as caught:
        found.repository("a").manifest("latest")
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_identity_tokens_do_not_follow_redirects(server: RegistryServer) -> None:
    with RegistryServer() as other:
        server.fail("/token", status=307, headers={"Location": other.url + "/token"})
        who = Credential(identity_token="identity-t0ken")
        with registry(server, who) as found, pytest.raises(RegistryError, match="redirects to"):
            found.repository("a").manifest("latest")
        assert not other.seen


def test_a_token_server_that_is_not_there_is_no_missing_image(server: RegistryServer) -> None:
    server.fail("/token", status=404)
    with registry(server) as found, pytest.raises(RegistryError, match="token: status 404") as caught:
        found.repository("a").manifest("latest")
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize("realm", ["http://example.com/token", "ftp://x", "nothing", "https://[bad"])
def test_realms_that_are_not_asked(server: RegistryServer, realm: str) -> None:
    server.realm = realm
    with registry(server, JANE) as found, pytest.raises(RegistryError, match=r"plain HTTP|not an http or https"):
        found.repository("a").manifest("latest")


def test_basic(server: RegistryServer) -> None:
    server.auth = "basic"
    with registry(server, JANE) as found:
        found.ping()
        found.repository("a").manifest("latest")
    assert len(server.seen) == 3
    for who in (None, Credential("jane", "wr0ng")):
        with registry(server, who) as found, pytest.raises(RegistryDeniedError) as caught:
            found.ping()
        anew = "the login of jane is not taken, log in anew: " if who else ""
        assert str(caught.value).endswith(f"UNAUTHORIZED: authentication required: {anew}fastlayer login {server.host}")


def test_challenges_of_others_are_not_answered(server: RegistryServer) -> None:
    with RegistryServer() as other:
        other.auth = "basic"
        digest = other.add_blob("a", b"x")
        server.auth = ""
        server.add_blob("a", b"x")
        server.blobs_at = other.url
        with registry(server, JANE) as found, pytest.raises(RegistryDeniedError):
            found.repository("a").blob(digest)
        assert len(other.seen) == 1 and "Authorization" not in other.seen[0].headers


def test_other_schemes(server: RegistryServer) -> None:
    server.fail("/v2/", status=401, headers={"WWW-Authenticate": "Negotiate, Digest realm=x"})
    with (
        registry(server, JANE) as found,
        pytest.raises(RegistryDeniedError, match="by negotiate, digest, not by basic"),
    ):
        found.ping()
    server.faults.clear()
    server.fail("/v2/", status=401)
    with registry(server, JANE) as found, pytest.raises(RegistryDeniedError, match="wants a login"):
        found.ping()


def test_no_secret_is_shown(server: RegistryServer, caplog: pytest.LogCaptureFixture) -> None:
    who = Credential("jane", "s3cret-pa55", "identity-t0ken", "")
    assert repr(who) == str(who) == "Credential()"
    caplog.set_level(logging.DEBUG)
    with registry(server, JANE) as found:
        found.repository("a").push_bytes(b"blob")
        token = found.tokens.authorization(("repository:a:pull",)).removeprefix("Bearer ")
        shown = repr((found, found.tokens, vars(found.tokens), [vars(s) for s in found.tokens._slots.values()]))
        server.fail("/v2/a/manifests", status=500, body=f"you sent {token} s3cret-pa55".encode())
        with pytest.raises(RegistryError) as caught:
            found.repository("a").manifest("latest")
    for secret in (token, "s3cret", "amFuZTpzM2NyZXQtcGE1NQ=="):
        assert secret not in shown and secret not in caplog.text and secret not in str(caught.value)
