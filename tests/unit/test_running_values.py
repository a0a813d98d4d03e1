"""Users, resolvers, hosts, id maps and filters of steps: values, without a process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from fastlayer.cli import options
from fastlayer.cli.line.declare import LineError
from fastlayer.errors import NotFoundError, RunError, UsageError
from fastlayer.running import capabilities, idmaps, isolation, network_files, signals, spec, users
from fastlayer.running.limits import Limit, parse_limit, parse_limits
from fastlayer.running.seccomp.profile import Profile
from fastlayer.running.security import parse_security_options
from fastlayer.running.spec import Bind, Device, Ids, Spec, Tmpfs

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
broken
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:App:/home/app:/bin/sh
app:x:7:7:second of that name:/nowhere:/bin/sh
7:x:8:8:a number as a name:/eight:/bin/sh
nohome:x:9:9
huge:x:99999999999:1::/:
negative:x:-1:1::/:
word:x:one:1::/:
plus:x:+5:5::/:
last:x:10:11::/last:/bin/sh"""
GROUP = b"root:x:0:\napp:x:1001:\nextra:x:2000:other,app\nmore:x:2001:app\nextra:x:2000:app\nbad:x:many:app\n5:x:55:\n"


def reader(files: Mapping[str, bytes]) -> users.Read:
    return lambda path: files.get(path)


FILES = reader({"/etc/passwd": PASSWD, "/etc/group": GROUP})


@pytest.mark.parametrize(
    "user,found",
    [
        ("", (0, 0, (), "/root", "root")),
        ("root", (0, 0, (), "/root", "root")),
        ("0", (0, 0, (), "/root", "root")),
        ("app", (1000, 1001, (2000, 2001), "/home/app", "app")),
        ("1000", (1000, 1001, (2000, 2001), "/home/app", "app")),
        ("app:", (1000, 1001, (2000, 2001), "/home/app", "app")),
        ("app:extra", (1000, 2000, (), "/home/app", "app")),
        ("app:7", (1000, 7, (), "/home/app", "app")),
        ("app:5", (1000, 5, (), "/home/app", "app")),  # a number is never a name
        (":extra", (0, 2000, (), "/root", "root")),
        ("7", (7, 7, (2000, 2001), "/nowhere", "app")),
        ("12345", (12345, 0, (), "/", "")),
        ("12345:54321", (12345, 54321, (), "/", "")),
        ("nohome", (9, 9, (), "/", "nohome")),
        ("last", (10, 11, (), "/last", "last")),
    ],
)
def test_users_are_found_as_docker_finds_them(user: str, found: tuple[object, ...]) -> None:
    assert users.resolve(user, FILES) == found


@pytest.mark.parametrize(
    "user", ["nobody", "huge", "negative", "word", "plus", "broken", "app:none", "app:bad", "APP", " app"]
)
def test_who_is_not_there(user: str) -> None:
    with pytest.raises(
        NotFoundError, match=r"^unable to find (user|group) .*: no matching entries in (passwd|group) file$"
    ):
        users.resolve(user, FILES)


@pytest.mark.parametrize("user", ["-1", "2147483648", "+5", "99999999999999999999", "app:-1", "app:2147483648"])
def test_numbers_that_are_no_ids(user: str) -> None:
    with pytest.raises(UsageError, match="must be in range"):
        users.resolve(user, FILES)


def test_without_files() -> None:
    nothing = reader({})
    assert users.resolve("", nothing) == (0, 0, (), "/", "")
    assert users.resolve("5:6", nothing) == (5, 6, (), "/", "")
    with pytest.raises(NotFoundError):
        users.resolve("root", nothing)


@pytest.mark.parametrize(
    "data", [b"\0" * 100_000, b"x" * 3_000_000, b"\n" * 1_000_000, bytes(range(256)) * 5000, b":" * 1_000_000, b""]
)
def test_hostile_files(data: bytes) -> None:
    files = reader({"/etc/passwd": data + b"\nlast:x:1:2:::", "/etc/group": data + b"\ng:x:3:last"})
    assert users.resolve("last", files) == (1, 2, (3,), "/", "last")


