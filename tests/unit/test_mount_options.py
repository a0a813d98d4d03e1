"""``-v``, ``--mount`` and ``--tmpfs``: what they mean, by Docker's rules, and what they cannot mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastlayer.container.mountoptions import (
    MountOption,
    of_record,
    parse_mount,
    parse_tmpfs,
    parse_volume,
    to_record,
)
from fastlayer.errors import UsageError


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("/t", MountOption("volume", "/t", short=True)),
        ("/a/../b:/t/", MountOption("bind", "/t", "/b", short=True, make=True)),
        ("data:/t:nocopy,ro", MountOption("volume", "/t", "data", True, True, nocopy=True, text="nocopy,ro")),
        ("/a:/t:Z,rslave", MountOption("bind", "/t", "/a", False, True, True, text="Z,rslave", propagation="rslave")),
    ],
)
def test_short(text: str, wanted: MountOption) -> None:
    assert parse_volume(text) == wanted


@pytest.mark.parametrize(
    "text,why",
    [
        ("a:/t", "invalid characters"),
        ("data:t", "must be absolute"),
        ("data:/", "can't be '/'"),
        ("data:/t:ro:rw", "give SOURCE"),
        ("data:/t:ro,rw", "give one of ro, rw"),
        ("data:/t:ro,ro", "once"),
        ("data:/t:z,Z", "give one of z, Z"),
        ("data:/t:odd", "invalid mode: odd"),
        ("data:/t:", "give SOURCE"),
        ("data:/t:rslave", "nothing for a volume"),
        ("/a:/t:nocopy", "nothing for a bind"),
        ("/a:/t:shared,slave", "give one of"),
    ],
)
def test_short_that_means_nothing(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_volume(text)


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("target=/t", {"kind": "volume", "target": "/t"}),
        ("type=BIND,src=/a,dst=/t,ro", {"kind": "bind", "source": "/a", "readonly": True}),
        ('type=bind,"src=/a,b",dst=/t,ro', {"kind": "bind", "source": "/a,b", "readonly": True}),
        ("type=bind,source=/a,target=/t,readonly=F", {"readonly": False}),
        ("type=bind,source=/a,source=/b,target=/t", {"source": "/b"}),
        ("type=bind,source=/a,target=/t,bind-nonrecursive", {"recursive": "disabled"}),
        ("source=data,target=/t,volume-nocopy,volume-subpath=a/b", {"nocopy": True, "subpath": "a/b"}),
        (
            "source=data,target=/t,volume-opt=type=nfs,volume-opt=o=addr=h,volume-label=a,volume-driver=d",
            {"options": {"type": "nfs", "o": "addr=h"}, "labels": {"a": ""}, "driver": "d"},
        ),
        ("type=image,source=i,target=/t,image-subpath=a", {"readonly": True, "subpath": "a"}),
        ("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700", {"size": 1 << 20, "mode": 0o700}),
    ],
)
def test_in_words(text: str, wanted: dict[str, Any]) -> None:
    found = parse_mount(text)
    assert {key: getattr(found, key) for key in wanted} == wanted
    assert of_record(json.loads(json.dumps(to_record(found)))) == found


@pytest.mark.parametrize(
    "text,why",
    [
        ('type=bind,"source=/a"b,target=/t', "is not KEY=VALUE"),
        ("type=odd,target=/t", "type 'odd' is unknown"),
        ("type=bind,source=/a", "target is required"),
        ("type=bind,target=/t", "needs a source"),
        ("type=bind,source=a,target=/t", "must be absolute"),
        ("type=bind,source=/a,target=/t,volume-nocopy", r"cannot mix 'volume-\*' options with mount type 'bind'"),
        ("type=tmpfs,target=/t,bind-propagation=slave", "cannot mix 'bind"),
        ("type=bind,source=/a,target=/t,bind-propagation=odd", "use private"),
        ("type=bind,source=/a,target=/t,bind-recursive=odd", "use enabled"),
        ("type=bind,source=/a,target=/t,bind-recursive=writable", "goes with readonly"),
        ("type=bind,source=/a,target=/t,readonly,bind-recursive=readonly", "goes with bind-propagation"),
        ("type=bind,source=/a,target=/t,readonly=", "give true or false"),
        ("type=bind,source=/a,target=/t,readonly=yes", "give true or false"),
        ("source=data,target=/t,volume-subpath=../x", "without `..`"),
        ("source=data,target=/t,volume-subpath=/x", "relative path"),
        ("source=data,target=/t,odd=1", "unexpected key 'odd'"),
        ("source=data,target", "must be a key=value pair"),
        ("type=tmpfs,source=a,target=/t", "no source"),
        ("type=image,target=/t", "needs a source"),
    ],
)
def test_in_words_that_mean_nothing(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_mount(text)


def test_tmpfs() -> None:
    found = parse_tmpfs("/t:size=1k,mode=700,exec,uid=7,ro,rw,ro")
    assert (found.size, found.mode, found.words) == (1024, 0o700, ("exec", "uid=7", "ro", "rw", "ro"))
    assert found.readonly and not parse_tmpfs("/t:ro,rw").readonly
    assert parse_tmpfs("/t:size=50%").words == ("size=50%",)
    for text in ("/t:odd", "/t:uid=x", "/t:size=x", "/t:mode=9", "t", "/", "/t:size=x%", "/t:mpol="):
        with pytest.raises(UsageError):
            parse_tmpfs(text)
