"""Running programs in real root file systems: every isolation gives the same, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import _backend
from fastlayer.errors import RunError, UsageError
from fastlayer.mounts.mount import Mount
from fastlayer.running.isolation import Isolation, choose, probes
from fastlayer.running.spec import Bind, Ids, Tmpfs
from tests.conftest import ENGINES, made_engine, needs_root, require
from tests.integration.userns import as_somebody, unshared
from tests.running import ISOLATIONS, busybox_root, mounts_of_host, picture, processes, run, settle, shell, unique

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]

Root = Path | Sequence[Mount]


RUNTIMES = ("crun", "runc")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both engines with every isolation and root that go together.

    The part of the runtimes is the same with either engine; chroot has no namespaces and cannot mount.
    """
    values = {"engine": ENGINES, "which": tuple(ISOLATIONS), "any_root": ("directory", "overlay")}
    names = [name for name in values if name in metafunc.fixturenames]
    both = "namespaced" in metafunc.fixturenames
    chosen = [
        combination
        for combination in itertools.product(*(values[name] for name in names))
        if not ("baseline" in combination and set(RUNTIMES) & set(combination))
        if not ("chroot" in combination and (both or "overlay" in combination))
    ]
    metafunc.parametrize(names, chosen, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_backend.Engine]:
    yield from made_engine(request.param, monkeypatch)


@pytest.fixture
def which(request: pytest.FixtureRequest, engine: _backend.Engine) -> str:
    """The name of an isolation that works here."""
    _working(request.param)
    return str(request.param)


@pytest.fixture
def isolation(which: str) -> Isolation:
    return ISOLATIONS[which]()


@pytest.fixture
def namespaced(which: str) -> Isolation:
    """An isolation that is one."""
    return ISOLATIONS[which]()


def _working(name: str) -> Isolation:
    found = ISOLATIONS[name]()
    verdict = found.probe()
    if not verdict.works:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name}: {verdict.why}")
        pytest.skip(f"{name}: {verdict.why}")
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return busybox_root(tmp_path / "root")


@pytest.fixture
def any_root(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Root:
    if request.param == "directory":
        return root
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(mode=0o755)
    options = ("rw", f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'work'}")
    return (Mount("overlay", "overlay", options, (str(root),)),)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """On the host nothing of a run is ever mounted; others may mount what they like meanwhile."""
    yield
    assert [line for line in mounts_of_host() if str(tmp_path) in line or "fastlayer-run" in line] == []


# ---- what a program sees -------------------------------------------------------------------------


def test_environment_directory_and_arguments(isolation: Isolation, any_root: Root) -> None:
    done = run(isolation, any_root, "sh", "-c", 'env; pwd; echo "[$0] [$1]"', "a b", "", env=["X=1 2"], cwd="/tmp")
    assert done.status == 0, done
    lines = done.out.splitlines()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert {"X=1 2", "HOME=/root", path} <= set(lines)
    assert {line.partition("=")[0] for line in lines[:-2]} <= {"X", "HOME", "PATH", "PWD", "SHLVL", "OLDPWD"}
    assert lines[-2:] == ["/tmp", "[a b] []"]


def test_user_and_groups(isolation: Isolation, root: Path) -> None:
    who = shell(isolation, root, "id -u; id -g; id -G; touch /tmp/mine", user=Ids(1000, 1001, (1001, 2000)))
    assert who.out.split() == ["1000", "1001", "1001", "2000"], who
    about = (root / "tmp/mine").stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o777) == (1000, 1001, 0o644)


def test_a_user_may_open_its_output_by_name(namespaced: Isolation, root: Path) -> None:
    done = shell(namespaced, root, "echo out >/dev/stdout; echo err >/dev/stderr", user=Ids(1000, 1001))
    assert (done.status, done.out, done.err) == (0, "out\n", "err\n")


@pytest.mark.parametrize(
    "script,status", [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("sh -c 'kill -9 $$'", 137)]
)
def test_exit_codes(isolation: Isolation, root: Path, script: str, status: int) -> None:
    assert shell(isolation, root, f"{script}; exit $?").status == status