@pytest.mark.parametrize("number", ["9" * 5000, "\u0663", "", "99999999999"])
def test_lines_with_numbers_that_are_none(number: str) -> None:
    passwd = f"odd:x:3:{number}::/\nodder:x:{number}:3::/\nlast:x:1:2::/".encode()
    files = reader({"/etc/passwd": passwd, "/etc/group": f"odd:x:{number}:last\ng:x:3:last".encode()})
    assert users.resolve("last", files) == (1, 2, (3,), "/", "last")
    assert users.resolve("", files) == (0, 0, (), "/", "")
    for name in ("odd", "odder"):
        with pytest.raises(NotFoundError):
            users.resolve(name, files)


def test_too_many_groups() -> None:
    group = b"".join(b"g%d:x:%d:app\n" % (number, number) for number in range(70_000))
    with pytest.raises(UsageError, match="70000 groups"):
        users.resolve("app", reader({"/etc/passwd": PASSWD, "/etc/group": group}))


# ---- files of the network ------------------------------------------------------------------------


def test_hosts() -> None:
    assert network_files.hosts("box", [("db", "10.0.0.1"), ("six", "[fd00::1]")]) == (
        "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\nfd00::1\tsix\n"
    )


@pytest.mark.parametrize(
    "entry", [("", "1.1.1.1"), ("a\nb", "1.1.1.1"), ("a#", "1.1.1.1"), ("a", ""), ("a", "1.1.1"), ("a", "1.1.1.1\n2")]
)
def test_hosts_that_are_none(entry: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        network_files.hosts("box", [entry])


def test_resolvers_on_the_loopback_are_left_out() -> None:
    text = "search a b\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\noptions edns0\n"
    assert network_files.without_loopback(text) == "search a b\nnameserver 10.0.0.1\noptions edns0\n"
    assert network_files.without_loopback("nameserver 127.0.0.1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert network_files.without_loopback("nameserver 127.0.0.1\n", instead=False) == ""


def test_the_hosts_own_resolver_stays_on_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/etc/resolv.conf": "nameserver 127.0.0.53\n", network_files._RESOLVED: "nameserver 192.168.0.1\n"}
    monkeypatch.setattr(network_files, "_read", lambda path: files.get(path, ""))
    assert network_files.resolv_conf(host_network=True) == "nameserver 127.0.0.53\n"
    assert network_files.resolv_conf(host_network=False) == "nameserver 192.168.0.1\n"
    files.clear()
    assert network_files.resolv_conf(host_network=True) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


# ---- capabilities, limits, security options -------------------------------------------------------


def test_capabilities_are_dockers_fourteen() -> None:
    assert f"{capabilities.DEFAULT:x}" == "a80425fb"
    assert sorted(capabilities.names(capabilities.DEFAULT)) == sorted(capabilities.DEFAULT_NAMES)


def test_capabilities_more_and_less() -> None:
    def named(added: str = "", dropped: str = "") -> set[str]:
        return set(capabilities.names(capabilities.changed(added.split(), dropped.split())))

    default, every = set(capabilities.DEFAULT_NAMES), set(capabilities.NAMES)
    assert named() == default
    assert named("sys_admin CAP_BPF", "Chown") == default - {"CAP_CHOWN"} | {"CAP_SYS_ADMIN", "CAP_BPF"}
    assert named("all", "SYS_ADMIN") == every - {"CAP_SYS_ADMIN"}
    assert named("KILL", "ALL") == {"CAP_KILL"} and named("", "ALL") == set()
    assert named("CHOWN", "CHOWN") == default and named("CHOWN", "ALL CHOWN") == {"CAP_CHOWN"}
    assert named("ALL", "ALL") == every and named("ALL CHOWN", "CHOWN") == every - {"CAP_CHOWN"}
    with pytest.raises(UsageError, match="--cap-drop 'sys_everything': no such capability"):
        named("", "sys_everything")


@pytest.mark.parametrize(
    "text,found",
    [
        ("nofile=1024", ("nofile", 1024, 1024)),
        ("nofile=1024:2048", ("nofile", 1024, 2048)),
        ("core=-1", ("core", -1, -1)),
        ("memlock=5:-1", ("memlock", 5, -1)),
        ("nproc=0:unlimited", ("nproc", 0, -1)),
    ],
)
def test_limits(text: str, found: tuple[str, int, int]) -> None:
    assert parse_limit(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "nofile", "nofile=", "files=3", "as=3", "nofile=x", "nofile=3:2", "nofile=-1:2", "core=-2", "core=1:2:3"],
)
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="ulimit"):
        parse_limit(text)


