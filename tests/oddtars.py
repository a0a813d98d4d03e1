"""Layer tars of every kind of entry, and those that no table of contents can describe."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

Add = Callable[..., None]


def made(fill: Callable[[Add], object], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of what ``fill`` adds: ``add(name, data=b"", **fields of the header)``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:

        def add(name: str, data: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        fill(add)
    return out.getvalue()


def everything(add: Add) -> None:
    rng = random.Random(7)
    add("./", type=tarfile.DIRTYPE, mode=0o755)
    add("./etc/", type=tarfile.DIRTYPE, mode=0o1777, mtime=1_600_000_000.25)
    add("./etc/empty")
    add("./etc/hello", b"hello\n", uid=1000, gid=1001, uname="jane", gname="staff")
    add("./etc/link", type=tarfile.LNKTYPE, linkname="./etc/hello")
    add("./etc/symlink", type=tarfile.SYMTYPE, linkname='../x y"\\<&>\u2028')
    add("./etc/.wh.gone")
    add("./dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    add("./dev/disk", type=tarfile.BLKTYPE, devmajor=259, devminor=300)
    add("./dev/pipe", type=tarfile.FIFOTYPE)
    add('./\u00e9\u4e16\U0001f600 \x01"\\', b"name\n")
    add("./" + "long/" * 60 + "file", b"x" * 511)
    add("./times", b"t" * 512, pax_headers={"atime": "1700000001.123456789", "ctime": "-1.5", "mtime": "0.5"})
    add("./attributes", b"a", pax_headers={"SCHILY.xattr.user.a": "b=c\nd", "SCHILY.xattr.user.big": "v" * 60_000})
    add("./old", b"o", mtime=0, mode=0)
    add("./before", b"o", mtime=-86400)
    add("./random", rng.randbytes(1_500_000))
    add("./holes", rng.randbytes(70_000) + bytes(2_150_000) + rng.randbytes(70_000))
    add("./short", rng.randbytes(64 << 10))
    add("./longer", rng.randbytes((64 << 10) + 1))
    add("./mode", b"m", mode=0o100644)
    for number in range(700):
        add(f"./many/{number:04}", type=tarfile.DIRTYPE, mode=0o700)
    add("./last", b"last")


def gnu(add: Add) -> None:
    add("d" * 150 + "/" + "f" * 120, b"long name")
    add("link", type=tarfile.SYMTYPE, linkname="t" * 300)
    add("big ids", b"1", uid=3_000_000_000, gid=2_500_000)


def ustar(add: Add) -> None:
    add("prefix/" * 20 + "name", b"in two fields")
    add("one", b"1")


GOOD = {
    "everything": made(everything),
    "gnu": made(gnu, form=tarfile.GNU_FORMAT),
    "ustar": made(ustar, form=tarfile.USTAR_FORMAT),
    "nothing": bytes(1024),
    "one file": made(lambda add: add("f", b"x")),
    "padded": made(lambda add: add("f", b"x")) + bytes(700_000),
    "huge attribute": made(lambda add: add("f", b"x", pax_headers={"SCHILY.xattr.user.a": "v" * 900_000})),
    "no end": made(lambda add: add("f", b"x" * 10))[:1024],
    "no padding": made(lambda add: add("f", b"x" * 10))[:522],
    "directories": made(lambda add: [add(f"d{n:05}", type=tarfile.DIRTYPE) for n in range(3000)]),
}


def _patched(tar: bytes, place: int, data: bytes) -> bytes:
    """With other bytes in the first header, whose checksum is made to fit."""
    block = bytearray(tar[:512])
    block[place : place + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + tar[512:]


def _global(tar: bytes) -> bytes:
    header = tarfile.TarInfo.create_pax_global_header({"comment": "of all"})
    return header + tar


def _sparse() -> bytes:
    """GNU.sparse 1.0, as GNU tar writes it: 2 bytes of a file of 5000."""
    return made(
        lambda add: add(
            "GNUSparseFile.0/s",
            b"1\n4998\n2\n".ljust(512, b"\0") + b"xy",
            pax_headers={
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": "s",
                "GNU.sparse.realsize": "5000",
            },
        )
    )


_ONE = made(lambda add: add("f", b"x"))


def _twice(add: Add) -> None:
    add("a/b", b"1")
    add("./a//b", b"2")


# tar -> what the warning says
WITHOUT_TABLE = {
    "twice": (made(_twice), "two entries of a/b"),
    "latin1": (made(lambda add: add("caf\udce9", b"1")), "a name that is not UTF-8: caf"),
    "latin1 link": (
        made(lambda add: add("l", type=tarfile.SYMTYPE, linkname="caf\udce9"), form=tarfile.GNU_FORMAT),
        "a target of a link that is not UTF-8",
    ),
    "no name": (_patched(_ONE, 0, bytes(1)), "an entry without a name"),
    "global": (_global(_ONE), "a global header"),
    "sparse": (_sparse(), "a sparse file"),
    "contiguous": (_patched(_ONE, 156, b"7"), "an entry of type '7'"),
    "year": (made(lambda add: add("f", b"1", pax_headers={"mtime": "999999999999"})), "the year 9999"),
    "libarchive": (
        made(lambda add: add("f", b"1", pax_headers={"LIBARCHIVE.xattr.user.a": "YQ"})),
        "only libarchive reads",
    ),
    "size of a link": (
        _patched(
            made(lambda add: add("f", type=tarfile.SYMTYPE, linkname="x"), form=tarfile.USTAR_FORMAT),
            124,
            b"00000000017\0",
        ),
        "a size of what is no file",
    ),
}
BEHIND = _ONE + b"behind the end".ljust(512, b"\0")
