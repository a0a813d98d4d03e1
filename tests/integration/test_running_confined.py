"""What a program may do in each isolation: system calls, privileges, limits, devices."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.errors import RunError
from fastlayer.running import capabilities
from fastlayer.running.isolation import Isolation
from fastlayer.running.limits import Limit
from fastlayer.running.oci import Oci
from fastlayer.running.seccomp import syscalls
from fastlayer.running.seccomp.reading import read_profile
from fastlayer.running.spec import Bind, Device, Ids
from tests.conftest import needs_root, require
from tests.integration.userns import as_somebody
from tests.running import ISOLATIONS, busybox_root, run, shell

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]

# Makes each call with the arguments -1, which no call likes, and prints the error. What would do something is left out.
CALLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *rest;
        long number = strtol(argv[i], &rest, 0), first = *rest == ':' ? strtol(rest + 1, NULL, 0) : -1;
        errno = 0;
        syscall(number, first, -1L, -1L, -1L, -1L, -1L);
        printf("%d\n", errno);
    }
    return 0;
}
"""
SETUID = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d %d\n", (int)getuid(), (int)geteuid()); return 0; }
"""


@pytest.fixture(params=list(ISOLATIONS))
def isolation(request: pytest.FixtureRequest) -> Isolation:
    return _working(request.param)


@pytest.fixture(params=[name for name in ISOLATIONS if name != "chroot"])
def namespaced(request: pytest.FixtureRequest) -> Isolation:
    return _working(request.param)


def _working(name: str) -> Isolation:
    if _backend.engine().name == "baseline" and name in ("crun", "runc"):
        pytest.skip("the runtimes' part is the same with both engines")
    found = ISOLATIONS[name]()
    verdict = found.probe()
    if not verdict.works:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name}: {verdict.why}")
        pytest.skip(f"{name}: {verdict.why}")
    return found


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``caller`` and ``ids``, linked statically."""
    require("cc")
    place = tmp_path_factory.mktemp("programs")
    for name, text in (("caller", CALLER), ("ids", SETUID)):
        (place / f"{name}.c").write_text(text)
        subprocess.run(["cc", "-static", "-o", place / name, place / f"{name}.c"], check=True)
    return place


@pytest.fixture
def root(tmp_path: Path, programs: Path) -> Path:
    root = busybox_root(tmp_path / "root")
    for name in ("caller", "ids"):
        shutil.copy(programs / name, root / "bin" / name)
    (root / "bin/ids").chmod(0o4755)
    return root


def _errors(isolation: Isolation, root: Path, calls: list[str], **fields: Any) -> dict[str, int]:
    """errno of each call: ``name``, or ``name:first argument``."""
    table = syscalls.numbers(platform.machine())
    words = [call.replace(call.partition(":")[0], str(table[call.partition(":")[0]]), 1) for call in calls]
    done = run(isolation, root, "caller", *words, **fields)
    assert done.status == 0, done
    return dict(zip(calls, map(int, done.out.split()), strict=True))


# ---- system calls --------------------------------------------------------------------------------

REFUSED = (
    "mount umount2 pivot_root swapon swapoff reboot init_module delete_module kexec_load setns acct quotactl bpf "
    "perf_event_open keyctl add_key request_key io_uring_setup userfaultfd open_by_handle_at kcmp settimeofday "
    "move_mount fsopen mbind vhangup socket:40 socket:38 clone:0x10000011 unshare:0x10000000 personality:0x40000"
)
ALLOWED = (
    "read write openat2 statx ptrace chroot mknodat socket:1 getrandom mincore semget seccomp pidfd_open memfd_create"
)


def test_calls_are_judged_as_by_runc(namespaced: Isolation, root: Path) -> None:
    """The same as runc, which makes its filter by libseccomp, of the same profile."""
    calls = [*REFUSED.split(), *ALLOWED.split(), "clone3"]
    found = _errors(namespaced, root, calls)
    assert {call for call, code in found.items() if code == errno.EPERM} == set(REFUSED.split())
    assert found["clone3"] == errno.ENOSYS
    reference = _errors(Oci("runc"), root, calls) if Oci("runc").probe().works else found
    assert found == reference


@pytest.mark.parametrize("name", ["native", "runc"])
def test_calls_of_the_future_are_not_there(name: str, root: Path) -> None:
    """Not EPERM: programs then take what there was before (crun leaves it at EPERM)."""
    done = run(_working(name), root, "caller", "600")
    assert done.out == f"{errno.ENOSYS}\n"


def test_a_capability_opens_its_calls(namespaced: Isolation, root: Path) -> None:
    more = capabilities.DEFAULT | capabilities.bits(["CAP_SYS_ADMIN", "CAP_SYS_TIME"])
    calls = ["mount", "settimeofday", "setns", "bpf"]
    assert set(_errors(namespaced, root, calls).values()) == {errno.EPERM}
    assert errno.EPERM not in _errors(namespaced, root, calls, capabilities=more).values()


