"""Where the tables of contents of chunked layers are: annotations of their descriptors say that, or their footers.

zstd:chunked (github.com/containers/storage, pkg/chunked): zstd frames, one or more for the contents of each file;
behind them, in skippable frames, the TOC, in newer ones what the tar has besides contents (tar-split), and a footer.
The annotations say where they are and what the compressed TOC hashes to.

eStargz (github.com/containerd/stargz-snapshotter, docs/estargz.md): gzip members in the same way; the TOC is the last
file of the tar, and the footer, an empty member, says where. The annotation is the digest of its JSON.

Positions are bytes of the blob; nothing of this is to be believed before it was compared with a digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, LimitError

Kind = Literal["zstd:chunked", "estargz"]

MAX_TOC = 48 << 20  # bytes of JSON: about 150,000 files
MAX_SPLIT = 1 << 30  # bytes of JSON, read line by line
ESTARGZ_TOC = "containerd.io/snapshot/stargz/toc.digest"
ESTARGZ_SIZE = "io.containers.estargz.uncompressed-size"
ZSTD_PREFIXES = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")  # today's, and of podman before 5
ABOUT_CHUNKED = (*ZSTD_PREFIXES, "containerd.io/snapshot/stargz/", ESTARGZ_SIZE)  # how their annotations begin
CHECKSUM, POSITION = "manifest-checksum", "manifest-position"
SPLIT_CHECKSUM, SPLIT_POSITION = "tarsplit-checksum", "tarsplit-position"
SKIPPABLE = b"\x50\x2a\x4d\x18"
FRAME = 8  # bytes before what a skippable frame holds: magic, length
MAGIC = b"GNUlInUx"
ESTARGZ_FOOTER = 51  # bytes
ZSTD_FOOTER = 8 + 64  # with the header of its frame; older ones are shorter
_MAGICS = (MAGIC, b"GnUlInUx")
_NUMBERS = re.compile(r"\d{1,19}(:\d{1,19}){2,3}", re.ASCII)
_GZIP_START = b"\x1f\x8b\x08\x04"
_GZIP_EXTRA = b"\x1a\x00SG\x16\x00"
_GZIP_END = b"\x01\x00\x00\xff\xff" + bytes(8)


class Place(NamedTuple):
    """Bytes ``start`` to before ``end`` of a blob; ``expanded``: how many they become, None when it is not said."""

    start: int
    end: int
    expanded: int | None


class Announced(NamedTuple):
    """A chunked layer. ``toc``: None when the footer has to be asked; ``split``: where a tar-split is, if there is one;
    ``digest``: what the TOC has to hash to, empty when only the footer is known."""

    kind: Kind
    toc: Place | None
    split: Place | None
    digest: str


def announced(annotations: Mapping[str, str], size: int) -> Announced | None:
    """What the descriptor of a blob of ``size`` bytes says; None when it is no chunked layer.

    Raises ``LayerFormatError`` when what it says cannot be, ``LimitError`` for a TOC that is too long.
    """
    prefix = next((prefix for prefix in ZSTD_PREFIXES if prefix + CHECKSUM in annotations), "")
    if prefix and ESTARGZ_TOC in annotations:
        raise LayerFormatError("the layer says to be both zstd:chunked and eStargz")
    if prefix:
        toc = _numbers(annotations.get(prefix + POSITION, ""), 4, POSITION)
        if toc[3] != 1:
            raise LayerFormatError(f"zstd:chunked: a TOC of type {toc[3]} is not known")
        split = annotations.get(prefix + SPLIT_POSITION)
        found = None if split is None else _numbers(split, 3, SPLIT_POSITION)
        digest = _sha256(annotations[prefix + CHECKSUM])
        return _zstd(toc, found or (), size, digest)
    if ESTARGZ_TOC in annotations:
        if size <= ESTARGZ_FOOTER:
            raise LayerFormatError("eStargz: the layer has no footer")
        return Announced("estargz", None, None, _sha256(annotations[ESTARGZ_TOC]))
    return None


def from_tail(tail: bytes, size: int) -> Announced | None:
    """What the last bytes of a blob say, ``ZSTD_FOOTER`` of them or all; None when it has no footer.

    For blobs whose own digest is known to be right.
    """
    if tail[-8:] in _MAGICS:
        for length in (64, 40):
            start = len(tail) - length - FRAME
            if start >= 0 and tail[start : start + FRAME] == SKIPPABLE + length.to_bytes(4, "little"):
                numbers = [int.from_bytes(tail[at : at + 8], "little") for at in range(start + FRAME, len(tail) - 8, 8)]
                split = numbers[4:7]
                return _zstd(tuple(numbers[:4]), tuple(split) if any(split) else (), size, "")
        return None
    if len(tail) < ESTARGZ_FOOTER or not is_footer(tail[-ESTARGZ_FOOTER:]):
        return None
    return Announced("estargz", toc_place(tail[-ESTARGZ_FOOTER:], size), None, "")


def is_footer(data: bytes) -> bool:
    """Whether it looks like the footer of an eStargz layer."""
    return (
        len(data) == ESTARGZ_FOOTER
        and data.startswith(_GZIP_START)
        and data[10:16] == _GZIP_EXTRA
        and data[32:38] == b"STARGZ"
        and data.endswith(_GZIP_END)
    )


def toc_place(footer: bytes, size: int) -> Place:
    """Where the TOC is, of an eStargz layer of ``size`` bytes. Raises ``LayerFormatError``, ``LimitError``."""
    digits = footer[16:32] if is_footer(footer) else b""
    if not re.fullmatch(rb"[0-9a-f]{16}", digits):
        raise LayerFormatError("eStargz: the layer has no footer")
    return _place("eStargz: the TOC", int(digits, 16), size - ESTARGZ_FOOTER - int(digits, 16), None, size)


def _zstd(toc: tuple[int, ...], split: tuple[int, ...], size: int, digest: str) -> Announced:
    place = _place("zstd:chunked: the TOC", toc[0], toc[1], toc[2], size)
    if place.start < FRAME:
        raise LayerFormatError("zstd:chunked: the TOC has no frame")
    if not split or not split[0]:
        return Announced("zstd:chunked", place, None, digest)
    return Announced(
        "zstd:chunked",
        place,
        _place("zstd:chunked: the tar-split", split[0], split[1], split[2], size, MAX_SPLIT),
        digest,
    )


def _place(what: str, start: int, length: int, expanded: int | None, size: int, most: int = MAX_TOC) -> Place:
    if not 0 <= start < size or not 0 < length <= size - start or expanded == 0:
        raise LayerFormatError(f"{what} is said to be where the layer has nothing")
    if length > MAX_TOC or (expanded or 0) > most:
        raise LimitError(f"{what} is longer than {most} bytes")
    return Place(start, start + length, expanded)


def _numbers(text: str, count: int, what: str) -> tuple[int, ...]:
    if not _NUMBERS.fullmatch(text) or text.count(":") != count - 1:
        raise LayerFormatError(f"zstd:chunked: {what} is no position")
    return tuple(int(part) for part in text.split(":"))


def _sha256(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise LayerFormatError("the digest of the TOC is no sha256 digest")
    return text
