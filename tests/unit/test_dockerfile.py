"""What the instructions of a Dockerfile say, and what is refused, with its line."""

from __future__ import annotations

from typing import Any

import pytest

from fastlayer.builder.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Onbuild,
    Run,
    Shell,
    Volume,
    Workdir,
)
from fastlayer.builder.dockerfile.mounts import RunMount, parse_mount
from fastlayer.builder.dockerfile.parser import parse_one
from fastlayer.builder.dockerfile.stages import Dockerfile, read
from fastlayer.builder.dockerfile.values import duration, size
from fastlayer.errors import DockerfileError


def dockerfile(text: str) -> Dockerfile:
    return read(text.encode())


def one(line: str) -> Any:
    (command,) = dockerfile("FROM a\n" + line).stages[0].commands
    return command


def test_stages() -> None:
    found = dockerfile("ARG V=1\nARG W\nFROM a:$V AS Base\nRUN x\nFROM --platform=linux/arm64 base\nFROM b as base\n")
    assert [argument.values for argument in found.arguments] == [(("V", "1"),), (("W", None),)]
    assert [(stage.begin.base, stage.begin.name, stage.begin.platform) for stage in found.stages] == [
        ("a:$V", "base", ""),
        ("base", "", "linux/arm64"),
        ("b", "base", ""),
    ]
    last, first = found.stage("BASE"), found.stage("0")
    assert last is found.stages[2] and first is found.stages[0] and found.stages[1].name == "1"
    assert found.stage("3") is None and found.stage("") is None


def test_commands_and_here_documents() -> None:
    run = one("RUN --network=none cat <<A && <<-'B' sh\n $x\nA\n\ty\n\tB")
    assert isinstance(run, Run) and run.network == "none" and run.security == "sandbox" and run.command.shell
    assert [(doc.name, doc.data, doc.expand) for doc in run.command.files] == [
        ("A", " $x\n", True),
        ("B", "y\n", False),
    ]
    assert one('RUN ["a", "b c"]').command.words == ("a", "b c") and not one('CMD ["a"]').command.shell
    assert isinstance(one("CMD a  b"), Cmd) and one("CMD a  b").command.words == ("a  b",)
    assert isinstance(one("ENTRYPOINT []"), Entrypoint) and one("ENTRYPOINT []").command.words == ()
    assert isinstance(one('SHELL ["sh", "-c"]'), Shell)


def test_copy_and_add() -> None:
    copy = one("COPY --from=base --chown=1:2 --chmod=u+x --link --exclude=*.md --exclude=b a b <<X /d/\nc\nX")
    assert isinstance(copy, Copy) and copy.source == "base" and copy.link and not copy.parents
    assert copy.sources.paths == ("a", "b") and copy.sources.target == "/d/" and copy.exclude == ("*.md", "b")
    assert [(doc.name, doc.data) for doc in copy.sources.contents] == [("X", "c\n")]
    assert one('COPY ["a b", "/c"]').sources.paths == ("a b",)
    add = one("ADD --checksum=sha256:ab --keep-git-dir=true --unpack=false https://x/y /z")
    assert isinstance(add, Add) and add.checksum == "sha256:ab" and add.keep_git_dir and add.unpack is False
    assert one("ADD a /b").unpack is None


def test_small_ones() -> None:
    assert isinstance(one("ENV a=1 b='c d'"), Env) and one("ENV a=1 b='c d'").values == (("a", "1"), ("b", "'c d'"))
    assert one("ENV a b  c").values == (("a", "b  c"),)
    assert isinstance(one("LABEL a=b"), Label) and isinstance(one("ARG a b=c"), Arg)
    assert isinstance(one("EXPOSE 80 22/tcp"), Expose) and one("EXPOSE 80 22/tcp").ports == ("22/tcp", "80")
    assert isinstance(one("WORKDIR /a b"), Workdir) and one("WORKDIR /a b").path == "/a b"
    assert isinstance(one('VOLUME ["/a", "/b"]'), Volume) and one("VOLUME /a /b").paths == ("/a", "/b")
    assert one("USER a:b").user == "a:b" and one("STOPSIGNAL SIGINT").signal == "SIGINT"
    check = one("HEALTHCHECK --interval=1m30s --timeout=.5s --retries=3 CMD curl x")
    assert isinstance(check, Healthcheck) and check.test == ("CMD-SHELL", "curl x")
    assert (check.interval, check.timeout, check.retries) == (90 * 10**9, 5 * 10**8, 3)
    assert one("HEALTHCHECK none").test == ("NONE",) and one('HEALTHCHECK CMD ["a"]').test == ("CMD", "a")


