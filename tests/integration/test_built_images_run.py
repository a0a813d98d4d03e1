"""Images that we built are run by docker, podman, containerd, runc and crun, whatever way they went out of the store.

Each has to see the tree that we have, to the nanosecond, and its containers have to print what the Dockerfile says.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from fastlayer.testing.dump import difference, dump
from tests.conftest import needs_root, require
from tests.integration import buildbases, runners
from tests.integration.judges import fresh, run
from tests.integration.runners import Bare, Docker, Ended, Podman, Runner, Tree, eventually
from tests.shell import Shell

pytestmark = [needs_root, pytest.mark.timeout(300)]
NAME = "docker.io/library/made:1"
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMPRESSIONS = ("uncompressed", "gzip", "zstd")

DOCKERFILE = """
FROM fastlayer.invalid/busybox
ENV TOOLS=/opt/tools GREETING="good day"
ENV PATH=$TOOLS:$PATH
LABEL kind=everything
RUN mkdir -p /gone/deep/er /opaque/kept /swap /was-directory /data && cd / && echo 1 >gone/deep/er/f \\
 && echo old >opaque/old && echo old >opaque/kept/old && echo in >swap/in && echo x >was-directory/x \\
 && echo f >was-file && echo shared >one && ln one two && ln one opaque/three && echo kept >data/kept \\
 && chown -R app:staff data
COPY --chown=app:staff tree /opt/
RUN cd / && rm -r gone opaque swap was-directory was-file two && mkdir opaque was-file && chmod 2755 opaque \\
 && echo new >opaque/new && ln -s opaque swap && ln -s nowhere was-directory && echo y >was-file/y && ln one opaque/four
