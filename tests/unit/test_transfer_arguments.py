"""Arguments of the functions of registries that are of another kind: refused in one line before anybody is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import UsageError
from tests.stores import imported, vfs_store

HERE = "localhost:1/app:1"  # where nobody answers
XYZ: Any = "xyz"
CALLS: dict[str, Callable[[Any], object]] = {
    "manifest_format='xyz'": lambda store: fastlayer.push(
        store, "app:1", HERE, fastlayer.PushOptions(manifest_format=XYZ)
    ),
    "manifest_format='xyz': use": lambda store: fastlayer.copy(
        "app:1", f"docker://{HERE}", fastlayer.CopyOptions(manifest_format=XYZ), store=store
    ),
    "manifest_format='xyz': use oci": lambda store: fastlayer.push_index(
        store, "app:1", HERE, fastlayer.PushOptions(manifest_format=XYZ)
    ),
    "level: '9' is not": lambda store: fastlayer.push(store, "app:1", HERE, fastlayer.PushOptions(level="9")),  # type: ignore[arg-type]
    "place of an image: 5": lambda store: fastlayer.push(store, "app:1", 5),  # type: ignore[arg-type]
    "place of an image: None": lambda store: fastlayer.pull(store, None),  # type: ignore[arg-type]
    "place of an image: .*Path": lambda _: fastlayer.copy("app:1", Path("x")),  # type: ignore[arg-type]
    "images: 'app:1' is no list": lambda store: fastlayer.create_index(store, "all:1", "app:1"),
    "name: None": lambda _: fastlayer.find_tags(None),  # type: ignore[arg-type]
    "registry: None": lambda _: fastlayer.find_repositories(None),  # type: ignore[arg-type]
    "registry: 1 ": lambda _: fastlayer.login(1, "me", "s3cret"),  # type: ignore[arg-type]
    "registry: 2 ": lambda _: fastlayer.logout(2),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", CALLS)
def test_what_is_of_another_kind_is_refused(message: str, tmp_path: Path) -> None:
    with vfs_store(tmp_path / "store") as store:
        imported(store, tmp_path, "app:1")
        with pytest.raises(UsageError, match=message) as caught:
            CALLS[message](store)
    assert "\n" not in str(caught.value)


def test_a_password_that_is_no_text_is_not_shown() -> None:
    with pytest.raises(UsageError, match="password: not a text, but of the type bytes") as caught:
        fastlayer.login(HERE.partition("/")[0], "me", b"s3cret")  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)