def _profile(**fields: Any) -> Any:
    value = {"defaultAction": "SCMP_ACT_ALLOW", **fields}
    return read_profile(json.dumps(value).encode(), "p.json")


def test_a_profile_that_is_given_counts(isolation: Isolation, root: Path) -> None:
    condition = {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}
    profile = _profile(
        syscalls=[
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENFILE, "args": [condition]},
            {"names": ["vhangup"], "action": "SCMP_ACT_KILL_PROCESS"},
        ]
    )
    calls = ["sethostname", "socket:7", "socket:-1", "setns"]
    found = _errors(isolation, root, calls, seccomp=profile)
    assert list(found.values())[:2] == [errno.EXDEV, errno.ENFILE]
    assert found["socket:-1"] == errno.EINVAL and found["setns"] == errno.EBADF
    number = syscalls.numbers(platform.machine())["vhangup"]
    assert run(isolation, root, "caller", str(number), seccomp=profile).status == 128 + 31  # SIGSYS


def test_the_callers_own_program_cannot_be_run_whatever_the_profile(root: Path) -> None:
    """openat2, by which it is found out, may be refused to the step (CVE-2019-5736)."""
    os.symlink("/proc/self/exe", root / "bin/way")
    profile = _profile(syscalls=[{"names": ["openat2"], "action": "SCMP_ACT_ERRNO"}])
    with pytest.raises(RunError) as caught:
        run(_working("native"), root, "way", "-c", "print('the host')", seccomp=profile)
    assert caught.value.status == 126


def test_unconfined_has_no_filter(isolation: Isolation, root: Path) -> None:
    assert _errors(isolation, root, ["setns", "keyctl"], seccomp="unconfined") == {
        "setns": errno.EBADF,
        "keyctl": errno.EOPNOTSUPP,
    }


# ---- privileges ----------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", [Ids(), Ids(1000, 1001)], ids=["root", "user"])
def test_setuid_programs_gain_what_they_should(isolation: Isolation, root: Path, caller: Ids) -> None:
    done = run(isolation, root, "ids", user=caller)
    assert done.out == f"{caller.uid} 0\n"
    status = shell(isolation, root, "grep NoNewPrivs /proc/self/status", user=caller) if _has_proc(isolation) else None
    assert status is None or status.out.split() == ["NoNewPrivs:", "0"]


def test_no_new_privileges(isolation: Isolation, root: Path) -> None:
    done = run(isolation, root, "ids", user=Ids(1000, 1001), no_new_privileges=True)
    assert done.out == "1000 1000\n"


def _has_proc(isolation: Isolation) -> bool:
    return isolation.name != "chroot"


PLAIN = """
import os, sys, threading
from fastlayer.running.native import Native
from fastlayer.running.spec import Ids, Spec, directory
from fastlayer.running.limits import Limit
os.chmod(os.path.join(sys.argv[1], "bin/ids"), 0o4755)
spec = Spec(root=directory(sys.argv[1]), args=["ids"], user=Ids(1000, 1000), no_new_privileges=sys.argv[2] == "nnp")
if sys.argv[2] == "limit":
    spec = spec._replace(limits=[Limit("nofile", 1 << 30, 1 << 30)])
sys.exit(Native().run(spec, stdout=1, stderr=2, stop=threading.Event()))
"""


def _with_ids(tmp_path: Path, root: Path, what: str, engine: str) -> subprocess.CompletedProcess[str]:
    """As a plain user who has ranges of ids; the program that is setuid belongs to root of the namespace."""
    require("newuidmap", "newgidmap")
    texts = {
        "/etc/passwd": "somebody:x:54321:54321::/:/bin/sh\n",
        "/etc/subuid": "somebody:200000:65536\n",
        "/etc/subgid": "somebody:300000:65536\n",
    }
    shown = {}
    for place, text in texts.items():
        if not os.path.exists(place):
            pytest.skip("no /etc/subuid to show another one in place of")
        file = tmp_path / os.path.basename(place)
        file.write_text(text)
        shown[file] = place
    subprocess.run(["chown", "-hR", "54321:54321", str(tmp_path)], check=True)
    command = [sys.executable, "-c", PLAIN, str(root), what]
    return as_somebody(command, tmp_path, shown=shown, FASTLAYER_BACKEND=engine)


def test_setuid_programs_work_in_a_user_namespace(root: Path, tmp_path: Path, engine: Any) -> None:
    done = _with_ids(tmp_path, root, "plain", engine.name)
    assert done.stdout == "1000 0\n", done
    assert _with_ids(tmp_path, root, "nnp", engine.name).stdout == "1000 1000\n"


