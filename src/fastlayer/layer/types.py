"""What the public functions take. An ``int`` is always an open descriptor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fastlayer.layer.index import TreeIndex


class BinaryReader(Protocol):
    """A file object open for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


class BinaryWriter(Protocol):
    """A file object open for writing bytes."""

    def write(self, data: memoryview, /) -> int | None: ...


Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Directory: TypeAlias = Path | int
LayerSource: TypeAlias = Path | int | BinaryReader
Operand: TypeAlias = Union[LayerSource, Sequence[LayerSource], "TreeIndex", None]
Output: TypeAlias = Path | int | BinaryWriter
ChunkSource: TypeAlias = Union[str, os.PathLike[str], os.PathLike[bytes], int, "Buffer"]
