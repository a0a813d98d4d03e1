"""The judges of ``fastlayer build``: docker's legacy builder, docker's BuildKit and buildah build a case, and so do we.

``Built`` is what an image is, whoever made it: the tree of its root file system, its configuration, the shape of its
history. ``differences`` says in words what two of them do not share. What builders do differently in every image is in
``RULES`` and taken out of the comparison; what they do differently in one case is in that case's ``case.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers import docker as docker_daemon
from bench.peers import with_buildkit
from fastlayer.testing.dump import dump
from tests.integration.buildbases import BUSYBOX, DEBIAN
from tests.integration.buildcases import STAMP, Case, agent, served, stage
from tests.integration.judges import fresh
from tests.shell import Shell

TIMEOUT = 240  # seconds, for one build
_CONFIG = """
    Env Cmd Entrypoint WorkingDir User Labels ExposedPorts Volumes StopSignal Shell OnBuild Healthcheck
"""
KEYS = tuple(_CONFIG.split())
Tree = dict[str, dict[str, Any]]


class Built(NamedTuple):
    """``tree``: as ``dump`` gives it, normalised; ``config``: the KEYS that say something; ``history``: (keyword, has
    no layer) of each step above the base; ``layers``: those above the base."""

    tree: Tree
    config: dict[str, Any]
    history: tuple[tuple[str, bool], ...]
    layers: int


class Refused(NamedTuple):
    """``message``: all that the builder said."""

    message: str


Verdict = Built | Refused


# ---- what every image of a builder has of its own


class Rule(NamedTuple):
    """A difference that is in any image: ``what`` is left out of the comparison, and ``why``."""

    what: str
    who: str
    why: str


RULES = (
    Rule(
        "times of what a step made",
        "all",
        "a file written by RUN, and a directory that COPY or WORKDIR made, has the time of the build: shown as `new`",
    ),
    Rule(
        "times of directories",
        "all",
        "a directory whose entries change gets a new time; buildah copies trees with the times of their directories, "
        "BuildKit and the legacy builder set those of the context only where they make the directory",
    ),
    Rule(
        "/etc/hosts, /etc/hostname, /etc/resolv.conf, /dev/*, /proc, /sys, /run, /.dockerenv",
        "all",
        "places that a runtime mounts over while a step runs; it leaves what it made to mount upon (empty files, "
        "directories) in the layer, or not",
    ),
    Rule(
        "ArgsEscaped, Hostname, Domainname, Image, AttachStd*, Tty, OpenStdin, container_config, docker_version",
        "legacy",
        "the container that each step of the legacy builder ran in, kept with the image",
    ),
    Rule(
        "history of WORKDIR",
        "all",
        "of BuildKit it has a layer, also where the directory was there; of the legacy builder where it was not; of "
        "buildah never",
    ),
    Rule(
        "words of history",
        "all",
        "`/bin/sh -c #(nop) ENV a=1` of the legacy builder and buildah is BuildKit's `ENV a=1`; RUN has the shell and "
        "the arguments before it, or `RUN ... # buildkit`; compared is the instruction alone",
    ),
    Rule("what is empty in the configuration", "all", "null, [], {} and nothing at all mean the same to who runs it"),
    Rule("WorkingDir /", "BuildKit", "of an image FROM scratch; the others leave it empty, which means the same"),
    Rule(
        "history of ARG and ONBUILD",
        "legacy, buildah",
        "they have a row each; BuildKit writes ARG since 0.9 of 2021, ONBUILD never",
    ),
)
_STUBS = re.compile(r"(etc/(hosts|hostname|resolv\.conf|mtab)|dev(/.*)?|proc(/.*)?|sys(/.*)?|run|\.dockerenv)$")


def normal(tree: Tree, stubs: Collection[str] = ()) -> Tree:
    """Leaves out and renames what RULES say; what is younger than the contexts was made by the build."""
    kept = {name: dict(entry) for name, entry in tree.items() if not _STUBS.match(name) and f"/{name}" not in stubs}
    for name, entry in kept.items():
        if entry["type"] == stat.S_IFDIR:
            del entry["mtime_ns"]
        elif entry["mtime_ns"] > STAMP * 10**9:
            entry["mtime_ns"] = "new"
        if name == ".":
            entry.pop("mode")  # of an image FROM scratch: whatever the driver made
    return kept


def keyword(created_by: str) -> str:
    """The instruction of a line of history, in any builder's words."""
    if created_by == "base":
        return "BASE"
    text = re.sub(r"^\|\d+ ", "", created_by)
    if found := re.search(r"#\(nop\)\s+(\w+)", text):
        return found[1].upper()
    first = text.split(" ", 1)[0]
    return first if first.isupper() and first.isalpha() else "RUN"


