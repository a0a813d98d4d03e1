"""Platforms: parsing, normal forms, and the order in which containerd chooses from an index."""

from __future__ import annotations

import pytest

from fastlayer.errors import ReferenceFormatError
from fastlayer.oci.platform import Platform, choose, host_platform, parse_platform

GOOD = {
    "linux/amd64": "linux/amd64",
    "linux/x86_64": "linux/amd64",
    "Linux/X86-64": "linux/amd64",
    "linux/amd64/v1": "linux/amd64",
    "linux/amd64/v3": "linux/amd64/v3",
    "linux/i386": "linux/386",
    "linux/aarch64": "linux/arm64",
    "linux/arm64": "linux/arm64",
    "linux/arm64/8": "linux/arm64/v8",
    "linux/arm64/v8": "linux/arm64/v8",
    "linux/arm64/v8.5": "linux/arm64/v8.5",
    "linux/arm": "linux/arm",
    "linux/armhf": "linux/arm",
    "linux/armel": "linux/arm/v6",
    "linux/arm/7": "linux/arm/v7",
    "linux/arm/v6": "linux/arm/v6",
    "linux/riscv64": "linux/riscv64",
    "macos/arm64": "darwin/arm64",
    "windows(10.0.17763)/amd64": "windows/amd64",
    "plan9/unheard-of/x": "plan9/unheard-of/x",
}
BAD = [
    "",
    "/",
    "linux/",
    "/amd64",
    "linux/amd64/v1/x",
    "*",
    "linux/*",
    "unheard-of",
    "li nux/amd64",
    "linux/amd64\n",
    "ä",
]


@pytest.mark.parametrize("specifier", GOOD)
def test_specifiers(specifier: str) -> None:
    assert str(parse_platform(specifier)) == GOOD[specifier]


@pytest.mark.parametrize("specifier", BAD, ids=ascii)
def test_what_is_no_platform(specifier: str) -> None:
    with pytest.raises(ReferenceFormatError) as caught:
        parse_platform(specifier)
    assert str(caught.value).isprintable()


def test_one_word_means_the_rest_of_this_machine() -> None:
    here = host_platform()
    assert parse_platform("linux") == Platform("linux", here.architecture, here.variant)
    assert parse_platform("arm64") == Platform(here.os, "arm64")
    assert parse_platform("armhf") == Platform(here.os, "arm")


def test_versions_and_features_of_an_operating_system() -> None:
    found = parse_platform("windows(10.0.17763+win32k+a%2Bb)/amd64")
    assert found == Platform("windows", "amd64", "", "10.0.17763", ("win32k", "a+b"))


@pytest.mark.parametrize(
    "machine,wanted", [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64"), ("armv7l", "linux/arm"),
                       ("armv6l", "linux/arm/v6"), ("i686", "linux/386"), ("s390x", "linux/s390x"),
                       ("loongarch64", "linux/loong64"), ("ppc64le", "linux/ppc64le")]
)  # fmt: skip
def test_the_machine_by_uname(machine: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    found = os.uname_result(("Linux", "host", "6", "#1", machine))
    monkeypatch.setattr(os, "uname", lambda: found)
    assert str(host_platform()) == wanted


PREFERENCE = {
    "linux/amd64": "amd64 386",
    "linux/amd64/v3": "amd64/v3 amd64/v2 amd64/v1 386",
    "linux/386": "386",
    "linux/arm": "arm/v7 arm/v6 arm/v5",
    "linux/arm/v8": "arm/v8 arm/v7 arm/v6 arm/v5",
    "linux/arm/v5": "arm/v5",
    "linux/arm64": "arm64 arm/v8 arm/v7 arm/v6 arm/v5",
    "linux/arm64/v8.2": "arm64/v8.2 arm64/v8.1 arm64/v8 arm/v8 arm/v7 arm/v6 arm/v5",
    "linux/arm64/v9": "arm64/v9 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64/v8 arm/v9? "
    "arm/v8 arm/v7 arm/v6 arm/v5",
    "linux/s390x": "s390x",
}


@pytest.mark.parametrize("specifier", PREFERENCE)
def test_order_of_preference(specifier: str) -> None:
    found = [str(p).removeprefix("linux/") for p in parse_platform(specifier).preference()]
    assert found == [name.replace("?", "") for name in PREFERENCE[specifier].split()]


def test_the_best_of_an_index() -> None:
    offered = [
        (None, "unknown"),
        (Platform("linux", "arm", "v6"), "v6"),
        (Platform("linux", "arm", "v7"), "v7"),
        (Platform("linux", "x86_64"), "amd64"),
        (Platform("linux", "386"), "386"),
        (Platform("windows", "amd64", "", "10.0.17763.1"), "windows"),
        (Platform("linux", "arm64", "v8"), "arm64"),
        (Platform("unknown", "unknown"), "attestation"),
    ]
    assert choose(Platform("linux", "amd64"), offered) == ["amd64", "386", "unknown"]
    assert choose(Platform("linux", "arm64"), offered) == ["arm64", "v7", "v6", "unknown"]
    assert choose(Platform("linux", "arm", "v6"), offered) == ["v6", "unknown"]
    assert choose(Platform("linux", "riscv64"), offered) == ["unknown"]
    assert choose(Platform("windows", "amd64", "", "10.0.17763"), offered) == ["windows", "unknown"]
    assert choose(Platform("windows", "amd64", "", "10.0.20348"), offered) == ["unknown"]


def test_equals_keep_their_order() -> None:
    amd64 = Platform("linux", "amd64")
    assert choose(amd64, [(amd64, 1), (amd64, 2)]) == [1, 2]


def test_features_must_be_offered() -> None:
    needs = Platform("linux", "amd64", os_features=("erofs",))
    assert not Platform("linux", "amd64").matches(needs)
    assert Platform("linux", "amd64", os_features=("x", "erofs")).matches(needs)


def test_json() -> None:
    value = {"architecture": "arm", "os": "linux", "os.version": "1", "os.features": ["f"], "variant": "v7"}
    assert Platform.from_dict(value).to_dict() == value
    for broken in ([], {"os": 1}, {"os.features": "x"}, {"os.features": [1]}):
        with pytest.raises(ValueError):
            Platform.from_dict(broken)
