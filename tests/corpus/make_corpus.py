"""The tar corpus: one small archive per property, in tar/accept and tar/refuse, PAX bodies in pax/.

``python -m tests.corpus.make_corpus`` writes the files; a test holds them equal to this script. The file name
says the property, with the advisory where there is one. Expectations stand here, beside the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.corpus.tarparts import (
    BLOCK,
    END,
    GNU,
    POSIX,
    V7,
    base256,
    gnu_sparse,
    header,
    long_name,
    member,
    padded,
    pax,
    raw_pax,
    record,
    records,
)

HERE = Path(__file__).parent
Expect = list[dict[str, Any]] | None


class Case(NamedTuple):
    """``expect``: None when the archive must be refused, else one dict per entry with the fields that matter;
    ``content`` is the expanded content of a regular file."""

    name: str
    data: bytes
    expect: Expect

    @property
    def path(self) -> Path:
        return HERE / "tar" / ("refuse" if self.expect is None else "accept") / f"{self.name}.tar"


def accept(name: str, data: bytes, *items: dict[str, Any]) -> Case:
    return Case(name, data + END, list(items))


def refuse(name: str, data: bytes) -> Case:
    return Case(name, data + END, None)


NEXT = member(b"next", body=b"n")
AFTER = {"path": b"next", "content": b"n"}


def numbers() -> Iterator[Case]:
    def one(name: str, item: dict[str, Any] | None, **fields: Any) -> Case:
        data = member(**fields) + NEXT
        return refuse(name, data) if item is None else accept(name, data, item, AFTER)

    yield one("octal-blanks-before-and-after", {"mode": 0o755, "uid": 8}, mode=b"   755 \0", uid=b"  10    ")
    yield one("octal-eight-digits-without-end", {"uid": 0o77777777}, uid=b"77777777")
    yield one("octal-mtime-twelve-digits", {"mtime_ns": 0o777777777777 * 10**9}, mtime=b"7" * 12)
    yield one("octal-stale-bytes-after-nul", {"uid": 8}, uid=b"10\0garb.")
    yield one("octal-empty-is-zero", {"uid": 0, "mode": 0, "mtime_ns": 0}, uid=b"", mode=b" ", mtime=b"")
    yield one("mode-file-type-bits-dropped", {"mode": 0o4755}, mode=0o104755)
    yield one(
        "base256-uid-gid", {"uid": 2**31 + 5, "gid": 2**32 - 2}, uid=base256(2**31 + 5, 8), gid=base256(2**32 - 2, 8)
    )
    yield one("base256-mtime-negative", {"mtime_ns": -(10**9)}, mtime=base256(-1, 12))
    yield one("base256-mtime-largest", {"mtime_ns": (2**63 - 1) * 10**9}, mtime=base256(2**63 - 1, 12))
    yield one("base256-size", {"size": 3, "content": b"abc"}, body=b"abc", size=base256(3, 12))
    for label, text in {
        "python-prefix": b"0o17",
        "python-underscore": b"1_7",
        "plus": b"+17",
        "minus": b"-1",
        "digit-eight": b"0000018",
        "digit-nine": b"9",
        "hexadecimal": b"0x1f",
        "text": b"root",
        "digits-after-blank": b"10 10",
        "digits-after-leading-nul": b"\x0010",
        "garbage-after-blank": b"10 x",
    }.items():
        yield one(f"number-{label}-in-uid", None, uid=text)
        yield one(f"number-{label}-in-size", None, size=text)
    yield one("number-garbage-in-mode", None, mode=b"rwx")
    yield one("number-garbage-in-mtime", None, mtime=b"now")
    yield one("base256-size-negative-cve-2025-8194", None, size=base256(-512, 12))
    yield one("base256-size-overflow", None, size=b"\x80\xff" + b"\xff" * 10)
    yield one("base256-mode-negative", None, mode=base256(-1, 8))
    yield one("base256-mtime-overflow", None, mtime=base256(2**63, 12))
    yield one("uid-minus-one", None, uid=base256(-1, 8))
    yield one("uid-2-32-minus-1", None, uid=base256(2**32 - 1, 8))
    yield one("gid-2-32", None, gid=base256(2**32, 8))


def checksums() -> Iterator[Case]:
    high = b"\xff\xfe\xe9"
    yield accept("checksum-signed-tolerated", member(high, body=b"1", check="signed") + NEXT, {"path": high}, AFTER)
    yield accept("checksum-seven-digits", member(check=b"%07o\0" % _sum_of(member())) + NEXT, {}, AFTER)
    yield refuse("checksum-wrong", member(check=b"0000001") + NEXT)
    yield refuse("checksum-empty", member(check=b"") + NEXT)
    yield refuse("checksum-base256", member(check=base256(_sum_of(member()), 8)) + NEXT)
    yield refuse("not-a-tar-text", b"#!/bin/sh\necho hello\n".ljust(BLOCK, b"\n"))


def _sum_of(block: bytes) -> int:
    return int(block[148:154], 8)


def magics() -> Iterator[Case]:
    yield accept("prefix-posix", header(b"name", prefix=b"dir/sub"), {"path": b"dir/sub/name"})
    yield accept("prefix-posix-full", header(b"n" * 100, prefix=b"p" * 155), {"path": b"p" * 155 + b"/" + b"n" * 100})
    yield accept("prefix-gnu-is-not-one", header(b"name", magic=GNU, prefix=b"dir"), {"path": b"name"})
    yield accept("prefix-v7-is-not-one", header(b"name", magic=V7, prefix=b"dir"), {"path": b"name"})
    star = {345: b"p" * 131, 476: b"00000000012\0" * 2, 508: b"tar\0"}
    yield accept("prefix-star-131-bytes", header(b"name", patch=star), {"path": b"p" * 131 + b"/name"})
    yield accept("name-hundred-bytes-without-nul", header(b"x" * 100), {"path": b"x" * 100})
    yield accept("name-bytes-not-utf8", header(b"\xff\\\xc3"), {"path": b"\xff\\\xc3"})
    yield accept("name-empty", header(b"", size=0) + NEXT, {"path": b""}, AFTER)
    yield accept(
        "v7-directory-by-slash",
        member(b"d/", b"\0", magic=V7, size=99) + NEXT,
        {"type": "5", "path": b"d/", "size": 0},
        AFTER,
    )
    yield accept("v7-file", member(b"f", b"\0", b"x", magic=V7), {"type": "0", "content": b"x"})
    yield accept("directory-by-slash-type-0", member(b"d/") + NEXT, {"type": "5"}, AFTER)
    yield accept(
        "directory-by-slash-in-pax-path", pax(("path", b"d/")) + member(b"f", b"\0") + NEXT, {"type": "5"}, AFTER
    )
    yield refuse("file-with-slash-and-body", member(b"d/", body=b"x") + NEXT)


def types() -> Iterator[Case]:
    yield accept(
        "type-7-contiguous-is-a-file", member(type=b"7", body=b"c") + NEXT, {"type": "0", "content": b"c"}, AFTER
    )
    for type, label in {
        b"1": "hardlink",
        b"2": "symlink",
        b"3": "char",
        b"4": "block",
        b"5": "directory",
        b"6": "fifo",
    }.items():
        link = b"t" if type in b"12" else b""
        item = {"type": type.decode(), "size": 0, "link": link}
        yield accept(f"{label}-has-no-body", header(b"e", type, link=link, size=4096) + NEXT, item, AFTER)
        big = pax(("size", b"1073741824"))
        yield accept(f"{label}-has-no-body-pax-size", big + header(b"e", type, link=link) + NEXT, item, AFTER)
    yield accept("device-numbers", header(b"c", b"3", major=4095, minor=1048575), {"rdev": (4095, 1048575)})
    yield accept(
        "device-numbers-base256", header(b"c", b"4", major=base256(8, 8), minor=base256(300, 8)), {"rdev": (8, 300)}
    )
    yield accept("device-numbers-only-of-devices", header(major=b"junk", minor=b"junk"), {"rdev": (0, 0)})
    yield refuse("device-major-4096", header(b"c", b"3", major=4096))
    yield refuse("device-minor-1048576", header(b"c", b"3", minor=0o4000000))
    yield refuse("device-minor-negative", header(b"c", b"3", minor=base256(-1, 8)))
    yield refuse("device-minor-text", header(b"c", b"4", minor=b"tty"))
    yield refuse("symlink-without-target", header(b"l", b"2"))
    yield refuse("hardlink-without-target", header(b"l", b"1"))
    for type in (b"8", b"A", b"D", b"M", b"N", b"V", b"X", b"z", b"\xff"):
        yield refuse(f"type-unknown-{type.hex()}", member(type=type, body=b"x") + NEXT)


def pax_records() -> Iterator[Case]:
    def one(name: str, item: dict[str, Any] | None, *pairs: tuple[str | bytes, bytes], **fields: Any) -> Case:
        data = pax(*pairs) + member(**fields) + NEXT
        return refuse(name, data) if item is None else accept(name, data, item, AFTER)

    long = b"d/" * 150 + b"f"
    yield one("pax-path", {"path": long}, ("path", long))
    yield one("pax-path-equals-and-newline", {"path": b"a=b\nc"}, ("path", b"a=b\nc"))
    inner = b"a\n22 linkpath=/etc/passwd\nb"
    yield one("pax-record-inside-a-value-tar-rs-476", {"path": inner, "link": b""}, ("path", inner))
    yield one("pax-linkpath", {"link": long}, ("linkpath", long), type=b"2")
    yield one("pax-ids", {"uid": 4294967294, "gid": 3000000}, ("uid", b"4294967294"), ("gid", b"3000000"))
    yield one("pax-last-of-equal-keys", {"path": b"two"}, ("path", b"one"), ("path", b"two"))
    yield one("pax-empty-value-unsets", {"path": b"f"}, ("path", b"one"), ("path", b""))
    yield one(
        "pax-unknown-keys",
        {"path": b"f"},
        ("comment", b"\0\xff"),
        ("VENDOR.x", b"1"),
        ("uname", b"me"),
        ("atime", b"x"),
    )
    yield one("pax-hdrcharset-binary", {"path": b"\xff"}, ("hdrcharset", b"BINARY"), ("path", b"\xff"))
    yield one("pax-size-wins-over-zero-cve-2025-62518", {"content": b"abc"}, ("size", b"3"), body=b"abc", size=0)
    yield one("pax-size-wins-over-larger", {"content": b"abc"}, ("size", b"3"), body=b"abc", size=1536)
    size_zero = pax(("size", b"0")) + header(size=512) + NEXT
    yield accept("pax-size-zero-wins-cve-2026-33055", size_zero, {"content": b""}, AFTER)
    between = pax(("size", b"3")) + long_name(b"long") + member(body=b"abc", size=0) + NEXT
    yield accept(
        "pax-size-not-of-a-long-name-between-ghsa-3cv2-h65g-fgmm", between, {"path": b"long", "content": b"abc"}, AFTER
    )
    between = long_name(b"long") + pax(("size", b"3")) + member(body=b"abc", size=0) + NEXT
    yield accept("pax-size-after-a-long-name", between, {"path": b"long", "content": b"abc"}, AFTER)
    yield accept("pax-header-empty", raw_pax(b"") + NEXT, AFTER)
    yield accept("pax-ends-with-its-entry", pax(("path", b"one")) + member() + NEXT, {"path": b"one"}, AFTER)
    yield one("pax-value-long-length-digits", {"path": b"f"}, ("comment", b"c" * 2000))
    for label, raw in {
        "length-zero-cve-2019-20907": b"0 path=x\n",
        "length-missing": b" path=x\n",
        "length-negative": b"-9 path=x\n",
        "length-plus": b"+9 path=x\n",
        "length-underscore": b"1_0 path=x\n",
        "length-ten-digits": b"0000000010 path=x\n",
        "length-beyond-the-body": b"99 path=x\n",
        "length-short-by-one": b"8 path=x\n",
        "length-only": b"3 \n",
        "length-cuts-itself": b"1 path=x\n",
        "no-equals": b"9 path_x\n",
        "no-key": b"7 =abc\n",
        "no-newline": b"9 path=xy",
        "no-blank": b"9\tpath=x\n",
        "nul-in-key": b"11 pa\0th=x\n",
        "nul-padding": b"9 path=x\n\0\0\0",
        "second-record-garbage": b"9 path=x\ngarbage",
    }.items():
        yield refuse(f"pax-{label}", raw_pax(raw) + NEXT)
    yield one("pax-path-with-nul", None, ("path", b"a\0b"))
    yield one("pax-linkpath-with-nul", None, ("linkpath", b"a\0b"), type=b"2")
    for key in ("size", "uid", "gid"):
        for label, value in {
            "plus": b"+1",
            "negative": b"-1",
            "underscore": b"1_0",
            "hex": b"0x1",
            "blank": b" 1",
            "text": b"one",
        }.items():
            yield one(f"pax-{key}-{label}", None, (key, value))
    yield one("pax-size-2-63", None, ("size", b"9223372036854775808"))
    yield one("pax-uid-2-32-minus-1", None, ("uid", b"4294967295"))
    yield one("pax-gid-2-64", None, ("gid", b"18446744073709551616"))
    yield refuse("pax-two-headers-for-one-entry", pax(("path", b"a")) + pax(("path", b"b")) + NEXT)
    yield refuse("pax-without-entry", NEXT + pax(("path", b"a")))
    yield refuse("pax-bad-although-unused", pax(("mtime", b"1")) + raw_pax(b"bad", b"g") + NEXT)


def times() -> Iterator[Case]:
    for text, ns in {
        b"1": 10**9,
        b"1.5": 1_500_000_000,
        b"1.": 10**9,
        b"0.000000001": 1,
        b"1.9999999999999": 1_999_999_999,
        b"-1.5": -1_500_000_000,
        b"-0.25": -250_000_000,
        b"-1": -(10**9),
        b"-0.0000000001": 0,
        b"0000000000001": 10**9,
        b"9223372036854775807": (2**63 - 1) * 10**9,
    }.items():
        yield accept(f"mtime-{text.decode()}", pax(("mtime", text)) + NEXT, AFTER | {"mtime_ns": ns})
    for label, text in {
        "nan": b"nan",
        "inf": b"inf",
        "exponent": b"1e9",
        "underscore": b"1_0",
        "blank-before": b" 17",
        "blank-after": b"17 ",
        "plus": b"+17",
        "two-dots": b"1.5.0",
        "no-whole-part": b".5",
        "minus-only": b"-",
        "two-minuses": b"--1",
        "fraction-letters": b"1.5x",
        "fraction-minus": b"1.-5",
        "fraction-letters-after-nine-digits": b"1.123456789z",
        "newline": b"1\n",
        "fullwidth-digit": "１".encode(),
        "2-63": b"9223372036854775808",
    }.items():
        yield refuse(f"mtime-{label}", pax(("mtime", text)) + NEXT)


def xattrs() -> Iterator[Case]:
    def one(name: str, expected: tuple[tuple[bytes, bytes], ...] | None, *pairs: tuple[str | bytes, bytes]) -> Case:
        data = pax(*pairs) + NEXT
        return refuse(name, data) if expected is None else accept(name, data, AFTER | {"xattrs": expected})

    yield one(
        "xattr-sorted",
        ((b"user.a", b"1"), (b"user.a.b", b"3"), (b"user.b", b"2")),
        ("SCHILY.xattr.user.b", b"2"),
        ("SCHILY.xattr.user.a", b"1"),
        ("SCHILY.xattr.user.a.b", b"3"),
    )
    yield one("xattr-raw-bytes", ((b"user.x", b"\0\n=\xff"),), ("SCHILY.xattr.user.x", b"\0\n=\xff"))
    yield one("xattr-empty-value-is-a-value", ((b"user.x", b""),), ("SCHILY.xattr.user.x", b""))
    yield one(
        "xattr-last-of-equal-names", ((b"user.x", b"2"),), ("SCHILY.xattr.user.x", b"1"), ("SCHILY.xattr.user.x", b"2")
    )
    yield one("xattr-libarchive", ((b"user.a=b", b"\x00\xff!"),), ("LIBARCHIVE.xattr.user.a%3Db", b"AP8h"))
    yield one("xattr-libarchive-without-padding", ((b"user.x", b"ab"),), ("LIBARCHIVE.xattr.user.x", b"YWI"))
    yield one("xattr-libarchive-with-padding", ((b"user.x", b"a"),), ("LIBARCHIVE.xattr.user.x", b"YQ=="))
    yield one(
        "xattr-schily-before-libarchive",
        ((b"user.x", b"s"),),
        ("SCHILY.xattr.user.x", b"s"),
        ("LIBARCHIVE.xattr.user.x", b"bA"),
    )
    yield one("xattr-name-255", ((b"user." + b"n" * 250, b"1"),), (b"SCHILY.xattr.user." + b"n" * 250, b"1"))
    yield one("xattr-of-other-vendors-ignored", (), ("RHT.security.selinux", b"x"), ("SCHILY.acl.access", b"user::rw-"))
    yield one("xattr-name-256", None, (b"SCHILY.xattr." + b"n" * 256, b"1"))
    yield one("xattr-name-empty", None, ("SCHILY.xattr.", b"1"))
    yield one("xattr-libarchive-bad-percent", None, ("LIBARCHIVE.xattr.user.%4", b"YQ"))
    yield one("xattr-libarchive-percent-nul", None, ("LIBARCHIVE.xattr.user.%00", b"YQ"))
    yield one("xattr-libarchive-bad-base64", None, ("LIBARCHIVE.xattr.user.x", b"Y"))
    yield one("xattr-libarchive-base64-letters", None, ("LIBARCHIVE.xattr.user.x", b"Y*=="))


def globals_and_long_names() -> Iterator[Case]:
    comment = pax(("comment", b"0123456789abcdef"), type=b"g")
    yield accept("global-comment-git-archive", comment + NEXT, AFTER)
    evil = pax(("path", b"evil"), ("size", b"0"), ("linkpath", b"x"), ("uid", b"7"), ("mtime", b"9"), type=b"g")
    yield accept("global-does-not-rename-or-resize", evil + NEXT + NEXT, AFTER | {"uid": 0, "mtime_ns": 0}, AFTER)
    yield accept("global-between-pax-and-entry", pax(("path", b"p")) + comment + NEXT, AFTER | {"path": b"p"})
    yield accept("global-last", NEXT + comment, AFTER)
    yield refuse("global-malformed", raw_pax(b"0 a=b\n", b"g") + NEXT)
    long = b"d/" * 100 + b"f"
    yield accept("long-name", long_name(long) + NEXT, AFTER | {"path": long})
    yield accept("long-name-without-nul", long_name(b"x" * 512, nul=False) + NEXT, AFTER | {"path": b"x" * 512})
    yield accept("long-name-cut-at-nul", long_name(b"a\0/../evil") + NEXT, AFTER | {"path": b"a"})
    yield accept("long-name-empty-is-none", long_name(b"") + NEXT, AFTER)
    link = long_name(b"t" * 300, b"K")
    yield accept("long-link", link + header(b"l", b"2", magic=GNU), {"type": "2", "link": b"t" * 300})
    both = long_name(b"n" * 200) + link + header(b"l", b"1", magic=GNU) + NEXT
    yield accept("long-name-and-link", both, {"path": b"n" * 200, "link": b"t" * 300}, AFTER)
    yield accept("pax-path-before-long-name", pax(("path", b"p")) + long_name(b"l") + NEXT, AFTER | {"path": b"p"})
    yield refuse("long-name-twice", long_name(b"a") + long_name(b"b") + NEXT)
    yield refuse("long-name-without-entry", NEXT + long_name(b"a"))
    yield refuse("long-name-size-negative", header(b"L", b"L", size=base256(-1, 12)) + NEXT)


def old_sparse() -> Iterator[Case]:
    def one(name: str, item: dict[str, Any] | None, *args: Any, **kw: Any) -> Case:
        data = gnu_sparse(*args, **kw) + NEXT
        return refuse(name, data) if item is None else accept(name, data, item, AFTER)

    yield one(
        "sparse-gnu",
        {"sparse": True, "size": 12, "content": b"\0\0ab\0\0cd\0\0\0\0"},
        [(2, 2), (6, 2), (12, 0)],
        b"abcd",
        12,
    )
    many = [(i * 2, 1) for i in range(40)]
    content = b"".join(b"%c\0" % (65 + i) for i in range(40))
    yield one("sparse-gnu-extension-blocks", {"content": content}, many, bytes(range(65, 105)), 80)
    yield one("sparse-gnu-all-hole", {"size": 1000, "content": b"\0" * 1000}, [(1000, 0)], b"", 1000)
    yield one("sparse-gnu-no-segments", {"size": 1000}, [], b"", 1000)
    huge = [(base256(2**60 - 1, 12), 1)]
    yield one("sparse-gnu-huge-hole", {"size": 2**60}, huge, b"z", base256(2**60, 12))
    yield one("sparse-gnu-overlap", None, [(0, 2), (1, 2)], b"abcd", 10)
    yield one("sparse-gnu-order-cve-2019-9923", None, [(6, 2), (2, 2)], b"abcd", 12)
    yield one("sparse-gnu-beyond-size", None, [(0, 4)], b"abcd", 3)
    yield one("sparse-gnu-fewer-bytes-than-map", None, [(0, 4)], b"abc", 4)
    yield one("sparse-gnu-more-bytes-than-map", None, [(0, 2)], b"abc", 4)
    yield one("sparse-gnu-negative-offset", None, [(base256(-1, 12), 1)], b"a", 4)
    yield one("sparse-gnu-negative-length", None, [(0, base256(-1, 12))], b"", 4)
    yield one("sparse-gnu-negative-realsize", None, [(0, 1)], b"a", base256(-1, 12))
    yield one(
        "sparse-gnu-sum-overflow",
        None,
        [(base256(2**63 - 1, 12), base256(2**63 - 1, 12))],
        b"a",
        base256(2**63 - 1, 12),
    )
    yield one("sparse-gnu-realsize-garbage", None, [(0, 1)], b"a", b"big")
    yield one("sparse-gnu-posix-magic", None, [(0, 1)], b"a", 1, magic=POSIX)
    yield refuse("sparse-gnu-with-pax-size", pax(("size", b"1")) + gnu_sparse([(0, 1)], b"a", 1))
    yield Case("sparse-gnu-extension-missing", gnu_sparse([(i, 1) for i in range(5)], b"", 5, size=5)[:BLOCK], None)


def sparse_1_0(map_text: bytes, body: bytes, *more: tuple[str, bytes], size: int | None = None) -> bytes:
    keys = {
        "GNU.sparse.major": b"1",
        "GNU.sparse.minor": b"0",
        "GNU.sparse.name": b"real",
        "GNU.sparse.realsize": b"10",
    }
    keys |= dict(more)
    stored = padded(map_text) + body
    extra = {} if size is None else {"size": size}
    return pax(*keys.items()) + member(b"GNUSparseFile.0/real", body=stored, **extra) + NEXT


def pax_sparse() -> Iterator[Case]:
    item = {"path": b"real", "sparse": True, "size": 10, "content": b"\0\0ab\0\0cd\0\0"}
    base = {"GNU.sparse.size": b"10", "GNU.sparse.numblocks": b"2"}
    pairs = [
        ("GNU.sparse.offset", b"2"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"6"),
        ("GNU.sparse.numbytes", b"2"),
    ]

    def zero(
        name: str, expected: dict[str, Any] | None, *records: tuple[str | bytes, bytes], body: bytes = b"abcd"
    ) -> Case:
        data = pax(*records) + member(b"real", body=body) + NEXT
        return refuse(name, data) if expected is None else accept(name, data, expected, AFTER)

    yield zero("sparse-0.0", item, *base.items(), *pairs)
    yield zero(
        "sparse-0.0-fewer-blocks-than-said", None, ("GNU.sparse.size", b"10"), ("GNU.sparse.numblocks", b"3"), *pairs
    )
    yield zero("sparse-0.0-offset-twice", None, *base.items(), pairs[0], pairs[0], *pairs)
    yield zero("sparse-0.0-numbytes-first", None, *base.items(), *pairs[1:])
    yield zero("sparse-0.0-odd", None, ("GNU.sparse.size", b"10"), *pairs[:3])
    yield zero("sparse-0.0-and-0.1", None, *base.items(), *pairs, ("GNU.sparse.map", b"2,2,6,2"))
    yield zero("sparse-0.1-and-0.0", None, *base.items(), ("GNU.sparse.map", b"2,2,6,2"), *pairs)
    yield zero(
        "sparse-0.0-no-blocks",
        {"size": 10, "content": b"\0" * 10},
        ("GNU.sparse.size", b"10"),
        ("GNU.sparse.numblocks", b"0"),
        body=b"",
    )
    one = [*base.items(), ("GNU.sparse.map", b"2,2,6,2"), ("GNU.sparse.name", b"real")]
    yield zero("sparse-0.1", item, *one)
    yield zero("sparse-0.1-with-version", item, *one, ("GNU.sparse.major", b"0"), ("GNU.sparse.minor", b"1"))
    unset = [("GNU.sparse.map", b"0,1"), ("GNU.sparse.map", b""), *base.items(), *pairs]
    yield zero("sparse-0.1-map-unset-then-0.0", item, *unset)
    yield zero("sparse-0.1-last-map", item, ("GNU.sparse.map", b"1,1"), *one)
    for label, text in {
        "trailing-comma": b"2,2,6,2,",
        "odd": b"2,2,6",
        "negative": b"2,-2,6,2",
        "blank": b"2, 2,6,2",
        "overflow": b"9223372036854775807,9223372036854775807",
        "number-too-large": b"99999999999999999999,1",
        "overlap": b"0,3,2,1",
    }.items():
        yield zero(f"sparse-0.1-{label}", None, ("GNU.sparse.size", b"10"), ("GNU.sparse.map", text))
    yield zero("sparse-without-size", None, ("GNU.sparse.map", b"0,4"))
    yield zero("sparse-size-negative", None, ("GNU.sparse.map", b"0,4"), ("GNU.sparse.size", b"-1"))
    yield zero("sparse-version-unknown", None, *one, ("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"))
    yield zero("sparse-version-half", None, *one, ("GNU.sparse.major", b"0"))
    yield zero("sparse-name-with-nul", None, *base.items(), *pairs, ("GNU.sparse.name", b"a\0b"))
    yield zero(
        "sparse-name-alone-is-no-sparse",
        {"path": b"real", "sparse": False, "content": b"abcd"},
        ("GNU.sparse.name", b"other"),
    )
    link = pax(("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")) + header(b"l", b"2", link=b"t") + NEXT
    yield accept("sparse-keys-on-a-link-ignored", link, {"type": "2", "sparse": False}, AFTER)
    yield accept("sparse-1.0", sparse_1_0(b"2\n2\n2\n6\n2\n", b"abcd"), item, AFTER)
    long = b"%d\n" % 60 + b"".join(b"%d\n1\n" % (i * 1000000000) for i in range(60))
    yield accept(
        "sparse-1.0-map-of-two-blocks",
        sparse_1_0(long, b"y" * 60, ("GNU.sparse.realsize", b"60000000000")),
        {"size": 60000000000},
        AFTER,
    )
    yield accept("sparse-1.0-empty-map", sparse_1_0(b"0\n", b""), {"content": b"\0" * 10}, AFTER)
    junk = padded(b"1\n0\n2\n")[:-3] + b"\xff\xff\xff"
    yield accept("sparse-1.0-junk-after-the-map", sparse_1_0(junk, b"ab"), {"content": b"ab" + b"\0" * 8}, AFTER)
    for label, text, body in [
        ("count-huge-cve-2025-58183", b"4611686018427387903\n", b""),
        ("count-max-cve-2026-32288", b"9223372036854775807\n1\n", b""),
        ("count-missing", b"\n", b""),
        ("count-letters", b"two\n", b""),
        ("count-negative", b"-1\n", b""),
        ("number-too-large", b"1\n99999999999999999999\n1\n", b"x"),
        ("map-longer-than-body", b"9\n0\n1\n", b""),
        ("order", b"2\n6\n2\n2\n2\n", b"abcd"),
        ("beyond-size", b"1\n8\n4\n", b"abcd"),
        ("fewer-bytes", b"1\n0\n4\n", b"abc"),
        ("more-bytes", b"1\n0\n2\n", b"abc"),
        ("carriage-return", b"1\r\n0\r\n2\r\n", b"ab"),
    ]:
        yield refuse(f"sparse-1.0-{label}", sparse_1_0(text, body))
    yield refuse("sparse-1.0-and-0.1", sparse_1_0(b"1\n0\n2\n", b"ab", ("GNU.sparse.map", b"0,2")))
    yield refuse("sparse-1.0-body-smaller-than-a-block", sparse_1_0(b"1\n0\n2\n", b"ab", size=100))


def endings() -> Iterator[Case]:
    hidden = member(b"hidden", body=b"h")
    yield Case("end-two-zero-blocks", NEXT + END, [AFTER])
    yield Case("end-one-zero-block", NEXT + END[:BLOCK], [AFTER])
    yield Case("end-at-block-boundary", NEXT, [AFTER])
    yield Case("end-empty-archive", END, [])
    yield Case("end-hidden-entry-after-two-zero-blocks", NEXT + END + hidden + END, [AFTER])
    yield Case("end-hidden-entry-after-one-zero-block", NEXT + END[:BLOCK] + hidden + END, [AFTER])
    yield Case("end-garbage-after", NEXT + END + b"\xff" * 700, [AFTER])
    yield Case("end-padding-to-10240", (NEXT + END).ljust(10240, b"\0"), [AFTER])
    yield Case("cut-in-last-padding", NEXT[:-100], [AFTER])
    yield Case("cut-before-last-padding", NEXT[: BLOCK + 1], [AFTER])
    yield Case("cut-in-header", NEXT + hidden[:100], None)
    yield Case("cut-in-body", member(body=b"x" * 600)[: BLOCK + 599], None)
    yield Case("cut-before-body", hidden[:BLOCK], None)
    yield Case("cut-in-pax-body", pax(("path", b"p"))[: BLOCK + 3], None)
    yield Case("cut-after-pax", pax(("path", b"p")), None)
    yield Case("cut-body-claims-8-exabytes", member(body=b"x", size=base256(2**63 - 1, 12)), None)
    yield Case("cut-end-in-the-middle-of-a-body", member(body=b"x", size=5000) + END, None)


def limits() -> Iterator[Case]:
    yield refuse("claims-huge-pax-header", header(b"x", b"x", size=base256(2**40, 12)))
    yield refuse("claims-huge-long-name", header(b"L", b"L", size=0o77777777777))


GROUPS = (
    numbers,
    checksums,
    magics,
    types,
    pax_records,
    times,
    xattrs,
    globals_and_long_names,
    old_sparse,
    pax_sparse,
    endings,
    limits,
)


def cases() -> list[Case]:
    found = [case for group in GROUPS for case in group()]
    assert len({c.name for c in found}) == len(found), "two cases of one name"
    return found


def pax_bodies() -> dict[str, bytes]:
    """Seeds for the fuzz target of the PAX parser: name -> body of an extended header."""
    bodies = {
        "all-keys": records(
            ("path", b"p"), ("linkpath", b"l"), ("size", b"1"), ("uid", b"2"), ("gid", b"3"), ("mtime", b"-4.5")
        ),
        "xattrs": records(
            ("SCHILY.xattr.user.b", b"\0"), ("LIBARCHIVE.xattr.user.a%3d", b"YWI="), ("SCHILY.xattr.user.b", b"2")
        ),
        "sparse-0.0": records(("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"1"), ("GNU.sparse.numbytes", b"2")),
        "sparse-0.1": records(("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"1,2,5,1"), ("GNU.sparse.name", b"n")),
        "sparse-1.0": records(("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")),
        "empty-values": records(("path", b""), ("size", b""), ("GNU.sparse.map", b"")),
    }
    return bodies | {"length-zero-cve-2019-20907": b"0 path=x\n", "cut": record(b"path", b"x" * 50)[:30], "empty": b""}


def main() -> None:
    for folder in (HERE / "tar" / "accept", HERE / "tar" / "refuse", HERE / "pax"):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
    for case in cases():
        case.path.write_bytes(case.data)
    for name, body in pax_bodies().items():
        (HERE / "pax" / name).write_bytes(body)


if __name__ == "__main__":
    main()