def test_output_comes_while_it_runs(isolation: Isolation, root: Path) -> None:
    reading, writing = os.pipe()
    seen: list[bytes] = []
    stop = threading.Event()

    def look() -> None:
        seen.append(os.read(reading, 100))
        stop.set()

    from fastlayer.running.spec import Spec, directory

    reader = threading.Thread(target=look)
    reader.start()
    spec = Spec(root=directory(str(root)), args=["sh", "-c", "echo first; sleep 1000"])
    assert isolation.run(spec, stdout=writing, stderr=2, stop=stop) == 137
    reader.join()
    assert seen == [b"first\n"]
    os.close(reading)
    os.close(writing)


def test_standard_input_is_empty_or_given(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    assert shell(isolation, root, "cat; echo end").out == "end\n"
    (tmp_path / "in").write_text("given")
    with open(tmp_path / "in") as file:
        assert shell(isolation, root, "cat", stdin=file.fileno()).out == "given"


def test_no_descriptor_of_the_caller_is_seen(isolation: Isolation, root: Path) -> None:
    secret = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        done = shell(
            isolation, root, "ls -l /proc/self/fd 2>/dev/null; cd /proc/self/fd/ 2>/dev/null; cat ../etc/hostname"
        )
    finally:
        os.close(secret)
    assert "/etc" not in done.out


def test_hosts_and_resolver(isolation: Isolation, root: Path) -> None:
    done = shell(
        isolation, root, "cat /etc/hosts; cat /etc/resolv.conf", hosts=[("db", "10.1.2.3"), ("six", "fd00::1")]
    )
    assert "127.0.0.1\tlocalhost fastlayer\n" in done.out
    assert "10.1.2.3\tdb\n" in done.out and "fd00::1\tsix\n" in done.out
    assert "nameserver" in done.out


def test_devices_work(isolation: Isolation, root: Path) -> None:
    done = shell(
        isolation,
        root,
        "head -c 3 /dev/zero | wc -c; echo x >/dev/null; head -c 4 /dev/urandom | wc -c; echo e >/dev/full",
    )
    assert done.out.split() == ["3", "4"]
    assert done.status == 1 and "No space" in done.err


def test_working_directory_is_made(isolation: Isolation, root: Path) -> None:
    assert shell(isolation, root, "pwd", cwd="/made/here").out == "/made/here\n"
    assert (root / "made/here").is_dir()


# ---- programs that cannot be started -------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing-of-that-name", "/bin/nothing"])
def test_a_missing_program(isolation: Isolation, root: Path, name: str) -> None:
    before = picture(root)
    with pytest.raises(RunError, match="not found") as caught:
        run(isolation, root, name)
    assert caught.value.status == 127
    assert picture(root) == before


def test_a_program_that_cannot_be_executed(root: Path) -> None:
    (root / "bin/plain").write_text("#!/bin/sh\n")
    (root / "bin/text").write_text("echo no line that names an interpreter\n")
    (root / "bin/text").chmod(0o755)
    for isolation in (_working("native"), _working("chroot")):
        for name, why in (("plain", "Permission denied"), ("/bin/text", "exec format error"), ("/tmp", "Permission")):
            with pytest.raises(RunError, match=why) as caught:
                run(isolation, root, name)
            assert caught.value.status == 126


def test_path_is_looked_up_in_the_root(isolation: Isolation, root: Path) -> None:
    (root / "opt").mkdir()
    (root / "opt/tool").write_text("#!/bin/sh\necho tool\n")
    (root / "opt/tool").chmod(0o755)
    assert run(isolation, root, "tool", env=["PATH=/nowhere:/opt"]).out == "tool\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ()},
        {"cwd": "relative"},
        {"env": ["A=\0"]},
        {"hostname": "x" * 65},
        {"user": Ids(-1, 0)},
        {"mounts": [Tmpfs("/proc/x")]},
        {"mounts": [Tmpfs("/a/../b")]},
        {"mounts": [Tmpfs("/")]},
        {"hosts": [("a b", "1.2.3.4")]},
        {"hosts": [("a", "no address")]},
    ],
)
def test_what_cannot_be_run_at_all(isolation: Isolation, root: Path, fields: dict[str, Any]) -> None:
    from fastlayer.running.spec import Spec, directory

    spec = Spec(root=directory(str(root)), args=["true"])._replace(**fields)
    before = picture(root)
    with pytest.raises(UsageError):
        isolation.run(spec, stdout=1, stderr=2, stop=threading.Event())
    assert picture(root) == before