COPY late /swap/
RUN mkfifo -m 620 /pipe && mknod /null c 1 3 && chown 70000:80000 /null && chmod u+s /opt/tools/greet && rm /etc/old/one
WORKDIR /work
RUN --mount=type=cache,target=/cache echo made >made && chown app made
VOLUME /data
EXPOSE 8080/udp
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1s --timeout=5s --retries=2 CMD test -e /work/made
USER app:staff
ENTRYPOINT ["greet"]
CMD ["world", "and all"]
"""
GREET = """#!/bin/sh
[ "$1" = exit ] && exit "$2"
[ "$1" = wait ] && { trap 'echo stopped; exit 9' USR1; echo waiting; while :; do sleep 0.1; done; }
printf '<%s>' "$GREETING" "$@" "$PWD" "$(id -un):$(id -gn)" "$TOOLS" "$(cat made)"
printf '<%s>' "$(ls /opaque | xargs)" "$(cat /swap/new /swap/late /was-file/y /data/kept | xargs)"
printf '<%s>' "$(readlink /was-directory)" "$(ls /gone /two 2>/dev/null)" "$(stat -c %h /one)" "$(stat -c %u /null)"
echo
"""
PRINTED = "<good day>{}</work><app:staff></opt/tools><made><four late new><new late y kept><nowhere><><2><70000>\n"


class Made(NamedTuple):
    """``tree``: of the image, as the store has it; ``places``: (kind, compression or the command) -> where it went."""

    tree: Tree
    places: dict[tuple[str, str], Path]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """On tmpfs, short enough for sockets."""
    path = fresh(Path("/dev/shm") / f"run-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def shell(place: Path) -> Shell:
    require("/bin/busybox")
    made = Shell(place / "store", "overlay2")
    made.good("load", "-q", "-i", buildbases.busybox(place))
    return made


def context(place: Path) -> Path:
    """Files as images have them: links, attributes, a capability, names that are no words."""
    tools, other = place / "tree/tools", place / "tree/other"
    for directory in (tools, other):
        directory.mkdir(parents=True)
    (place / "Dockerfile").write_text(DOCKERFILE)
    (place / "late").write_text("late\n")
    (tools / "greet").write_text(GREET)
    (tools / "greet").chmod(0o755)
    (other / "capable").write_bytes(b"no program")
    os.setxattr(other / "capable", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    (other / "noted").write_text("x" * 70_000)
    os.setxattr(other / "noted", "user.note", b"a\0=\nb")
    (other / "linked").hardlink_to(other / "noted")
    (other / "li nk\n").symlink_to("../tools/" + "x" * 120)
    Path(os.fsdecode(os.fsencode(other) + b"/\xff\xe9")).write_text("odd")
    (other / ("n" * 200)).write_text("long")
    (other / "tight").mkdir(mode=0o700)
    return place


@pytest.fixture(scope="module")
def made(place: Path, shell: Shell) -> Made:
    """The image, in all the ways that there are out of the store."""
    out, words = fresh(place / "out"), []
    places = {}
    for compression in COMPRESSIONS:
        for kind, form in (("oci", "type=oci"), ("layout", "type=oci,tar=false"), ("docker", "type=docker")):
            if (kind, compression) != ("docker", "zstd"):  # Docker's media types have none
                places[kind, compression] = out / f"{kind}-{compression}"
                words += ["-o", f"{form},compression={compression},dest={places[kind, compression]}"]
    words += ["-o", f"type=local,dest={out / 'local'}", "-o", f"type=tar,dest={out / 'tree.tar'}"]
    shell.good("build", "-q", "--network", "none", "-t", NAME, *words, context(fresh(place / "context")))
    for kind, form in (("oci", "oci-archive"), ("layout", "oci-dir"), ("docker", "docker-archive")):
        places[kind, "save"] = out / f"{kind}-saved"
        shell.good("save", "--format", form, "-o", places[kind, "save"], NAME)
    return Made(plain(our_tree(shell, NAME)), places)


def plain(tree: Tree) -> Tree:
    """Most engines ignore what a layer says of the root directory itself."""
    for key in ("mode", "mtime_ns"):
        tree["."].pop(key)
    return tree


def our_tree(shell: Shell, name: str) -> Tree:
    from fastlayer.container.mounting import temporary
    from fastlayer.image.images import Images
    from fastlayer.store.store import open_store

    with open_store(shell.root, driver="overlay2") as store, temporary(store, Images(store).find(name)) as tree:
        return dump(tree)


@pytest.fixture(scope="module")
def opened(place: Path) -> Iterator[dict[str, Runner]]:
    """Those that run already."""
    with ExitStack() as stack:
        yield Opened(stack, place)


class Opened(dict[str, Runner]):
    def __init__(self, stack: ExitStack, place: Path) -> None:
        super().__init__()
        self._stack, self._place = stack, place

    def __missing__(self, name: str) -> Runner:
        self[name] = self._stack.enter_context(runners.OPEN[name](self._place / name))
        return self[name]


@pytest.fixture(params=list(runners.OPEN))
def runner(request: pytest.FixtureRequest, opened: dict[str, Runner]) -> Runner:
    return opened[request.param]


@pytest.fixture(params=["docker", "podman-runc"])
def engine(request: pytest.FixtureRequest, opened: dict[str, Runner]) -> Docker | Podman:
    found = opened[request.param]
    assert isinstance(found, Docker | Podman)
    return found


def printed(*words: str) -> str:
    return PRINTED.format("".join(f"<{word}>" for word in words))


def good(ended: Ended) -> str:
    """What it printed."""
    assert ended.status == 0, ended
    return ended.out


def test_every_way_out(made: Made, runner: Runner) -> None:
    seen = 0
    for (kind, compression), path in made.places.items():
        if runner.knows(kind, compression):
            image = runner.load(path)
            assert difference(made.tree, plain(runner.tree(image))) == "", (kind, compression)
            assert good(runner.run(image)) == printed("world", "and all"), (kind, compression)
            seen += 1
    assert seen >= 6


def test_arguments_and_exit_status(made: Made, runner: Runner) -> None:
    image = runner.load(made.places["oci", "gzip"])
    assert good(runner.run(image, "one", "two words", entry="greet")) == printed("one", "two words")
    assert runner.run(image, "exit", "37", entry="greet").status == 37


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_directories_and_tars_are_root_file_systems(made: Made, opened: dict[str, Runner], name: str) -> None:
    runner = opened[name]
    assert isinstance(runner, Bare)
    bundle = runner.load(made.places["layout", "gzip"])
    out = made.places["oci", "gzip"].parent
    unpacked = fresh(out / f"unpacked-{name}")
    run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", unpacked, "-xpf", out / "tree.tar")
    for root in (out / "local", unpacked):
        assert difference(made.tree, plain(dump(root))) == ""
        assert good(runner.run(bundle, root=root)) == printed("world", "and all")


def test_the_signal_that_stops(made: Made, engine: Docker | Podman) -> None:
    container = engine.start(engine.load(made.places["oci", "gzip"]), "wait")
    assert eventually(lambda: "waiting" in engine("logs", container))
    engine("stop", "--time", "20", container)
    assert engine("logs", container).split() == ["waiting", "stopped"]
    assert engine("inspect", "-f", "{{.State.ExitCode}}", container).strip() == "9"


def test_health_is_checked(made: Made, engine: Docker | Podman) -> None:
    container = engine.start(engine.load(made.places["docker", "gzip"]), "wait")
    assert eventually(lambda: engine.healthy(container))
    engine("exec", "--user", "root", container, "rm", "/work/made")
    assert eventually(lambda: not engine.healthy(container))
    engine("rm", "-f", container)


def test_volumes_begin_with_what_the_image_has(made: Made, engine: Docker | Podman) -> None:
    container = engine.start(engine.load(made.places["oci", "gzip"]), "wait")
    (mount,) = json.loads(engine("inspect", "-f", "{{json .Mounts}}", container))
    assert mount["Destination"] == "/data" and mount["Type"] == "volume"
    kept = Path(mount["Source"], "kept")
    assert kept.read_text() == "kept\n" and (kept.stat().st_uid, kept.stat().st_gid) == (1000, 50)
    engine("rm", "-f", "-v", container)
    assert not kept.exists()


def test_the_configuration_that_engines_show(made: Made, engine: Docker | Podman) -> None:
    config = engine.config(engine.load(made.places["docker", "gzip"]))
    assert config["Env"] == ["PATH=/opt/tools:" + BASE_PATH, "TOOLS=/opt/tools", "GREETING=good day"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["greet"], ["world", "and all"], "app:staff")
    assert (config["WorkingDir"], config["Labels"]) == ("/work", {"kind": "everything"})
    assert (config["Volumes"], config["ExposedPorts"]) == ({"/data": {}}, {"8080/udp": {}})
    assert config["StopSignal"] == "SIGUSR1"
    second = 10**9  # nanoseconds
    wanted = {"Test": ["CMD-SHELL", "test -e /work/made"], "Interval": second, "Timeout": 5 * second, "Retries": 2}
    assert config["Healthcheck"] == wanted


OTHERS = {
    "scratch": (
        """FROM fastlayer.invalid/busybox AS base