def test_the_last_limit_of_a_name_counts() -> None:
    assert parse_limits(("nofile=1", "core=0", "nofile=2")) == (Limit("nofile", 2, 2), Limit("core", 0, 0))
    assert [Limit(name, 0, 0).number for name in ("cpu", "nofile", "rttime")] == [0, 7, 15]


def test_security_options(tmp_path: Path) -> None:
    assert parse_security_options(()) == (None, False)
    assert parse_security_options(["seccomp=unconfined", "apparmor=unconfined"]) == ("unconfined", False)
    assert parse_security_options(["seccomp:unconfined", "seccomp=builtin"]) == (None, False)
    for word in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"):
        assert parse_security_options([word]) == (None, True)
    assert parse_security_options(["no-new-privileges", "no-new-privileges=false"]) == (None, False)
    file = tmp_path / "profile.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    found = parse_security_options([f"seccomp={file}"]).seccomp
    assert isinstance(found, Profile) and found.default == 0x7FFF0000


@pytest.mark.parametrize(
    "word", ["", "seccomp", "seccomp=", "no-new-privileges=", "no-new-privileges=x", "apparmor=docker", "label=type:x"]
)
def test_security_options_that_are_none(word: str) -> None:
    with pytest.raises(UsageError, match="--security-opt"):
        parse_security_options([word])


