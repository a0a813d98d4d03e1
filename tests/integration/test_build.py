"""``fastlayer build`` as it is typed: steps, layers, the cache, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from tests.filesystems import loop_fs
from tests.running import unique
from tests.shell import COMMAND, Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
EPOCH = "1700000000"


class Builder(Shell):
    """A store with the image ``busybox``, and a context."""

    def __init__(self, place: Path, root: Path, driver: str = "overlay2") -> None:
        super().__init__(place / "store", driver)
        self.context = place / "context"
        self.context.mkdir()
        self.good("import", "-q", "--source-date-epoch", "1000", root, "busybox")

    def write(self, dockerfile: str, **files: str) -> None:
        (self.context / "Dockerfile").write_text(dockerfile)
        for name, text in files.items():
            path = self.context / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def build(self, *words: str, code: int = 0) -> list[str]:
        """The lines on stderr."""
        done = self.run("build", "-t", "made", "--progress", "plain", *words, self.context)
        assert done.returncode == code, done.stderr.decode()
        assert b"internal error" not in done.stderr and b"Traceback" not in done.stderr, done.stderr.decode()
        return done.stderr.decode().splitlines()

    def config(self, name: str = "made") -> dict[str, object]:
        (value,) = json.loads(self.good("inspect", name))
        found: dict[str, object] = value["Config"]
        return found

    def tree(self, place: Path, name: str = "made") -> Path:
        """Its files as a directory."""
        target = place / f"tree{time.monotonic_ns()}"
        self.good("build", "-q", "-o", f"type=local,dest={target}", self.context)
        return target


def outcome(lines: list[str]) -> dict[str, str]:
    """``{"[2/3] RUN x": "CACHED"}`` of plain progress."""
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for line in lines:
        number, _, rest = line.partition(" ")
        if not number.startswith("#"):
            continue
        names.setdefault(number, rest)
        for word in ("CACHED", "DONE", "ERROR"):
            if rest.startswith(word):
                found[names[number]] = word
    return found


MANY = """
FROM busybox AS build
WORKDIR /src/deep
COPY --chown=app . .
RUN mkdir /out && cp main.txt /out/res && ln -s res /out/link && rm /etc/group && mkdir -p /a/b && chmod 700 /root
USER app
RUN echo mine > /tmp/y && mkdir /tmp/d
FROM build
USER root
COPY --from=build /out /app/
COPY --link lib /linked/x/
ADD lib /data/
RUN mv /app /moved && rm -r /tmp/d
CMD ["cat", "/moved/res"]
"""


def write_many(made: Builder) -> None:
    """``MANY`` and its context."""
    made.write(MANY, main__txt="", lib__one="1", **{"main.txt": "hello\n"})


PAIRS = [
    (driver, isolation)
    for driver in ("overlay2", "vfs", "vfs-on-ext4", "btrfs")
    for isolation in ("native", "oci", "chroot")
    if (driver, isolation) != ("overlay2", "chroot")  # refused, below
]


@pytest.fixture(scope="module")
def disks() -> Iterator[dict[str, Path]]:
    """File systems that some drivers need: vfs goes by ctimes where these can be trusted, which is not in memory.

    What devicemapper needs is in tests/uml_devicemapper.
    """
    with loop_fs("btrfs", 512 << 20) as one, loop_fs("ext4", 512 << 20) as two:
        yield {"btrfs": one, "vfs-on-ext4": two}


@pytest.mark.parametrize("driver,isolation", PAIRS)
def test_the_same_image_with_every_driver_and_isolation(
    tmp_path: Path, root: Path, disks: dict[str, Path], driver: str, isolation: str
) -> None:
    place = disks.get(driver, tmp_path) / isolation
    place.mkdir()
    made = Builder(place, root, driver.partition("-")[0])
    write_many(made)
    words = ("--isolation", isolation, "--source-date-epoch", EPOCH)
    done = made.run("build", "-q", *words, "-t", "made", made.context)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == reference(tmp_path, root)
    assert bool(list(made.root.glob("vfs/*/record-*"))) == (driver == "vfs-on-ext4")
    assert made.good("store", "check").strip().endswith("sound")


_REFERENCE: dict[str, str] = {}


def reference(place: Path, root: Path) -> str:
    """The id of the same image by overlay2 and native."""
    if not _REFERENCE:
        (place / "reference").mkdir()
        made = Builder(place / "reference", root)
        write_many(made)
        _REFERENCE["id"] = made.good("build", "-q", "--source-date-epoch", EPOCH, made.context).strip()
    return _REFERENCE["id"]


def test_an_isolation_that_is_asked_for_chooses_the_driver(made: Builder) -> None:
    """The store has the base image by overlay2, which chroot cannot mount."""
    del made.env["FASTLAYER_DRIVER"]
    made.write("FROM busybox\nRUN echo 1 > /one\n")
    made.build()
    assert not (made.root / "vfs").exists()
    made.write("FROM busybox\nRUN echo 1 > /one\nRUN echo 2 > /two\n")
    lines = made.build("--isolation", "chroot")
    assert outcome(lines)["[2/3] RUN echo 1 > /one"] == "CACHED" and outcome(lines)["[3/3] RUN echo 2 > /two"] == "DONE"
    assert (made.root / "vfs").exists()
    made.env["FASTLAYER_ISOLATION"] = "chroot"
    made.build("--no-cache")
    assert not {"CACHED"} - set(outcome(made.build()).values())


@pytest.mark.parametrize("driver", ["overlay2", "devicemapper"])
def test_a_driver_that_does_not_fit_is_refused_before_anything_is_done(made: Builder, driver: str) -> None:
    made.env["FASTLAYER_DRIVER"] = driver
    made.write("FROM busybox\nCOPY Dockerfile /\nRUN true\n")
    lines = made.build("--isolation", "chroot", code=1)
    assert [line for line in lines if line.startswith("#")] == []
    assert lines[-1].startswith(
        f"fastlayer: isolation chroot mounts nothing, and snapshots of the driver {driver} have to be mounted: "
        "use --driver vfs"
    )
    made.env["FASTLAYER_DRIVER"] = "overlay2"
    made.write("FROM busybox\nCOPY Dockerfile /\n")
    made.build("--isolation", "chroot")  # there is nothing to run
    made.env["FASTLAYER_ISOLATION"] = "magic"
    assert "isolation 'magic' is unknown: use native" in made.refused("build", "-q", made.context, code=2)


def test_an_isolation_that_is_found_has_to_fit_too(made: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel where overlayfs can be mounted, but a root of its own cannot be made."""
    from fastlayer.running import isolation

    monkeypatch.setattr(isolation, "_HOME", {"chroot": isolation._HOME["chroot"]})
    monkeypatch.setattr(isolation, "_chosen", {})
    monkeypatch.setenv("FASTLAYER_DRIVER", "overlay2")
    made.write("FROM busybox\nRUN true\n")
    with pytest.raises(fastlayer.BuildError, match="Dockerfile:2: RUN: isolation chroot mounts nothing"):
        fastlayer.build(made.context, root=made.root)
    monkeypatch.setenv("FASTLAYER_DRIVER", "vfs")
    assert fastlayer.build(made.context, root=made.root).steps == 1