FROM scratch
COPY --from=base /bin/busybox /busybox
USER 65532:65533
ENV A="b c"
ENTRYPOINT ["/busybox", "env"]
""",
        {"A=b c"},
    ),
    "shell form": (
        """FROM fastlayer.invalid/busybox
SHELL ["/bin/ash", "-e", "-c"]
ENV A='"q" $$ \\x'
WORKDIR /a b
CMD echo "A=$A; $PWD; $0" && false; echo never
""",
        {'A="q" $$ \\x; /a b; /bin/ash'},
    ),
    "many layers": (
        "FROM fastlayer.invalid/busybox\nRUN mkdir /d && echo 0 >/d/n\n"
        + "".join(f"RUN rm -r /d && mkdir /d && echo {number} >/d/n{number}\n" for number in range(30))
        + 'CMD ["sh", "-c", "echo /d/* $(cat /d/*)"]\n',
        {"/d/n29 29"},
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_images(what: str, shell: Shell, place: Path, runner: Runner) -> None:
    dockerfile, wanted = OTHERS[what]
    archive = place / f"{what}.tar".replace(" ", "-")
    if not archive.exists():
        fresh(place / "other").joinpath("Dockerfile").write_text(dockerfile)
        words = ["-t", "other:1", "-o", f"type=oci,dest={archive}"]
        shell.good("build", "-q", "--network", "none", *words, place / "other")
    image = runner.load(archive)
    ended = runner.run(image)
    assert wanted <= set(ended.out.splitlines()) and "never" not in ended.out, ended


def test_one_layer(made: Made, shell: Shell, place: Path, runner: Runner) -> None:
    """Squashed, the image is the same tree, and prints the same."""
    out = [f"type=docker,dest={place}/squashed", f"type=oci,dest={place}/squashed.oci"]
    if not (place / "squashed").exists():
        words = ["--squash", "-t", "squashed:1", "-o", out[0], "-o", out[1]]
        shell.good("build", "-q", "--network", "none", *words, place / "context")
    image = runner.load(place / ("squashed" if runner.knows("docker", "gzip") else "squashed.oci"))
    assert difference(plain(our_tree(shell, "squashed:1")), plain(runner.tree(image))) == ""
    assert good(runner.run(image)) == printed("world", "and all")