def shape(history: list[Mapping[str, Any]]) -> tuple[tuple[str, bool], ...]:
    """The steps above the base, as far as builders agree."""
    steps = [(keyword(step.get("created_by", "")), bool(step.get("empty_layer"))) for step in history]
    left = [step for step in steps if step[0] not in ("BASE", "ARG", "ONBUILD", "FROM")]
    return tuple((word, empty and word != "WORKDIR") for word, empty in left)


def built(tree: Tree, config: Mapping[str, Any], stubs: Collection[str] = ()) -> Built:
    """``config``: the whole document of the image."""
    run = config.get("config") or {}
    history = config.get("history") or []
    layers = [keyword(step.get("created_by", "")) for step in history if not step.get("empty_layer")]
    uncounted = sum(1 for word in layers if word in ("BASE", "WORKDIR"))
    return Built(
        normal(tree, stubs),
        {key: run[key] for key in KEYS if run.get(key) and (key, run[key]) != ("WorkingDir", "/")},
        shape(history),
        len(config["rootfs"].get("diff_ids") or []) - uncounted,
    )


def differences(one: Built, two: Built, *, older: bool = False) -> set[str]:
    """What is not the same, a line each: ``tree PATH``, ``tree PATH KEY``, ``config KEY``, ``history``, ``layers``.

    ``older``: the second was built from another Dockerfile, and only the image has to be the same.
    """
    found = {f"tree /{name}" for name in one.tree.keys() ^ two.tree.keys()}
    for name in one.tree.keys() & two.tree.keys():
        mine, theirs = one.tree[name], two.tree[name]
        found |= {f"tree /{name} {key}" for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    keys = one.config.keys() | two.config.keys()
    found |= {f"config {key}" for key in keys if one.config.get(key) != two.config.get(key)}
    if not older:
        found |= {word for word in ("history", "layers") if getattr(one, word) != getattr(two, word)}
    return found


# ---- the judges


def _run(
    words: list[str | Path], env: Mapping[str, str] | None = None, stdin: Path | None = None
) -> subprocess.CompletedProcess[str]:
    with open(stdin or "/dev/null", "rb") as file:
        return subprocess.run(
            [os.fspath(w) for w in words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            stdin=file,
            env={**os.environ, **(env or {})},
        )


def _good(words: list[str | Path], env: Mapping[str, str] | None = None) -> str:
    done = _run(words, env)
    assert done.returncode == 0, f"{words[0]}: {(done.stderr + done.stdout)[-1500:]}"
    return done.stdout


class Given(NamedTuple):
    """What a command line of any builder says of a case, the context last; and what is on stdin."""

    words: list[str | Path]
    stdin: Path | None


@contextlib.contextmanager
def given(case: Case, place: Path, *, older: bool = False, port: int = 0) -> Iterator[Given]:
    """A case laid out in ``place``, with the servers that it has. ``port``: of its web server, 0: any."""
    with served(case, place, port) as args, agent(case, place) as path:
        context = stage(case, place, older=older)
        words = _options(case, args, context, place / "secrets")
        facts = {"context": context, "agent": path, "SERVER": args.get("SERVER")}
        words += [word.format(**facts) for word in case.options]
        if case.given == "directory":
            yield Given([*words, context], None)
        elif case.given == "tar":
            _good(["tar", "-C", context, "-cf", place / "context.tar", "."])
            yield Given([*words, "-"], place / "context.tar")
        else:
            yield Given([*words, case.given.format(**facts)], None)


def _options(case: Case, args: Mapping[str, str], context: Path, secrets: Path) -> list[str | Path]:
    words: list[str | Path] = [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
    if case.target is not None:
        words += ["--target", case.target]
    if case.file:
        words += ["-f", context / case.file if case.given == "directory" else case.file]
    for name, value in case.secrets.items():
        secrets.mkdir(exist_ok=True)
        (secrets / name).write_text(value)
        words += ["--secret", f"id={name},src={secrets / name}"]
    return words


class Docker:
    """One daemon for both of docker's builders, with overlay2."""

    def __init__(self, root: Path, words: list[str | Path]) -> None:
        self.root, self.words = root, with_buildkit(words)
        self.env = {"DOCKER_CONFIG": os.fspath(root / "client")}

    def load(self, archive: Path) -> None:
        _good([*self.words, "load", "-q", "-i", archive], self.env)

    def build(self, case: Case, place: Path, judge: str, *, older: bool = False) -> Verdict:
        """``judge``: legacy or buildkit."""
        tag = f"{judge}-{case.name}"
        env = {**self.env, "DOCKER_BUILDKIT": "1" if judge == "buildkit" else "0", "BUILDKIT_PROGRESS": "plain"}
        with given(case, place, older=older) as (words, stdin):
            done = _run([*self.words, "build", "--network", "none", "-t", tag, *words], env, stdin)
        return self.look(tag, case.stubs) if done.returncode == 0 else Refused(done.stderr + done.stdout)

    def look(self, tag: str, stubs: Collection[str] = ()) -> Built:
        value = json.loads(_good([*self.words, "inspect", "--type", "image", tag], self.env))[0]
        config = self.root / "data/image/overlay2/imagedb/content/sha256" / value["Id"].split(":")[1]
        with overlay_mounted(value["GraphDriver"]["Data"] or {}, self.root / f"looked-{tag}") as tree:
            return built(dump(tree), json.loads(config.read_text()), stubs)

    def prints(self, tag: str) -> str:
        return _good([*self.words, "run", "--rm", "--network", "none", tag], self.env)


@contextlib.contextmanager
def overlay_mounted(data: Mapping[str, str], point: Path) -> Iterator[Path]:
    """The layers of an image as overlay2 keeps them, mounted read-only."""
    fresh(point)
    below = [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))] if data.get("UpperDir") else []
    if len(below) < 2:
        yield Path(below[0]) if below else point
        return
    # links are shorter than paths: an option has at most a page
    where = Path(below[0]).parents[1]
    short = [f"l/{(Path(layer).parent / 'link').read_text()}" for layer in below]
    script = 'cd "$1" && mount -t overlay overlay -o "ro,lowerdir=$2" "$3"'
    subprocess.run(["sh", "-c", script, "sh", where, ":".join(short), point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@contextlib.contextmanager
def docker(root: Path) -> Iterator[Docker]:
    with docker_daemon(root, "overlay2") as words:
        (root / "client").mkdir()
        yield Docker(root, words)


class Buildah:
    """buildah with a storage of its own, without namespaces: ``--isolation chroot``."""

    def __init__(self, root: Path) -> None:
        self.root = fresh(root)
        self.policy = root / "policy.json"
        self.policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        places = ["--root", root / "storage", "--runroot", root / "run", "--storage-driver", "overlay"]
        self.words: list[str | Path] = ["buildah", *places]
        self.env = {"TMPDIR": os.fspath(root), "XDG_CONFIG_HOME": os.fspath(root / "none")}

    def load(self, archive: Path) -> None:
        _good([*self.words, "pull", "-q", "--signature-policy", self.policy, f"docker-archive:{archive}"], self.env)

    def build(self, case: Case, place: Path, *, older: bool = False) -> Verdict:
        tag = f"buildah-{case.name}"
        fixed = ["--layers", "--isolation", "chroot", "--pull-never", "--format", "docker", "--identity-label=false"]
        with given(case, place, older=older) as (words, stdin):
            first = [*self.words, "bud", *fixed, "--signature-policy", self.policy, "-t", tag]
            done = _run([*first, *words], self.env, stdin)
        return self.look(tag, case.stubs) if done.returncode == 0 else Refused(done.stderr + done.stdout)

    def look(self, tag: str, stubs: Collection[str] = ()) -> Built:
        image = json.loads(_good([*self.words, "inspect", "--type", "image", tag], self.env))
        name = _good([*self.words, "from", "--pull-never", "--signature-policy", self.policy, tag], self.env).strip()
        try:
            tree = dump(Path(_good([*self.words, "mount", name], self.env).strip()))
        finally:
            _good([*self.words, "rm", name], self.env)
        return built(tree, json.loads(image["Config"]), stubs)

    def close(self) -> None:
        for line in reversed(open("/proc/self/mountinfo").readlines()):
            if line.split()[4].startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", line.split()[4]], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def buildah(root: Path) -> Iterator[Buildah]:
    peer = Buildah(root)
    try:
        yield peer
    finally:
        peer.close()


class Court:
    """The judges, each with the base images; verdicts are kept for the run."""

    def __init__(self, docker: Docker, buildah: Buildah, place: Path) -> None:
        self.docker, self.buildah, self.place = docker, buildah, place
        self._kept: dict[tuple[str, str], Verdict] = {}

    def load(self, archive: Path) -> None:
        for judge in (self.docker, self.buildah):
            judge.load(archive)

    def verdict(self, case: Case, judge: str) -> Verdict:
        """What a judge makes of a case, of its older Dockerfile when the case says so."""
        key = (case.name, judge)
        if key not in self._kept:
            # BuildKit takes a file of the same context, name, size and time for the one it has
            older, place = judge in case.older, fresh(self.place / judge / case.name)
            if judge == "buildah":
                self._kept[key] = self.buildah.build(case, place, older=older)
            else:
                self._kept[key] = self.docker.build(case, place, judge, older=older)
            shutil.rmtree(place)
        return self._kept[key]

    def verdicts(self, case: Case) -> dict[str, Verdict]:
        """Those of all who build the case, the reference's first."""
        with ThreadPoolExecutor(len(case.builders) or 1) as pool:
            return dict(
                zip(case.builders, pool.map(lambda judge: self.verdict(case, judge), case.builders), strict=True)
            )


# ---- ours


def ours(case: Case, shell: Shell, place: Path) -> Verdict:
    """What ``fastlayer build`` makes of a case, read back from the store. The base images are there."""
    from fastlayer.container.mounting import temporary
    from fastlayer.image.images import Images
    from fastlayer.store.store import open_store

    name = f"ours.invalid/{case.name}:1"
    with given(case, place) as (words, stdin):
        done = shell.run("build", "--network", "none", "-t", name, *words, input=stdin.read_bytes() if stdin else None)
    if done.returncode:
        return Refused(done.stderr.decode(errors="replace"))
    with open_store(shell.root, driver=shell.env["FASTLAYER_DRIVER"]) as store:
        image = Images(store).find(name)
        if image.chain_id is None:
            return built(dump(fresh(place / "nothing")), json.loads(Images(store).config(image).raw))
        with temporary(store, image) as tree:
            return built(dump(tree), json.loads(Images(store).config(image).raw))


__all__ = ["BUSYBOX", "DEBIAN", "Built", "Court", "Refused", "buildah", "differences", "docker", "ours"]
