"""What RUN may do in ``fastlayer build``: leave, security options, limits, devices."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.integration.test_build import Builder, outcome
from tests.integration.test_running_confined import SETUID

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def made(tmp_path: Path, root: Path) -> Iterator[Builder]:
    yield Builder(tmp_path, root)


@pytest.fixture(params=["native", "oci"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def said(lines: list[str]) -> str:
    return "\n".join(lines)


# ---- leave ---------------------------------------------------------------------------------------


def test_insecure_needs_leave(made: Builder, isolation: str) -> None:
    made.write("FROM busybox\nRUN echo one >/one\nRUN --security=insecure mount -t tmpfs x /tmp && echo two >/two\n")
    lines = made.build("--isolation", isolation, code=1)
    assert lines == [
        "fastlayer: Dockerfile:3: RUN --security=insecure is not allowed: give --allow security.insecure to build"
    ]
    lines = made.build("--isolation", isolation, "--allow", "security.insecure")
    assert "[3/3] RUN --security=insecure" in said(lines)
    assert said(made.build("--isolation", isolation, code=1)) != ""  # what the cache has needs it, too
    made.build("--isolation", isolation, "--allow", "security.insecure")


def test_a_stage_that_is_not_built_needs_no_leave(made: Builder) -> None:
    made.write("FROM busybox AS bad\nRUN --security=insecure true\nFROM busybox\nRUN true\n")
    made.build()


def test_a_trigger_needs_leave(made: Builder) -> None:
    made.write("FROM busybox\nONBUILD RUN --security=insecure mount -t tmpfs x /tmp\n")
    made.good("build", "-q", "-t", "base", made.context)
    made.write("FROM base\n")
    lines = made.build(code=1)
    assert lines[-1].endswith(
        "(ONBUILD of the base image): RUN --security=insecure is not allowed: give --allow security.insecure to build"
    )
    made.build("--allow", "security.insecure")


def test_the_hosts_network_in_a_build_without(made: Builder) -> None:
    made.write("FROM busybox\nRUN --network=host tail -n +3 /proc/net/dev | sed 's/:.*//' | sort >/seen\n")
    made.build()
    lines = made.build("--network", "none", code=1)
    assert "Dockerfile:2: RUN --network=host is not allowed in a build with --network none" in lines[-1]
    made.build("--network", "none", "--allow", "network.host", "--allow", "fs.read=/x")


# ---- system calls, privileges, limits ------------------------------------------------------------


def test_a_profile_of_ones_own(made: Builder, isolation: str, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    (tmp_path / "p.json").write_text(json.dumps(profile))
    made.write("FROM busybox\nRUN mkdir /made\n")
    lines = made.build("--isolation", isolation, "--security-opt", f"seccomp={tmp_path / 'p.json'}", code=1)
    assert "No space left on device" in said(lines)
    made.build("--isolation", isolation, "--security-opt", "seccomp=unconfined")


def test_unconfined(made: Builder, isolation: str) -> None:
    made.write("FROM busybox\nRUN unshare -U true\n")
    assert "ermitted" in said(made.build("--isolation", isolation, code=1))
    made.build("--isolation", isolation, "--security-opt", "seccomp=unconfined")


def test_capabilities_more_and_less(made: Builder, isolation: str) -> None:
    made.write("FROM busybox\nRUN mount -t tmpfs x /tmp\nRUN chown 5 /etc/passwd\n")
    assert "ermi" in said(made.build("--isolation", isolation, code=1))
    made.build("--isolation", isolation, "--cap-add", "SYS_ADMIN")
    lines = made.build("--isolation", isolation, "--cap-add", "SYS_ADMIN", "--cap-drop", "chown", "--explain", code=1)
    assert "not cached: the set of capabilities was" in said(lines) and "RUN chown" in lines[-1]


def test_setuid_programs_work_unless_they_should_not(made: Builder, isolation: str, tmp_path: Path) -> None:
    """What ``sudo`` needs: a user becomes root by a program that is setuid, as in docker build."""
    require("cc")
    (tmp_path / "ids.c").write_text(SETUID)
    subprocess.run(["cc", "-static", "-o", made.context / "ids", tmp_path / "ids.c"], check=True)
    made.write("FROM busybox\nCOPY --chmod=4755 ids /bin/\nUSER app\nRUN ids >/tmp/seen\n")
    for number, (words, ids) in enumerate((((), "1000 0"), (("--security-opt", "no-new-privileges"), "1000 1000"))):
        target = tmp_path / f"out{number}"
        options = ("--isolation", isolation, "--no-cache", *words, "-o", f"type=local,dest={target}")
        made.good("build", "-q", *options, made.context)
        assert (target / "tmp/seen").read_text() == f"{ids}\n"


def test_limits_of_steps(made: Builder, isolation: str, tmp_path: Path) -> None:
    made.write("FROM busybox\nUSER app\nRUN ulimit -n >/tmp/seen; ulimit -Hn >>/tmp/seen; ulimit -c >>/tmp/seen\n")
    limits = ("--isolation", isolation, "--ulimit", "nofile=77:99", "--ulimit", "core=0")
    made.build(*limits)
    target = tmp_path / "out"
    made.good("build", "-q", *limits, "-o", f"type=local,dest={target}", made.context)
    assert (target / "tmp/seen").read_text().split() == ["77", "99", "0"]
    lines = made.build("--explain", "--isolation", isolation, "--ulimit", "nofile=50")
    assert "not cached: --ulimit was" in said(lines)


# ---- devices -------------------------------------------------------------------------------------


@pytest.fixture
def described(tmp_path: Path, made: Builder) -> Path:
    place = tmp_path / "cdi"
    place.mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/driver.so").write_text("the driver")
    edits = {
        "env": ["GPU=zero", "PATH=/opt/gpu:/bin"],
        "deviceNodes": [{"path": "/dev/gpu/0", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": str(tmp_path / "lib"), "containerPath": "/opt/gpu", "options": ["ro", "rbind"]}],
        "additionalGids": [4242],
    }
    free = {"org.mobyproject.buildkit.device.autoallow": "true"}
    value = {
        "cdiVersion": "0.6.0",
        "kind": "vendor1.com/gpu",
        "devices": [
            {"name": "0", "containerEdits": edits},
            {"name": "free", "containerEdits": {"env": ["FREE=1"]}, "annotations": free},
            {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
        ],
    }
    (place / "gpu.json").write_text(json.dumps(value))
    made.env["FASTLAYER_CDI_SPEC_DIRS"] = str(place)
    return place


USES = (
    "FROM busybox\nRUN --device=vendor1.com/gpu=0,required (echo $GPU; head -c 2 /dev/gpu/0 | wc -c; "
    "cat /opt/gpu/driver.so; id -G; touch /opt/gpu/x 2>&1) >/seen; ls /dev >/dev.txt\n"
)


def test_a_described_device(made: Builder, described: Path, isolation: str, tmp_path: Path) -> None:
    made.write(USES)
    words = ("--isolation", isolation)
    lines = made.build(*words, code=1)
    assert "RUN --device=vendor1.com/gpu=0 is not allowed: give --allow device=vendor1.com/gpu=0" in lines[-1]
    lines = made.build(*words, "--allow", "device=vendor1.com/gpu=0")
    target = tmp_path / "out"
    made.good("build", "-q", *words, "--allow", "device", "-o", f"type=local,dest={target}", made.context)
    seen = (target / "seen").read_text()
    assert seen.startswith("zero\n2\nthe driver") and "4242" in seen.split() and "Read-only" in seen
    assert not (target / "opt").exists() and not (target / "dev").exists()  # nothing of it is in the layer
    assert outcome(made.build(*words, "--allow", "device=vendor1.com/gpu"))["[2/2] " + made_line()] == "CACHED"


def made_line() -> str:
    return " ".join(USES.splitlines()[1].split())


def test_a_device_by_another_name(made: Builder, described: Path) -> None:
    made.write("FROM busybox\nRUN --device=any.org/gpu=x,required test $GPU = zero\n")
    made.build("--allow", "device=vendor1.com/gpu=0,alias=any.org/gpu=x")
    assert "no CDI device any.org/gpu=x" in made.build("--allow", "device", code=1)[-1]


def test_a_device_is_part_of_the_key(made: Builder, described: Path) -> None:
    made.write("FROM busybox\nRUN echo same\n")
    made.build()
    made.write("FROM busybox\nRUN --device=vendor1.com/gpu=free echo same\n")
    assert outcome(made.build())["[2/2] RUN --device=vendor1.com/gpu=free echo same"] == "DONE"
    assert outcome(made.build())["[2/2] RUN --device=vendor1.com/gpu=free echo same"] == "CACHED"


def test_a_device_that_is_missing(made: Builder, described: Path) -> None:
    made.write("FROM busybox\nRUN --device=vendor1.com/gpu=9 echo without\n")
    assert "vendor1.com/gpu=9 is described in" in said(made.build())
    made.write("FROM busybox\nRUN --device=vendor1.com/gpu=9,required echo with\n")
    lines = made.build(code=1)
    assert lines[-1].startswith("fastlayer: Dockerfile:2: RUN: no CDI device vendor1.com/gpu=9 is described in")


def test_hooks_are_refused(made: Builder, described: Path) -> None:
    made.write("FROM busybox\nRUN --device=vendor1.com/gpu=hooked true\n")
    lines = made.build("--allow", "device", code=1)
    assert "wants hooks: hooks are programs of the host, which are not run here" in lines[-1]


def test_devices_of_the_build(made: Builder, described: Path, isolation: str, tmp_path: Path) -> None:
    made.write("FROM busybox\nRUN echo $FREE >/seen; head -c 3 /dev/other | wc -c >>/seen\n")
    words = ("--isolation", isolation, "--device", "/dev/zero:/dev/other", "--device", "vendor1.com/gpu=free")
    made.build(*words)
    target = tmp_path / "out"
    made.good("build", "-q", *words, "-o", f"type=local,dest={target}", made.context)
    assert (target / "seen").read_text().split() == ["1", "3"]


# ---- options of docker build ---------------------------------------------------------------------


def test_options_that_make_no_difference(made: Builder) -> None:
    made.write("FROM busybox\nRUN true\n")
    flags = ("--rm", "--force-rm", "--compress", "--load", "--provenance=false", "--sbom", "false", "--builder", "x")
    made.build(*flags)


def test_call_check(made: Builder) -> None:
    made.write("from busybox\nRUN true\n")
    done = made.run("build", "--call=check", made.context)
    assert done.returncode == 1 and b"ConsistentInstructionCasing" in done.stdout
    assert made.run("build", "--call=outline", made.context).returncode == 2