def test_triggers() -> None:
    found = one("ONBUILD COPY <<x /y\nhi\nx")
    assert isinstance(found, Onbuild) and found.trigger == "COPY <<x /y\nhi\nx"
    again = parse_one(found.trigger, "ONBUILD")
    assert again.keyword == "copy" and again.heredocs[0].content == "hi\n"
    assert one("onbuild  run   a").trigger == "run   a"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 0, "no instructions"),
        ("ARG a\n", 0, "no FROM"),
        ("RUN x", 1, "before the first FROM"),
        ("FROM a b", 1, "FROM needs an image"),
        ("FROM a AS 1", 1, "not a name for a stage"),
        ("FROM a\n\nFRM b", 3, "did you mean FROM"),
        ("FROM a\nRUN", 2, "needs a command"),
        ("FROM a\nCOPY a", 2, "a source and a target"),
        ("FROM a\nCOPY --form=x a b", 2, "did you mean from"),
        ("FROM a\nCOPY --from=x --from=y a b", 2, "once only"),
        ("FROM a\nCOPY --link=perhaps a b", 2, "true or false"),
        ("FROM a\nCOPY --chown a b", 2, "needs a value"),
        ("FROM a\nCOPY b <<x\nx", 2, "cannot be the target"),
        ("FROM a\nRUN <<x\n", 2, "does not end"),
        ("FROM a\nENV a", 2, "no value"),
        ("FROM a\nENV a=b c", 2, "no `=`"),
        ("FROM a\nENV =b", 2, "name is empty"),
        ("FROM a\nUSER", 2, "exactly one argument"),
        ("FROM a\nUSER --x a", 2, "no flag --x"),
        ("FROM a\nEXPOSE", 2, "at least one"),
        ("FROM a\nSHELL a", 2, "JSON form"),
        ('FROM a\nCMD ["a", 1]', 2, "must be a string"),
        ("FROM a\nHEALTHCHECK CMD", 2, "needs a command"),
        ("FROM a\nHEALTHCHECK x", 2, "use HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK NONE x", 2, "no arguments"),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", 2, "such as 1h30m"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", 2, "0 or more"),
        ("FROM a\nONBUILD", 2, "needs an instruction"),
        ("FROM a\nONBUILD FROM x", 2, "not allowed"),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "not allowed"),
        ("FROM a\nONBUILD COPY x", 2, "a source and a target"),
        ("FROM a\nRUN --network=x y", 2, "default, none, host"),
        ("FROM a\nRUN --mount=type=cahe,target=/x y", 2, "did you mean cache"),
        ("FROM a\nRUN --mount=type=bind y", 2, "give target"),
        ("FROM a\nRUN --mount=target=/a,mode=7 y", 2, "means nothing for the type bind"),
        ("FROM a\nRUN --mount=foo y", 2, "no `=`"),
        ("FROM a\nRUN --mount=foo=$x y", 2, "unknown foo"),
        ("FROM a\nRUN --mount=from=$x,target=/y z", 2, "takes no variables"),
        ("FROM a\nRUN --mount='a=\"b' z", 2, "--mount"),
        ("# escape=x\nFROM a", 1, "escape"),
        ("# escape=`\n# escape=`\nFROM a", 2, "once only"),
    ],
)
def test_what_is_refused(text: str, line: int, why: str) -> None:
    with pytest.raises(DockerfileError) as found:
        dockerfile(text)
    message = str(found.value)
    assert message.startswith(f"Dockerfile:{line}: " if line else "Dockerfile: ") and why in message, message
    assert "\n" not in message


def test_a_file_that_is_none() -> None:
    with pytest.raises(DockerfileError, match="too many"):
        read(b"#" * (17 << 20))
    assert dockerfile("FROM a\nRUN " + "x" * 200_000).stages[0].commands


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("target=/a", RunMount(target="/a")),
        ("type=bind,from=b,src=c,dst=/a,rw", RunMount("bind", "b", "c", "/a", readonly=False)),
        ("type=cache,target=/c,sharing=locked,id=x,mode=0750,uid=1,gid=2,from=b,source=s", RunMount(
            "cache", "b", "s", "/c", False, id="x", sharing="locked", mode=0o750, uid=1, gid=2)),
        ("type=cache,target=/c,readonly", RunMount("cache", target="/c", readonly=True)),
        ("type=tmpfs,target=/t,size=64m", RunMount("tmpfs", target="/t", readonly=False, size=64 << 20)),
        ("type=secret,id=k,env=KEY,required", RunMount("secret", id="k", env="KEY", required=True)),
        ("type=ssh", RunMount("ssh")),
        ('"target=/a,b",type=bind', RunMount(target="/a,b")),
    ],
)  # fmt: skip
def test_mounts(text: str, wanted: RunMount) -> None:
    assert parse_mount(text, lambda value: value) == wanted


def test_variables_in_mounts() -> None:
    run = one("RUN --mount=type=$KIND,target=$WHERE x")
    values = {"$KIND": "cache", "$WHERE": "/c"}
    (mount,) = run.mounts
    assert parse_mount(mount, lambda value: values.get(value, value)) == RunMount("cache", target="/c", readonly=False)


def test_values() -> None:
    assert duration("1h2m3s4ms5us6ns", "x") == ((3600 + 120 + 3) * 1000 + 4) * 10**6 + 5006
    assert duration("1.5h", "x") == 5400 * 10**9 and duration("0", "x") == 0
    for bad in ("1", "1x", "-1s", "1us", "s", "1 s", "9999999h", ".s"):
        with pytest.raises(DockerfileError):
            duration(bad, "x")
    assert (
        size("1", "x") == 1
        and size("1.5k", "x") == 1536
        and size("2 GiB", "x") == 2 << 30
        and size("3MB", "x") == 3 << 20
    )
    for bad in ("", "k", "-1", "1q", "1e3"):
        with pytest.raises(DockerfileError):
            size(bad, "x")


def test_every_instruction_is_a_command() -> None:
    assert len(Command.__args__) == 17