def test_profiles_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    for name, message in (
        ("missing", "No such file"),
        ("fifo", "not JSON|at most"),
        ("large", "at most 1 MiB"),
        (".", "irectory"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_security_options([f"seccomp={tmp_path / name}"])


# ---- specs ---------------------------------------------------------------------------------------


def made(**fields: object) -> Spec:
    return Spec(root=spec.directory("/x"), args=["tool"])._replace(**fields)  # type: ignore[arg-type]


def test_variables_are_completed() -> None:
    assert spec.complete_env(made()) == [f"PATH={spec.DEFAULT_PATH}", "HOME=/root"]
    assert spec.complete_env(made(env=["HOME=/h", "PATH=/p"])) == ["HOME=/h", "PATH=/p"]
    assert spec.complete_env(made(user=Ids(5)))[-1] == "HOME=/"


def test_programs_are_looked_for_in_the_last_path() -> None:
    assert spec.search_path(made(env=["PATH=/a", "PATH=/b::/c"])) == ["/b/tool", "./tool", "/c/tool"]
    assert spec.search_path(made(args=["./tool"])) == ["./tool"]


def test_mounts_in_order() -> None:
    mounts = [Tmpfs("/a/b/c"), Bind("/x", "/a"), Tmpfs("/z"), Tmpfs("/a//b/")]
    assert [mount.target for mount in spec.in_order(mounts)] == ["/a", "/z", "/a//b/", "/a/b/c"]


@pytest.mark.parametrize("target", ["", "x", "/", "/proc", "/proc/self", "/sys/x", "/dev", "/../x", "/a/..", "/a\0"])
def test_targets_that_cannot_be(target: str) -> None:
    with pytest.raises(UsageError):
        spec.check(made(mounts=[Tmpfs(target)]))


def test_devices_are_shown_below_dev(tmp_path: Path) -> None:
    spec.check(made(devices=[Device("/dev/null", "/dev/other/null")]))
    with pytest.raises(UsageError, match="below /dev"):
        spec.check(made(devices=[Device("/dev/null", "/x")]))
    with pytest.raises(RunError, match="no such device"):
        spec.check(made(devices=[Device(str(tmp_path / "no"), "/dev/x")]))
    with pytest.raises(RunError, match="is not a device"):
        spec.check(made(devices=[Device(str(tmp_path), "/dev/x")]))
    with pytest.raises(UsageError, match="same target"):
        spec.check(made(devices=[Device("/dev/null", "/dev/x")], mounts=[Tmpfs("/dev/x")]))


# ---- id maps, choice -----------------------------------------------------------------------------


def test_ranges_of_subordinate_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/etc/subuid": "other:1:5\nme:100000:65536\nnonsense\n1234:300000:10\nme:x:1\nme:5:0\n",
        "/etc/subgid": "me:200000:65536\n",
    }
    monkeypatch.setattr(idmaps, "_read", lambda path: texts.get(path, ""))
    monkeypatch.setattr(idmaps, "_name_of", lambda uid: "me")
    monkeypatch.setattr(idmaps.os, "geteuid", lambda: 1234)
    monkeypatch.setattr(idmaps.os, "getegid", lambda: 4321)
    monkeypatch.setattr(idmaps, "find", lambda program: f"/usr/bin/{program}")
    found = idmaps.own()
    assert found.uids == ((0, 1234, 1), (1, 100000, 65536), (65537, 300000, 10))
    assert found.gids == ((0, 4321, 1), (1, 200000, 65536))
    assert found.helped and found.has_group(5) and not found.has_group(65537)
    texts["/proc/self/status"] = "Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t0\n"  # nor has newuidmap any then
    assert idmaps.own() == idmaps.alone()
    del texts["/proc/self/status"]
    monkeypatch.setattr(idmaps, "find", lambda program: None)
    assert idmaps.own()[:3] == (((0, 1234, 1),), ((0, 4321, 1),), False)


def test_ids_that_nobody_can_become() -> None:
    alone = idmaps.IdMaps((idmaps.Range(0, 1234, 1),), (idmaps.Range(0, 4321, 1),), False)
    idmaps.check_mapped(alone, 0, 0)
    for ids in ((1000, 0), (0, 1000)):
        with pytest.raises(RunError, match=r"the user .* is not among the ids of this user namespace: give this user"):
            idmaps.check_mapped(alone, *ids)
    idmaps.check_mapped(idmaps.IdMaps((), (), False), 1000, 1000)  # /proc does not tell


def test_an_owner_that_is_not_mapped_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> None:
        def chown(place: object, uid: int, gid: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(idmaps.os, "chown", chown)

    refuse(errno.EINVAL)
    idmaps.give(tmp_path, 5, 6)
    refuse(errno.EPERM)
    with pytest.raises(PermissionError):
        idmaps.give(tmp_path, 5, 6)


def test_unknown_isolation() -> None:
    with pytest.raises(UsageError, match="isolation 'docker' is unknown: use native, oci, chroot"):
        isolation.choose("docker")


@pytest.mark.parametrize(
    "text,number",
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("64", 64),
        ("IOT", 6),
        ("POLL", 29),
        ("RTMIN", signal.SIGRTMIN),
        ("sigrtmin+3", signal.SIGRTMIN + 3),
        ("RTMIN+15", signal.SIGRTMIN + 15),
        ("RTMAX-14", signal.SIGRTMAX - 14),
        ("RTMIN+16", None),
        ("RTMIN+0", None),
        ("RTMAX-15", None),
        ("0", None),
        ("65", None),
        ("SIGSIGTERM", None),
        ("EMT", None),
        ("", None),
        ("\u0661", None),
    ],
)
def test_signals_are_dockers(text: str, number: int | None) -> None:
    assert signals.number_of(text) == number
    if number is None:
        with pytest.raises(UsageError, match="Invalid signal"):
            signals.parse_signal(text)


@pytest.mark.parametrize(
    "text,size",
    [
        ("64m", 64 << 20),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("0", 0),
        ("32 k", 32768),
        ("10b", 10),
        ("1t", 1 << 40),
        ("8192p", None),
        ("-1", None),
        ("1.5.2g", None),
        ("1x", None),
        ("m", None),
        ("", None),
    ],
)
def test_sizes_of_memory_are_dockers(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(LineError, match="size"):
            options.memory("--memory", text)
    else:
        assert options.memory("--memory", text) == size