def test_why_an_isolation_is_not_the_first_is_told(made: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer.builder.progress import Silent
    from fastlayer.running import isolation
    from fastlayer.running.native import Native

    notes: list[str] = []
    monkeypatch.setattr(Native, "probe", lambda _: isolation.Probe(False, "not today", "wait"))
    monkeypatch.setattr(isolation, "_HOME", {name: isolation._HOME[name] for name in ("native", "chroot")})
    monkeypatch.setattr(isolation, "_chosen", {})
    monkeypatch.setattr(isolation, "_passed_over", {})
    monkeypatch.setattr(Silent, "note", lambda _self, _vertex, text: notes.append(text))
    made.write("FROM busybox\nRUN true\nRUN true again\n")
    with pytest.raises(fastlayer.BuildError, match=r"use --driver vfs, .* \(native: not today: wait\)$"):
        fastlayer.build(made.context, root=made.root, driver="overlay2")
    fastlayer.build(made.context, root=made.root, driver="vfs", isolation="chroot")
    assert not notes  # it was asked for
    fastlayer.build(made.context, root=made.root, driver="vfs", no_cache=True)
    assert notes == ["isolation chroot (native: not today: wait)"]


def test_files_and_configuration(made: Builder, tmp_path: Path) -> None:
    made.write(
        "FROM busybox\nENV A=1 B=$A\nWORKDIR /w\nRUN echo $A > f && id -u > /u\nUSER app\n"
        "RUN id -u > /tmp/u && pwd > /tmp/p\n"
        'EXPOSE 80\nLABEL l=1\nENTRYPOINT ["x"]\n'
    )
    made.build("--label", "m=2")
    tree = made.tree(tmp_path)
    assert (tree / "w/f").read_text() == "1\n" and (tree / "u").read_text() == "0\n"
    assert (tree / "tmp/u").read_text() == "1000\n" and (tree / "tmp/p").read_text() == "/w\n"
    config = made.config()
    assert config["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B="]
    assert config["User"] == "app" and config["WorkingDir"] == "/w" and config["Labels"] == {"l": "1", "m": "2"}


def test_a_second_build_finds_everything_and_gives_the_same(made: Builder) -> None:
    made.write("FROM busybox\nRUN date +%N > /now\nCOPY a /\n", a="1")
    first = made.good("build", "-q", "-t", "made", made.context)
    lines = made.build()
    assert set(outcome(lines).values()) == {"CACHED"}
    assert made.good("build", "-q", "-t", "made", made.context) == first


def test_a_changed_file_rebuilds_from_its_copy_on(made: Builder) -> None:
    made.write("FROM busybox\nRUN true one\nCOPY a /\nRUN true two\n", a="1", other="1")
    made.build()
    made.write("FROM busybox\nRUN true one\nCOPY a /\nRUN true two\n", a="2", other="2")
    lines = made.build("--explain")
    assert outcome(lines) == {
        "[1/4] FROM busybox": "CACHED",
        "[2/4] RUN true one": "CACHED",
        "[3/4] COPY a /": "DONE",
        "[4/4] RUN true two": "DONE",
    }
    assert any(line.endswith("not cached: the content of a has changed") for line in lines)
    os.utime(made.context / "a")  # times do not count
    assert set(outcome(made.build()).values()) == {"CACHED"}
    (made.context / "a").chmod(0o755)
    assert any(line.endswith("not cached: the mode of a has changed") for line in made.build("--explain"))


def test_a_second_dockerfile_shares_the_first_lines(made: Builder) -> None:
    made.write("FROM busybox\nRUN echo base > /base\nCOPY lib /lib\nCOPY one /\n", lib__x="x", one="1", two="2")
    made.build()
    made.write('FROM busybox\nRUN echo base > /base\nCOPY lib /lib\nCOPY two /\nENTRYPOINT ["two"]\n')
    assert list(outcome(made.build()).values()) == ["CACHED", "CACHED", "CACHED", "DONE"]


def test_a_copy_is_taken_over_onto_another_base(made: Builder, tmp_path: Path) -> None:
    """Its layer depends on what it meets, not on all that is below."""
    made.write("FROM busybox\nRUN echo 1 > /one\nCOPY a /dir/\n", a="1")
    made.build()
    made.write("FROM busybox\nRUN echo 2 > /two\nCOPY a /dir/\n", a="1")
    assert list(outcome(made.build()).values()) == ["CACHED", "DONE", "CACHED"]
    tree = made.tree(tmp_path)
    assert (tree / "two").exists() and not (tree / "one").exists() and (tree / "dir/a").read_text() == "1"


def test_arguments_and_environment_are_part_of_the_key(made: Builder) -> None:
    made.write("FROM busybox\nARG V=1\nRUN echo $V > /v\n")
    made.build()
    assert "the variable V was '1', is '2'" in "\n".join(made.build("--build-arg", "V=2", "--explain"))
    assert outcome(made.build("--build-arg", "V=1"))["[2/2] RUN echo $V > /v"] == "CACHED"


def test_proxies_are_in_no_key_and_no_history(made: Builder) -> None:
    made.write("FROM busybox\nRUN echo $HTTP_PROXY > /p\n")
    made.build("--build-arg", "HTTP_PROXY=http://user:secret@proxy")
    assert set(outcome(made.build()).values()) == {"CACHED"}
    assert "secret" not in made.good("history", "--no-trunc", "made")


def test_a_stage_that_nobody_needs_is_not_built(made: Builder) -> None:
    made.write("FROM busybox AS unused\nRUN exit 1\nFROM busybox AS mid\nRUN true\nFROM mid\nRUN true last\n")
    assert not any("unused" in line for line in made.build())
    assert "[unused 2/2] RUN exit 1" in outcome(made.build("--target", "unused", code=1))


def test_a_step_that_fails(made: Builder) -> None:
    made.write("FROM busybox\nRUN echo before > /x\nRUN echo to the output; echo to the error >&2; exit 7\n")
    lines = made.build(code=1)
    where = str(made.context / "Dockerfile")
    assert lines[-1].startswith("fastlayer: ") and lines[-1].endswith("exit status 7") and ":3: RUN echo" in lines[-1]
    assert "to the output" in lines and "to the error" in lines and any(">>> RUN echo to" in line for line in lines)
    assert outcome(made.build(code=1))["[2/3] RUN echo before > /x"] == "CACHED", where
    assert json.loads(made.good("store", "check", "--format", "json") or "{}") is not None


def test_no_cache(made: Builder) -> None:
    made.write("FROM busybox AS a\nRUN true\nFROM a AS b\nRUN true b\n")
    made.build()
    assert list(outcome(made.build("--no-cache")).values()) == ["CACHED", "DONE", "CACHED", "DONE"]
    found = outcome(made.build("--no-cache-filter", "b"))
    assert found["[a 2/2] RUN true"] == "CACHED" and found["[b 2/2] RUN true b"] == "DONE"


def test_secrets_are_nowhere(made: Builder) -> None:
    (made.context / "secret").write_text("tiger-and-lion")
    made.write(
        "FROM busybox\nRUN --mount=type=secret,id=s,required=true --mount=type=secret,id=s,env=TOKEN,target=/t "
        "cat /run/secrets/s > /dev/null && test ${#TOKEN} = 14 && test $(cat /t) = $TOKEN && "
        "stat -c %a:%u /run/secrets/s\n"
    )
    (made.context / ".dockerignore").write_text("secret\n")
    lines = made.build("--secret", f"id=s,src={made.context / 'secret'}")
    assert any(line.endswith("400:0") for line in lines)
    (made.context / "secret").unlink()
    found = subprocess.run(["grep", "-rl", "tiger-and-lion", made.root], capture_output=True, text=True)
    assert found.stdout == "", found.stdout
    assert "is required" in made.build("--no-cache", code=1)[-1]


def test_secrets_of_killed_builds_go(made: Builder) -> None:
    made.write("FROM busybox\nRUN --mount=type=secret,id=s echo started; sleep 4567\n")
    secret = f"leopard {unique()}"
    (made.context / "secret").write_text(secret)
    words = [*COMMAND, "build", "--progress", "plain", "--secret", f"id=s,src={made.context / 'secret'}"]
    process = subprocess.Popen([*words, made.context], env=made.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(b"started"):
            break
    assert left_secrets(secret)
    process.kill()
    process.wait()
    process.stderr.close()
    made.write("FROM busybox\nRUN --mount=type=secret,id=s true\n")
    made.build("--secret", f"id=s,src={made.context / 'secret'}")
    assert not left_secrets(secret)


def left_secrets(secret: str) -> list[Path]:
    places = Path("/dev/shm").glob("fastlayer-secret-*/secret")
    return [path for path in places if path.read_bytes() == secret.encode()]


def test_cache_mounts_stay(made: Builder, tmp_path: Path) -> None:
    mount = "--mount=type=cache,target=/c,uid=1000,mode=0700"
    made.write(f"FROM busybox\nARG N\nRUN {mount} echo $N >> /c/f; cat /c/f; ls -ldn /c\n")
    made.build("--build-arg", "N=1")
    lines = made.build("--build-arg", "N=2")
    assert any(line.endswith(" 1") for line in lines) and any(line.endswith(" 2") for line in lines)
    assert any("drwx------" in line and " 1000 " in line for line in lines)
    assert not (made.tree(tmp_path) / "c").exists()


def test_bind_mounts(made: Builder, tmp_path: Path) -> None:
    made.write(
        "FROM busybox AS other\nRUN mkdir /o && echo from-stage > /o/f\nFROM busybox\n"
        "RUN --mount=target=/ctx --mount=from=other,source=/o,target=/o,rw "
        "cat /ctx/in /o/f > /both && ! test -e /ctx/out && echo lost > /o/g && ! touch /ctx/x 2> /dev/null\n",
        **{"in": "from-context\n", "out": "no", ".dockerignore": "out\n"},
    )
    made.build()
    tree = made.tree(tmp_path)
    assert (tree / "both").read_text() == "from-context\nfrom-stage\n"
    assert not (tree / "ctx").exists() and not (tree / "o").exists()
    (made.context / "in").write_text("changed")
    assert outcome(made.build())["[stage-1 2/2] " + (made.context / "Dockerfile").read_text().split("\n")[3]] == "DONE"


def test_onbuild(made: Builder, tmp_path: Path) -> None:
    made.write("FROM busybox\nONBUILD COPY a /a\nONBUILD RUN cp /a /b\n", a="1")
    made.good("build", "-q", "-t", "parent", made.context)
    made.write("FROM parent\nRUN cp /b /c\n")
    assert list(outcome(made.build())) == [
        "[1/4] FROM parent",
        "[2/4] ONBUILD COPY a /a",
        "[3/4] ONBUILD RUN cp /a /b",
        "[4/4] RUN cp /b /c",
    ]
    assert (made.tree(tmp_path) / "c").read_text() == "1" and "OnBuild" not in made.config()


def test_here_documents(made: Builder, tmp_path: Path) -> None:
    made.write(
        "FROM busybox\nENV V=1\nRUN <<A\necho $V > /one\necho two > /two\nA\nRUN <<B\n#!/bin/awk -f\n"
        'BEGIN { print "awk" > "/three" }\nB\nCOPY <<C /four\n$V\nC\nCOPY <<"D" /five\n$V\nD\n'
        "RUN cat <<E > /six && cat <<F > /seven\n6\nE\n7\nF\n"
    )
    made.build()
    tree = made.tree(tmp_path)
    names = ("one", "two", "three", "four", "five", "six", "seven")
    assert [(tree / name).read_text() for name in names] == ["1\n", "two\n", "awk\n", "1\n", "$V\n", "6\n", "7\n"]


def test_interrupted(made: Builder) -> None:
    nap = f"sleep {unique()}"
    made.write(f"FROM busybox\nRUN echo started; {nap} & {nap}\n")
    words = [*COMMAND, "build", "--progress", "plain", str(made.context)]
    process = subprocess.Popen(words, env=made.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(b"started"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stderr.close()
    assert not running(nap)
    made.good("store", "check")


def test_killed(made: Builder) -> None:
    nap = f"sleep {unique()}"
    made.write(f"FROM busybox\nRUN echo started; {nap}\n")
    words = [*COMMAND, "build", "--progress", "plain", str(made.context)]
    process = subprocess.Popen(words, env=made.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(b"started"):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    for _ in range(100):
        if not running(nap):
            break
        time.sleep(0.1)
    assert not running(nap)
    made.good("store", "gc")
    assert not any((made.root / "cache").glob("work/*"))
    made.good("store", "check")


def running(text: str) -> bool:
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").strip() == text.encode():
                return True
        except OSError:
            continue
    return False


def test_pruning(made: Builder) -> None:
    made.write("FROM busybox\nRUN head -c 1000000 /dev/zero > /big\n")
    made.build()
    made.write("FROM busybox\nRUN head -c 1000 /dev/zero > /small\n")
    made.build()
    assert {str(row["What"])[:20] for row in made.rows("cache", "ls")} == {
        "RUN head -c 1000000 ",
        "RUN head -c 1000 /de",
    }
    made.good("image", "prune", "-f")  # the cache keeps the layer of the first
    assert "Would remove 1 steps" in made.good("cache", "prune", "--dry-run")
    assert "Removed 1 steps" in made.good("cache", "prune", "-f")
    assert len(made.rows("cache", "ls")) == 1
    assert set(outcome(made.build()).values()) == {"CACHED"}
    made.good("cache", "prune", "-f", "--all")
    assert made.rows("cache", "ls") == []
    assert outcome(made.build())["[2/2] RUN head -c 1000 /dev/zero > /small"] == "DONE"


def test_what_a_build_has_begun_with_is_not_pruned(made: Builder) -> None:
    """Neither its base image, nor what its steps have come to, which no image has yet."""
    from fastlayer.builder.progress import Silent, Vertex

    class Pruner(Silent):
        def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None:
            if "RUN" in vertex.name:
                made.good("cache", "prune", "-a", "-f")
                made.good("image", "prune", "-a", "-f")

    made.write("FROM busybox\nRUN echo 1 >/a\nRUN echo 2 >/b\n")
    image = fastlayer.build(made.context, root=made.root, tags=["pruned"], observer=Pruner()).image
    assert [row["Repository"] for row in made.rows("images")] == ["pruned"]
    assert made.good("run", "--rm", image.id, "cat", "/a", "/b") == "1\n2\n"
    assert made.good("store", "check").endswith(": sound\n")


def test_warnings_of_the_dockerfile(made: Builder) -> None:
    made.write("FROM busybox\nMAINTAINER me\nRUN true\n")
    lines = made.build()
    assert " - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)" in lines
    assert made.run("build", "--check", made.context).returncode == 1
    made.write("# check=error=true\nFROM busybox\nMAINTAINER me\nRUN true\n")
    assert "MaintainerDeprecated" in made.build(code=1)[-1]
    made.write("# check=skip=MaintainerDeprecated\nFROM busybox\nMAINTAINER me\nRUN true\n")
    assert not any("Maintainer instruction" in line for line in made.build())
    assert made.run("build", "--check", made.context).returncode == 0


def test_checks_know_base_images(made: Builder) -> None:
    """PATH is a variable of the image, and one that is near to it in name is a slip."""
    made.write("FROM busybox\nENV A=$PATH B=$HOSTNAM\nENV HOSTNAME=1\n")
    found = made.run("build", "--check", made.context).stdout.decode()
    assert "UndefinedVar" in found and "$HOSTNAM" in found and "'$PATH'" not in found


def test_doctor_tells_how_commands_are_run(made: Builder) -> None:
    rows = {row["Isolation"]: row for row in made.rows("doctor", "--isolations")}
    assert list(rows) == ["native", "oci", "chroot"]
    assert all(row["Works"] == "yes" or (row["Why"] and row["Remedy"]) for row in rows.values())
    assert "ISOLATION" in made.good("doctor")


def test_choices_by_patterns_are_quick_and_exact(made: Builder) -> None:
    """A copy with patterns is found by the whole of what it chooses from, and else by what it chooses."""
    made.write("FROM busybox\nCOPY --exclude=*.md src /src/\n", **{"src/a": "1", "src/b.md": "1"})
    made.build()
    assert set(outcome(made.build()).values()) == {"CACHED"}
    (made.context / "src/b.md").write_text("2")
    assert set(outcome(made.build()).values()) == {"CACHED"}
    (made.context / "src/a").write_text("2")
    assert outcome(made.build())["[2/2] COPY --exclude=*.md src /src/"] == "DONE"


def test_squash(made: Builder, tmp_path: Path) -> None:
    made.write("FROM busybox\nRUN head -c 100000 /dev/zero > /big && echo 1 > /kept\nRUN rm /big\nRUN echo 2 > /kept\n")
    made.build("--squash")
    history = made.rows("history", "made")
    assert [row["Size"] for row in history[:4]] == ["2 B", "0 B", "0 B", "0 B"] and len(history) == 5
    made.good("build", "-q", "--squash", "-o", f"type=local,dest={tmp_path / 'out'}", made.context)
    assert (tmp_path / "out/kept").read_text() == "2\n" and not (tmp_path / "out/big").exists()
    assert "#5 squashing 3 layers" in made.build("--squash")


def test_pruning_forgets_all_keys_of_a_step(made: Builder) -> None:
    made.write("FROM busybox\nCOPY a /\nRUN --mount=type=cache,target=/c touch /c/x\n", a="1")
    made.build()
    made.good("rmi", "made")
    made.good("cache", "prune", "-f", "--all")
    with sqlite3.connect(made.root / "metadata.db") as db:
        for table in ("build_steps", "build_nodes", "cache_mounts"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_disk_usage_of_the_cache(made: Builder) -> None:
    def line() -> dict[str, object]:
        return next(row for row in made.rows("system", "df") if row["Type"] == "Build Cache")

    made.write("FROM busybox\nRUN head -c 3000000 /dev/zero | tr '\\0' x > /big\n")
    made.build()
    assert (line()["TotalCount"], line()["Active"], line()["Size"]) == (1, 1, "0 B")
    made.good("rmi", "made")
    made.good("image", "prune", "-f")
    assert (line()["TotalCount"], line()["Active"]) == (1, 0) and str(line()["Size"]) == "3 MB"


def test_why(made: Builder) -> None:
    made.write("FROM busybox\nCOPY dir /d\n", dir__a="1", dir__b="1")
    made.build()
    (made.context / "dir/b").write_text("2")
    made.build()
    assert made.rows("cache", "why")[0]["Why"] == "the content of dir/b has changed"


@pytest.mark.parametrize(
    "dockerfile,words",
    [
        ("FROM nothing-of-this-name\n", "no such image"),
        ("FROM busybox\nCOPY missing /\n", "missing: not found"),
        ("FROM busybox\nCOPY ../../etc/shadow /\n", "not found"),
        ("FROM busybox AS b\nCOPY --from=later a /\nFROM busybox AS later\nFROM b\n", "later"),
        ("FROM busybox\nCOPY --chown=nobody-here a /\n", "nobody-here"),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", "nobody-here"),
        ("FROM busybox\nRUN /no/such/program\n", "127"),
        ('FROM busybox\nRUN ["/no/such/program"]\n', "/no/such/program"),
        ("FROM busybox\nFROM busybox\nRUN --mount=from=3,target=/x true\n", "3"),
        ("FROM busybox\nRUM true\n", "did you mean RUN"),
        ("FROM scratch\nRUN true\n", "/bin/sh"),
    ],
)
def test_what_cannot_be_built(made: Builder, dockerfile: str, words: str) -> None:
    made.write(dockerfile, a="1")
    lines = made.build(code=1)
    assert words in lines[-1] and lines[-1].startswith("fastlayer: "), lines


def test_python(made: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastlayer

    made.write("FROM busybox\nARG V\nRUN echo $V > /v\n")
    found = fastlayer.build(str(made.context), tags=["api:1"], build_args={"V": "9"}, root=made.root, driver="overlay2")
    assert found.names == ("docker.io/library/api:1",) and (found.steps, found.cached) == (1, 0)
    again = fastlayer.build(str(made.context), tags=["api:1"], build_args={"V": "9"}, root=made.root, driver="overlay2")
    assert again.image == found.image and again.cached == 1
    made.write("FROM busybox\nRUN exit 5\n")
    with pytest.raises(fastlayer.BuildError) as error:
        fastlayer.build(str(made.context), root=made.root, driver="overlay2")
    assert error.value.status == 5 and error.value.line == 2


@pytest.mark.parametrize(
    "outputs, why",
    [
        (["type=oci,dest={}/no/x.tar"], "no/x.tar: its directory is not there: make "),
        (["type=tar,dest={}"], "is a directory: name a file"),
        (["type=oci,dest={0}/x", "type=docker,dest={0}/./x"], "several go to "),
        (["type=tar", "type=oci,dest=-"], "several go to stdout"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_built(
    made: Builder, tmp_path: Path, outputs: list[str], why: str
) -> None:
    made.write("FROM busybox\nRUN exit 3\n")
    words = [word for output in outputs for word in ("-o", output.format(tmp_path))]
    (line,) = made.build(*words, code=2 if "several" in why else 1)
    assert why in line
    (line, *_) = [line for line in made.build("-o", f"type=oci,dest={tmp_path}/x", code=1) if "exit status 3" in line]
