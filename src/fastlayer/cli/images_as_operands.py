"""Images and writable layers of the store as operands of `fastlayer diff`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes
    from fastlayer.store.store import Store


class WritableLayer:
    """What `fastlayer diff NAME` compares with its image."""

    def __init__(self, given: dict[str, Any], name: str) -> None:
        self._given = given
        self._name = name
        self._store: Store | None = None

    def open(self, stack: ExitStack) -> None:
        """Keeps the store open as long as the changes are read."""
        self._store = stack.enter_context(stores.open_as_root(self._given))

    def changes(self) -> Changes:
        """Its changes, as the driver finds them."""
        from fastlayer.container import systempoints, writable

        assert self._store is not None
        return systempoints.changes(self._store, writable.find(self._store, self._name))


def writable_layer(given: dict[str, Any], name: bytes) -> WritableLayer:
    """One operand alone. Raises ``declare.LineError`` for a file, which needs another one beside it.

    A directory may well be called like the layer that is mounted there: then the layer is meant.
    """
    if os.path.lexists(name) and not _is_layer(given, os.fsdecode(name)):
        raise declare.LineError(f"2 operands are needed: what is {os.fsdecode(name)} to be compared with?")
    if given["compare"] != "auto" or given["xattrs"] != "all":
        raise declare.LineError("--compare and --xattrs are for trees: a writable layer is compared by its driver")
    return WritableLayer(given, os.fsdecode(name))


def _is_layer(given: dict[str, Any], name: str) -> bool:
    from fastlayer.container import writable
    from fastlayer.errors import NotFoundError, OperandError

    try:
        with stores.open_store(given) as store:
            return writable.find(store, name).name == name
    except (NotFoundError, OperandError):
        return False


def of_operand(stack: ExitStack, given: dict[str, Any], value: Any) -> Any:
    """A name that is no file, but an image of the store, as the directory it is; anything else as it is."""
    if isinstance(value, WritableLayer):
        value.open(stack)
        return value
    if not isinstance(value, (str, bytes)) or os.path.lexists(value):
        return value
    name = os.fsdecode(value)
    if name.startswith(("/", "./", "../")) or not name.isprintable():
        return value
    return _image(stack, given, name) or value


def _image(stack: ExitStack, given: dict[str, Any], name: str) -> Any:
    """None where there is no store or no such image: then it is a file that is missing."""
    from fastlayer.container.mounting import temporary
    from fastlayer.errors import NotFoundError, OperandError, ReferenceFormatError
    from fastlayer.image.images import Images

    try:
        store = stack.enter_context(stores.open_as_root(given))
        image = Images(store).find(name, stores.platform(given))
    except (NotFoundError, OperandError, ReferenceFormatError):
        if given["root"] or given["platform"]:
            raise
        return None
    warnings: list[str] = []
    place = stack.enter_context(temporary(store, image, warnings=warnings))
    output.warn(warnings, given["quiet"])
    return place