def test_chroot_without_the_right_to_a_filter(root: Path, engine: Any) -> None:
    """Without CAP_SYS_ADMIN, a filter takes no_new_privs: none is set unasked, and a given profile is refused."""
    code = """
import sys, threading
from fastlayer.running.chroot import Chroot
from fastlayer.running.spec import Spec, directory
from fastlayer.running.seccomp.default import DEFAULT
from fastlayer.errors import RunError
setns = sys.argv[2]
spec = Spec(root=directory(sys.argv[1]), args=["caller", setns])
for fields in ({}, {"no_new_privileges": True}, {"seccomp": DEFAULT}):
    try:
        Chroot().run(spec._replace(**fields), stdout=1, stderr=2, stop=threading.Event())
    except RunError as exc:
        print(exc, flush=True)
"""
    number = str(syscalls.numbers(platform.machine())["setns"])
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code]
    done = subprocess.run(
        [*command, str(root), number],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FASTLAYER_BACKEND": engine.name},
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(errno.EBADF), str(errno.EPERM)], done
    assert "no-new-privileges" in lines[2]


# ---- limits --------------------------------------------------------------------------------------


def test_limits(isolation: Isolation, root: Path) -> None:
    limits = [Limit("nofile", 100, 200), Limit("core", 0, 0), Limit("fsize", 1 << 20, -1)]
    for user in (Ids(), Ids(1000, 1001)):
        done = shell(
            isolation, root, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -f; ulimit -Hf", limits=limits, user=user
        )
        assert done.out.split() == ["100", "200", "0", "2048", "unlimited"], done


def test_a_limit_that_may_not_be_raised(root: Path, tmp_path: Path, engine: Any) -> None:
    done = _with_ids(tmp_path, root, "limit", engine.name)
    assert "cannot set limits (ulimit): Operation not permitted" in done.stderr, done


# ---- devices -------------------------------------------------------------------------------------


def test_devices_that_are_shown(namespaced: Isolation, root: Path) -> None:
    devices = [Device("/dev/zero", "/dev/bus/zero"), Device("/dev/full", "/dev/another")]
    done = shell(
        namespaced, root, "head -c 3 /dev/bus/zero | wc -c; echo x >/dev/another; ls -l /dev/another", devices=devices
    )
    assert done.out.split()[0] == "3" and "No space" in done.err and done.out.split()[1].startswith("c"), done
    assert sorted(os.listdir(root)) == ["bin", "etc", "root", "tmp"]


def test_chroot_shows_no_devices(root: Path) -> None:
    with pytest.raises(RunError, match="isolation native or oci"):
        run(_working("chroot"), root, "true", devices=[Device("/dev/zero", "/dev/x")])


def test_only_devices_that_are_shown_can_be_opened(namespaced: Isolation, root: Path, tmp_path: Path) -> None:
    """A disk of the host is a number away: in the root, in a mount, in /dev, made by the program or there before."""
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (tmp_path / "cache").mkdir()
    script = "for at in /mine /cache/mine /dev/mine /tmp/mine; do mknod $at c 1 5; done; "
    script += "for at in /zero /mine /cache/mine /dev/mine /tmp/mine; do head -c 1 $at >/dev/null || echo $at; done"
    mounts = [Bind(str(tmp_path / "cache"), "/cache", readonly=False)]
    done = shell(namespaced, root, script, mounts=mounts)
    of_root = [] if getattr(namespaced, "runtime", "") == "crun" else ["/zero", "/mine", "/tmp/mine"]  # it undoes it
    assert sorted(done.out.split()) == sorted(["/cache/mine", "/dev/mine", *of_root]), done
    assert "ermission denied" in done.err
    assert stat.S_ISCHR((root / "mine").stat().st_mode)  # which is in the layer
    for device in ("null", "zero", "full", "random", "urandom"):
        assert shell(namespaced, root, f"head -c 1 /dev/{device} >/dev/null").status == 0, device


def test_insecure_opens_devices(namespaced: Isolation, root: Path) -> None:
    done = shell(namespaced, root, "mknod /mine c 1 5 && head -c 2 /mine | wc -c", security="insecure")
    assert done.out.strip() == "2", done


def test_devices_keep_their_modes_and_owners(namespaced: Isolation, root: Path, tmp_path: Path) -> None:
    """Root in here is root of the host to a file of the host: its node, and its /dev/null as standard input."""
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(node, 0o666)
    before = node.stat()
    script = "for at in /dev/mine /dev/null /proc/self/fd/0; do chmod 600 $at; chown 1 $at; touch $at; done; "
    script += "echo x >/dev/mine && echo x >>/dev/null && cat </dev/mine && echo written"
    host = os.stat("/dev/null")
    stdin = os.open(node, os.O_RDONLY)
    try:
        done = shell(namespaced, root, script, devices=[Device(str(node), "/dev/mine")], stdin=stdin)
    finally:
        os.close(stdin)
    after = node.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert (os.stat("/dev/null").st_mode, os.stat("/dev/null").st_uid) == (host.st_mode, host.st_uid)
    assert done.out == "written\n", done