# ---- what is left --------------------------------------------------------------------------------


def test_the_root_is_as_it_was(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("shown")
    (tmp_path / "folder").mkdir()
    before = picture(root)
    mounts = [
        Bind(str(tmp_path / "shown"), "/run/secrets/one"),
        Bind(str(tmp_path / "folder"), "/srv/x/y"),
        Tmpfs("/cache"),
    ]
    done = shell(isolation, root, "cat /run/secrets/one; ls -d /srv/x/y /cache", mounts=mounts)
    assert done.out == "shown/cache\n/srv/x/y\n", done
    assert picture(root) == before


def test_an_overlay_keeps_only_what_the_program_wrote(namespaced: Isolation, root: Path, tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    mount = Mount("overlay", "overlay", ("rw", f"upperdir={upper}", f"workdir={work}"), (str(root),))
    assert shell(namespaced, [mount], "echo new >/etc/new; rm /etc/group").status == 0
    assert sorted(os.listdir(upper)) == ["etc"]
    assert sorted(os.listdir(upper / "etc")) == ["group", "new"]
    assert shell(namespaced, [mount], "cat /etc/new").out == "new\n"  # it can be mounted at once again


def test_what_the_program_puts_beside_a_mount_point_stays(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("shown")
    mounts = [Bind(str(tmp_path / "shown"), "/made/for/it")]
    assert shell(isolation, root, "echo mine >/made/for/mine", mounts=mounts).status == 0
    assert sorted(os.listdir(root / "made/for")) == ["mine"]


def test_times_of_what_the_program_changed_are_its_own(isolation: Isolation, root: Path) -> None:
    before = (root / "etc").stat().st_mtime_ns
    assert shell(isolation, root, "echo x >/etc/x").status == 0
    assert (root / "etc").stat().st_mtime_ns > before
    assert (root).stat().st_mtime_ns == before


def test_all_isolations_leave_the_same(tmp_path: Path) -> None:
    script = "umask; mkdir -p /opt/a; echo text >/opt/a/f; ln -s f /opt/a/l; rm -r /etc/group; chmod 700 /root"
    pictures = {}
    for name in ("native", "chroot") if _backend.engine().name == "baseline" else ISOLATIONS:
        root = busybox_root(tmp_path / name)
        assert shell(_working(name), root, script).out == "0022\n"
        pictures[name] = {path: (*about[:3], *about[4:]) for path, about in picture(root).items()}
    assert all(found == pictures["native"] for found in pictures.values())


def test_a_bind_shows_and_protects_its_source(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("old")
    done = shell(
        isolation, root, "cat /in/file; echo new >/in/file; echo more >/in/more", mounts=[Bind(str(source), "/in")]
    )
    assert done.out == "old"
    assert {name: (source / name).read_text() for name in os.listdir(source)} == {"file": "old"}
    shell(isolation, root, "echo new >/in/file; echo more >/in/more", mounts=[Bind(str(source), "/in", readonly=False)])
    assert (source / "file").read_text() == "new\n" and (source / "more").read_text() == "more\n"
    assert not (root / "in").exists()


def test_mounts_within_mounts(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    mounts = [Bind(str(tmp_path / "inner"), "/m/sub"), Bind(str(tmp_path / "outer"), "/m", readonly=False)]
    before = picture(root)
    done = shell(isolation, root, "cat /m/outer /m/sub/inner", mounts=mounts)
    assert done.out == "outerinner", done
    assert picture(root) == before


def test_a_source_may_be_named_by_a_descriptor(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("by descriptor")
    fd = os.open(tmp_path / "source", os.O_PATH)
    try:
        mounts = [Bind(f"/proc/{os.getpid()}/fd/{fd}", "/in"), Bind(f"/proc/{os.getpid()}/fd/{fd}/file", "/one")]
        assert shell(isolation, root, "cat /in/file /one", mounts=mounts).out == "by descriptorby descriptor"
    finally:
        os.close(fd)


def test_a_socket_can_be_shown(namespaced: Isolation, root: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent"))
        done = shell(namespaced, root, "ls -l /run/agent", mounts=[Bind(str(tmp_path / "agent"), "/run/agent")])
    assert done.out.startswith("s")


def test_nothing_shows_on_a_host_that_shares_its_mounts(namespaced: Isolation, tmp_path: Path) -> None:
    """As systemd sets it up: every mount is shared, a copy of it is its peer."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        root = busybox_root(shared / "root")
        (shared / "source/sub").mkdir(parents=True)
        before = mounts_of_host()
        seen: list[list[str]] = []
        mark, stop = unique(), threading.Event()

        def look() -> None:
            try:
                _until(lambda: bool(_sleeping(mark)))
                seen.append(mounts_of_host())
            finally:
                stop.set()

        watcher = threading.Thread(target=look)
        watcher.start()
        mounts = [Bind(str(shared / "source"), "/in", readonly=False), Tmpfs("/in/sub")]
        assert shell(namespaced, root, f"exec sleep {mark}", mounts=mounts, stop=stop).status == 137
        watcher.join()
        assert [line for line in seen[0] if str(tmp_path) in line] == [line for line in before if str(tmp_path) in line]
    finally:
        subprocess.run(["umount", "-R", shared], check=True)


# ---- how it ends ---------------------------------------------------------------------------------

STRAY = "(setsid sh -c 'sleep {0} & exec sleep {0}' &); (sleep {0} &);"


def test_stray_processes_end_with_the_program(isolation: Isolation, root: Path) -> None:
    mark = unique()
    assert shell(isolation, root, STRAY.format(mark) + "exit 3").status == 3
    assert processes(mark) == []


def test_stop_ends_the_whole_tree(isolation: Isolation, any_root: Root) -> None:
    mark, stop = unique(), threading.Event()

    def when_running() -> None:
        try:
            _until(lambda: len(processes(mark)) >= 3)
        finally:
            stop.set()

    threading.Thread(target=when_running).start()
    assert shell(isolation, any_root, STRAY.format(mark) + f"sleep {mark}", stop=stop).status == 137
    assert processes(mark) == []


def test_processes_that_run_away(isolation: Isolation, root: Path) -> None:
    """Each lives just long enough to start the next one, in a session of its own."""
    mark = unique()
    (root / "bin/away").write_text(f"#!/bin/sh\n[ -e /stopped ] && exit\nsetsid /bin/away {mark} &\n")
    (root / "bin/away").chmod(0o755)
    assert shell(isolation, root, f"away {mark} & away {mark} & sleep 0.2; exit 4").status == 4
    try:
        assert processes(mark) == []
    finally:
        (root / "stopped").touch()


@pytest.mark.parametrize("number", range(3, 30))
def test_a_working_directory_is_no_way_out(root: Path, number: int) -> None:
    """A descriptor that the runtime has open may be a directory outside (CVE-2024-21626)."""
    os.symlink(f"/proc/self/fd/{number}", root / "way")
    for cwd in ("/way", "/way/../../../..", f"/proc/self/fd/{number}"):
        try:
            done = shell(_working("native"), root, "ls -a ./; pwd", cwd=cwd)
        except RunError:
            continue
        assert done.out.splitlines()[-1].startswith("/") and "lost+found" not in done.out and "home" not in done.out


def test_stop_that_was_set_before(isolation: Isolation, root: Path) -> None:
    mark, stop = unique(), threading.Event()
    stop.set()
    before = picture(root)
    assert shell(isolation, root, f"sleep {mark}", stop=stop).status == 137
    assert processes(mark) == []
    assert picture(root) == before


CALLER = """
import sys, threading
from pathlib import Path
from tests.integration.test_running import ISOLATIONS
from fastlayer.running.spec import Spec, directory
isolation = ISOLATIONS[sys.argv[1]]()
spec = Spec(root=directory(sys.argv[2]), args=["sh", "-c", sys.argv[3]])
isolation.run(spec, stdout=1, stderr=2, stop=threading.Event())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_death_of_the_caller_ends_it(which: str, number: int, root: Path) -> None:
    mark = unique()
    script = STRAY.format(mark) + f"exec sleep {mark}"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, which, str(root), script],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "FASTLAYER_BACKEND": _backend.engine().name},
    )
    _until(lambda: len(_sleeping(mark)) >= 3)
    caller.send_signal(number)
    caller.wait()
    _until(lambda: not _sleeping(mark))


def _sleeping(mark: str) -> list[int]:
    found = []
    for pid in processes(mark):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() == "sleep":
                    found.append(pid)
        except OSError:
            continue
    return found


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_exception_in_the_caller_ends_it(isolation: Isolation, root: Path) -> None:
    class Odd(threading.Event):
        calls = 0

        def is_set(self) -> bool:
            self.calls += 1
            if self.calls > 10:
                raise KeyboardInterrupt
            return False

    mark, before = unique(), picture(root)
    with pytest.raises(KeyboardInterrupt):
        shell(isolation, root, STRAY.format(mark) + f"sleep {mark}", stop=Odd())
    assert processes(mark) == []
    assert picture(root) == before


def test_many_at_once(isolation: Isolation, tmp_path: Path) -> None:
    roots = [busybox_root(tmp_path / f"root{number}") for number in range(6)]
    results: dict[int, str] = {}

    def one(number: int) -> None:
        results[number] = shell(isolation, roots[number], f"echo {number} >/made; cat /made; sleep 0.1").out

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(roots))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n" for number in range(len(roots))}


# ---- what a program may not do -------------------------------------------------------------------


def test_capabilities_are_dockers(namespaced: Isolation, root: Path) -> None:
    done = shell(namespaced, root, "grep Cap /proc/self/status")
    values = dict(line.split() for line in done.out.splitlines())
    assert values["CapEff:"] == values["CapPrm:"] == values["CapBnd:"] == "00000000a80425fb"
    assert int(values["CapInh:"], 16) == int(values["CapAmb:"], 16) == 0


def test_a_user_has_no_capabilities(namespaced: Isolation, root: Path) -> None:
    done = shell(namespaced, root, "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status", user=Ids(1000, 1000))
    values = dict(line.split() for line in done.out.splitlines())
    assert all(int(values[name], 16) == 0 for name in ("CapEff:", "CapPrm:", "CapInh:", "CapAmb:"))
    assert values["CapBnd:"] == "00000000a80425fb"
    assert (values["NoNewPrivs:"], values["Seccomp:"]) == ("0", "2")


def test_dangerous_calls_are_refused(isolation: Isolation, root: Path) -> None:
    for call in ("mount -t tmpfs x /tmp", "unshare -m true", "unshare -U true", "hostname changed", "umount /"):
        done = shell(isolation, root, call)
        assert done.status != 0, call
        assert "ermi" in done.err or "perm" in done.err, (call, done)


def test_insecure_takes_limits_away(namespaced: Isolation, root: Path) -> None:
    done = shell(namespaced, root, "mount -t tmpfs x /tmp && grep Seccomp: /proc/self/status", security="insecure")
    assert done.status == 0 and done.out.split() == ["Seccomp:", "0"], done


def test_paths_of_the_kernel_are_masked(namespaced: Isolation, root: Path) -> None:
    done = shell(
        namespaced, root, "cat /proc/keys /proc/timer_list; ls /sys/firmware; echo 1 >/proc/sys/kernel/core_uses_pid"
    )
    assert done.out == "" and "Read-only" in done.err


def test_other_processes_are_not_seen(namespaced: Isolation, root: Path) -> None:
    numbers = [name for name in shell(namespaced, root, "ls /proc").out.split() if name.isdigit()]
    assert 1 <= len(numbers) <= 3 and "1" in numbers


def test_a_network_of_its_own(namespaced: Isolation, root: Path) -> None:
    devices = shell(namespaced, root, "tail -n +3 /proc/net/dev | sed 's/:.*//'", network="none").out.split()
    assert "lo" in devices and not [name for name in devices if name.startswith(("eth", "en", "wl"))]
    assert shell(namespaced, root, "ping -c 1 -W 1 127.0.0.1 >/dev/null", network="none").status == 0


def test_chroot_has_no_network_of_its_own(root: Path) -> None:
    with pytest.raises(RunError, match="network none"):
        run(_working("chroot"), root, "true", network="none")


# ---- hostile roots -------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host, which must stay as it is."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "hosts").write_text("host's")
    settle(place)
    before = picture(place)
    yield place
    assert picture(place) == before


@pytest.mark.parametrize("name", ["etc", "run"])
@pytest.mark.parametrize("kind", ["absolute", "dots", "magic"])
def test_links_in_the_root_do_not_lead_out(
    isolation: Isolation, root: Path, outside: Path, tmp_path: Path, name: str, kind: str
) -> None:
    import shutil

    shutil.rmtree(root / name, ignore_errors=True)
    text = {"absolute": str(outside), "dots": "../" * 40 + str(outside)[1:], "magic": "/proc/self/cwd/" + str(outside)}[
        kind
    ]
    os.symlink(text, root / name)
    before = picture(root)
    mounts = [Bind(str(tmp_path / "outside/hosts"), "/run/secrets/a"), Tmpfs("/etc/b")]
    try:
        shell(isolation, root, "true", mounts=mounts)
    except RunError:
        pass
    # runc takes magic links for links, and makes directories inside the root where those would lead
    assert picture(root) == before or (kind == "magic" and getattr(isolation, "runtime", "") == "runc")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_place_of_a_system_directory(isolation: Isolation, root: Path, outside: Path, name: str) -> None:
    os.symlink(str(outside), root / name)
    before = picture(root)
    try:
        shell(isolation, root, "true")
    except RunError as exc:
        assert "\n" not in str(exc)
    assert picture(root) == before


@pytest.mark.parametrize("name", ["native", "chroot"])
@pytest.mark.parametrize("kind", ["link", "script", "script of a script"])
def test_the_callers_own_program_cannot_be_run(name: str, kind: str, root: Path) -> None:
    """/proc/self/exe is a program of the host until the new one has begun (CVE-2019-5736)."""
    os.symlink("/proc/self/exe", root / "bin/way")
    (root / "bin/script").write_text("#! /proc/self/exe -c\n")
    (root / "bin/twice").write_text("#!/bin/script\n")
    for script in ("script", "twice"):
        (root / "bin" / script).chmod(0o755)
    program = {"link": "way", "script": "script", "script of a script": "twice"}[kind]
    with pytest.raises(RunError) as caught:
        run(_working(name), root, program, "print('the host')")
    assert caught.value.status == (126 if name == "native" else 127)


def test_links_that_loop(isolation: Isolation, root: Path) -> None:
    os.symlink("loop", root / "loop")
    with pytest.raises(RunError):
        run(isolation, root, "true", mounts=[Tmpfs("/loop/x")])


def test_a_resolver_that_is_a_dangling_link(isolation: Isolation, root: Path) -> None:
    os.symlink("../run/systemd/resolve/stub-resolv.conf", root / "etc/resolv.conf")
    settle(root)
    before = picture(root)
    assert "nameserver" in shell(isolation, root, "cat /etc/resolv.conf").out
    assert picture(root) == before


def test_secrets_behind_a_fifo_or_file_are_errors(isolation: Isolation, root: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("x")
    (root / "file").write_text("no directory")
    with pytest.raises(RunError):
        run(isolation, root, "true", mounts=[Bind(str(tmp_path / "shown"), "/file/below")])
    assert (root / "file").read_text() == "no directory"


def test_a_source_that_is_not_there(isolation: Isolation, root: Path) -> None:
    before = picture(root)
    with pytest.raises(RunError, match="nothing-here"):
        run(isolation, root, "true", mounts=[Bind("/nothing-here", "/x")])
    assert picture(root) == before


# ---- without rights ------------------------------------------------------------------------------

SCRIPT = """
import sys, threading
from fastlayer.running.isolation import choose
from fastlayer.running.spec import Spec, directory
from fastlayer.mounts.mount import Mount
root, upper = sys.argv[2:4]
mounts = directory(root)
if upper:
    options = ("rw", "userxattr", f"upperdir={upper}/up", f"workdir={upper}/work")
    mounts = [Mount("overlay", "overlay", options, (root,))]
spec = Spec(root=mounts, args=["sh", "-c", "id -u; touch /made; ls -d /proc/1 /dev/null; mount -t tmpfs x /tmp"])
print(choose(sys.argv[1] or None).name, flush=True)
sys.exit(choose(sys.argv[1] or None).run(spec, stdout=1, stderr=2, stop=threading.Event()))
"""


@pytest.mark.parametrize("name", ["native", "oci"])
@pytest.mark.parametrize("kind", ["directory", "overlay"])
@pytest.mark.parametrize("means", [as_somebody, unshared])
def test_as_a_plain_user(name: str, kind: str, means: Any, root: Path, tmp_path: Path, engine: Any) -> None:
    upper = ""
    if kind == "overlay":
        upper = str(tmp_path)
        (tmp_path / "up").mkdir()
        (tmp_path / "work").mkdir()
    subprocess.run(["chown", "-hR", "54321:54321", str(tmp_path)], check=True)
    done = means([sys.executable, "-c", SCRIPT, name, root, upper], tmp_path, FASTLAYER_BACKEND=engine.name)
    assert done.stdout.splitlines() == [name, "0", "/dev/null", "/proc/1"], done
    assert done.returncode == 1 and "ermi" in done.stderr
    if not upper:
        assert sorted(os.listdir(root)) == ["bin", "etc", "made", "root", "tmp"]
        return
    # mount points were made in /etc, so the kernel has copied it up: it is the same as below
    assert sorted(os.listdir(tmp_path / "up")) == ["etc", "made"]
    changes = fastlayer.diff_upper(tmp_path / "up", root, userxattr=True)
    assert [change.path for change in changes] == [b"", b"made"]


def test_a_plain_user_with_subordinate_ids(root: Path, tmp_path: Path, engine: Any) -> None:
    require("newuidmap", "newgidmap")
    places = ("/etc/passwd", "/etc/subuid", "/etc/subgid")
    if not all(map(os.path.exists, places)):
        pytest.skip("no /etc/subuid to show another one in place of")
    texts = ("somebody:x:54321:54321::/:/bin/sh\n", "somebody:200000:65536\n", "somebody:300000:65536\n")
    shown = {}
    for place, text in zip(places, texts, strict=True):
        file = tmp_path / os.path.basename(place)
        file.write_text(text)
        shown[file] = place
    code = SCRIPT.replace("id -u;", "id -u; chown 5:6 /bin; cat /proc/self/uid_map;")
    command = [sys.executable, "-c", code, "native", root, ""]
    done = as_somebody(command, tmp_path, shown=shown, FASTLAYER_BACKEND=engine.name)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[:4] == ["native", "0", "0 54321 1", "1 200000 65536"], done
    about = (root / "bin").stat()
    assert (about.st_uid, about.st_gid) == (200004, 300005)


def test_chroot_without_rights_to_mount(root: Path, tmp_path: Path, engine: Any) -> None:
    """As in a container of a CI system: root, CAP_SYS_CHROOT, no CAP_SYS_ADMIN, no user namespaces."""
    code = SCRIPT.replace("ls -d /proc/1 /dev/null; mount -t tmpfs x /tmp", "ls -d /dev/null; exit 1")
    limit = "echo 0 >/proc/sys/user/max_user_namespaces"
    command = f'{limit}; exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"'
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, "sh", sys.executable, "-c", code, "", root, ""],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FASTLAYER_BACKEND": engine.name},
    )
    assert done.stdout.splitlines() == ["chroot", "0", "/dev/null"], done


def test_chroot_refuses_without_its_right(root: Path, tmp_path: Path, engine: Any) -> None:
    done = as_somebody([sys.executable, "-c", SCRIPT, "chroot", root, ""], tmp_path, FASTLAYER_BACKEND=engine.name)
    assert done.returncode == 1
    assert "may not call chroot(2): run as root with CAP_SYS_CHROOT" in done.stderr.splitlines()[-1]


def test_probes_and_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [verdict.name for verdict in probes()] == ["native", "oci", "chroot"]
    assert choose("chroot").name == "chroot"
    monkeypatch.setenv("FASTLAYER_ISOLATION", "oci")
    assert choose().name == "oci"
    with pytest.raises(UsageError, match="unknown"):
        choose("magic")
