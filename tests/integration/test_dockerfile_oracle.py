"""Our parser of Dockerfiles against BuildKit's own, which the package `dockerfile` wraps."""

from __future__ import annotations

import platform
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlayer.builder.dockerfile.parser import Instruction, parse
from fastlayer.errors import DockerfileError
from tests.integration.buildcases import CORPUS

if platform.machine() != "x86_64":
    pytest.skip("the package has wheels for x86-64 only", allow_module_level=True)

WORDS = """FROM a|RUN|COPY|ADD|ENV|LABEL|ARG|CMD|ENTRYPOINT|HEALTHCHECK|ONBUILD|VOLUME|EXPOSE|SHELL|USER|WORKDIR
|STOPSIGNAL|FOO|~|~|~|~|~|\\~|\\ ~|`~|# escape=`~|#syntax=x~|# comment~|~~| | |  |\t|\\|`|"|'|a|b=c|=|--x=y|--link|--
|--a="b c"|<<EOF|<<-EOF|<<"E F"|3<<X|EOF~|\tEOF~|E F~|X~|[|"a"|,|]|["a","b"]|$a|${a}|${a:-b}|{|}|é|\u3000|\r~|CMD
|NONE|#|\v|\f|1|null|"\\u00e9"|\ufeff|\u2028"""
PIECES = WORDS.replace("\n", "").replace("~", "\n").split("|")
KNOWN = frozenset(word.lower() for word in PIECES if word.isalpha()) | {"from", "maintainer"}
KNOWN -= {"a", "foo", "none", "null", "é"}

FILES = {
    "directives": "#syntax=docker/dockerfile:1\n# escape=`\n\n# check=skip=all\nFROM a `\n  AS b\n",
    "byte order mark": "\ufeffFROM a\n",
    "windows": "FROM a\r\nRUN <<x\r\n a\r\nx\r\nRUN b \\\r\n c\r\n",
    "continued": "FROM a\nRUN one \\\n# comment\n\n  two \\\n\\\n three \\\\\n",
    "no end": "FROM a\nRUN one \\",
    "here": "FROM a\nRUN <<A cat && <<-'B' sh\n a $b\nA\n\tyes\n\tB\nCOPY <<x <<y /d\n1\nx\n2\ny\n",
    "no here": "FROM a\nRUN echo '<<A'\nRUN x<<a\nRUN <<<a\nRUN [\"<<A\"]\nCMD <<A\nRUN << A\nRUN it's <<x\n",
    "open here": "FROM a\nRUN <<A\n",
    "pairs": 'FROM a\nENV a b  c\nENV a="b c" d=e\\ f g=\'h i\'\nLABEL "a b"=c\nARG a b=c "d e"=\'\'\n',
    "no pair": "FROM a\nENV a\n",
    "half a pair": "FROM a\nENV a=b c\n",
    "json": 'FROM a\nCMD ["a", "b"]\nCMD [ ]\nCMD ["a"\nCMD [\'a\']\nCMD [NaN]\nSHELL ["a\\ud800", "\\u00e9"]\n',
    "not strings": 'FROM a\nCMD ["a", 1]\n',
    "nested": 'FROM a\nCMD ["a", ["b"]]\n',
    "flags": "FROM --platform=x a\nRUN --mount=type=bind --a='b c'd -- --e f\nRUN --x\nRUN --\"a b\" c\nRUN ---- c\n",
    "health": 'FROM a\nHEALTHCHECK NONE\nHEALTHCHECK --interval=5s CMD  curl x\nHEALTHCHECK CMD ["a"]\nHEALTHCHECK\n',
    "triggers": 'FROM a\nONBUILD RUN --mount=x a\nONBUILD COPY <<x /y\nhi\nx\nONBUILD\nONBUILD RUN ["<<a"]\n',
    "nothing": "# only a comment\n",
    "empty": "",
}


def theirs(text: str) -> list[Any] | None:
    """None: refused."""
    import dockerfile

    try:
        found = dockerfile.parse_string(text)
    except dockerfile.GoParseError:
        return None
    return [
        (
            (command.cmd or "").lower(),
            (command.sub_cmd or "").lower(),
            command.json,
            command.original or "",
            command.start_line,
            command.end_line,
            command.flags,
            command.value,
            tuple((doc.name, doc.file_descriptor, doc.content) for doc in command.heredocs),
        )
        for command in found
    ]


def _ours(found: Instruction) -> Any:
    inner = found.trigger or found
    return (
        found.keyword,
        found.trigger.keyword if found.trigger else "",
        inner.json,
        found.original,
        found.start,
        found.end,
        found.flags,
        inner.args if inner.keyword in KNOWN and not inner.trigger else ("",),
        # of triggers the package does not show them
        () if found.trigger else tuple((doc.name, doc.fd, doc.content) for doc in found.heredocs),
    )


def ours(text: str) -> list[Any] | None:
    try:
        return [_ours(found) for found in parse(text.encode()).instructions]
    except DockerfileError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_what_the_language_has(name: str) -> None:
    assert ours(FILES[name]) == theirs(FILES[name])


@pytest.mark.parametrize(
    "path", sorted(CORPUS.rglob("Dockerfile*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_corpus(path: Path) -> None:
    text = path.read_bytes().decode()
    if path.parent.name == "onbuild-forbidden":  # the package shows an empty word for what is in the inner ONBUILD
        assert [found[:6] for found in ours(text) or ()] == [found[:6] for found in theirs(text) or ()]
        return
    assert ours(text) == theirs(text)


# ---- files that somebody could have written


def _joined(parts: st.SearchStrategy[str], *, least: int = 0, most: int = 4) -> st.SearchStrategy[str]:
    """Words with what stands between two of them: blanks, or the end of a line that goes on."""
    pairs = st.lists(st.tuples(st.sampled_from(BETWEEN), parts), min_size=least, max_size=most)
    return pairs.map(lambda found: "".join(gap + word for gap, word in found))


BETWEEN = (
    " ",
    " ",
    "  ",
    "\t",
    " @\n",
    " @ \t\n  ",
    "@\n\t",
    " @\n# a comment\n ",
    " @\n\n  ",
    " @\n  # comment @\n\n",
)
WORDS_OF_SHELLS = """a b/c . $x ${x:-y} "q w" 'q w' "a 'b' c" a@b a@ b "@"" '@' @$x é 漢字 && | ; > -- - = # a#b "" ''
 ${x} $(y) `z` {a,b} * ? [a-c] \u00a0 http://a/b?c#d git@a:b c:\\d x=y"""
WORD = st.sampled_from(WORDS_OF_SHELLS.replace("\n", "").split(" ")) | st.text("ab@\"' $=<", min_size=1, max_size=6)
VALUE = st.sampled_from(("b", '"b c"', "'b c'", "b@ c", "$x", "${x}", '"a @" b"', "", "b=c", "'@'", "\"x\"y'z'", "@@"))
PAIR = st.tuples(st.sampled_from(("a", "B_c", "d.e", '"f g"', "h-i", "$k")), VALUE).map("=".join)
STRINGS = st.lists(
    st.sampled_from(('"a"', '"b c"', '"\\u00e9"', '"\\\\"', '"$x"', '"<<a"', '"é"', '"\\n"', '"@"', '""')), max_size=4
)
JSON = st.tuples(st.sampled_from(("", " ")), STRINGS, st.sampled_from((",", ", ", " ,"))).map(
    lambda found: f"[{found[0]}{found[2].join(found[1])}{found[0]}]"
)
FLAG = st.sampled_from(
    ("--from=x", "--link", '--chown="a b"', "--mount=type=bind,source=a b", "--x=@ y", "--", "--a='b", "--platform=$x")
)
SHELL_OR_JSON = _joined(WORD, least=1) | JSON.map(lambda text: " " + text)
BODY = st.lists(
    st.sampled_from(("x", "\ty", "$a @", "# no comment", "", " E", "E ", "\tE", "EE", "RUN z", "<<E", "'", "z\r")),
    max_size=5,
)
HEREDOC = st.tuples(
    st.sampled_from(("run", "copy", "add", "RUN", "onbuild run", "cmd")),
    st.sampled_from(("<<E", "<<-E", '<<"E"', "<<'E'", "3<<E", "cat <<E >f", "<<E <<F", "x<<E", "<<-@E", '"<<E"')),
    st.sampled_from(("", " /to", " && b", " @\n c")),
    BODY,
    st.sampled_from(("E\n", "\tE\n", "E\r\n", "F\nE\n", "E\nF\n", "")),
).map(lambda found: f"{found[0]} {found[1]}{found[2]}\n" + "".join(f"{line}\n" for line in found[3]) + found[4])


def _instruction(keywords: str, rest: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    flags = st.lists(st.tuples(st.sampled_from(BETWEEN), FLAG).map("".join), max_size=2).map("".join)
    cased = st.sampled_from(keywords.split()).flatmap(lambda word: st.sampled_from((word, word.upper(), word.title())))
    return st.tuples(
        st.sampled_from(("", " ", "onbuild ")), cased, flags, rest, st.sampled_from(("\n", " \n", "\r\n"))
    ).map("".join)


LINES = st.one_of(
    _instruction("run cmd entrypoint shell volume copy add", SHELL_OR_JSON),
    _instruction("env label arg", _joined(PAIR, least=1) | _joined(WORD, most=3)),
    _instruction("from expose user workdir stopsignal maintainer foo", _joined(WORD, most=3)),
    _instruction(
        "healthcheck", SHELL_OR_JSON.flatmap(lambda text: st.sampled_from((" CMD" + text, " NONE", " none x", text)))
    ),
    HEREDOC,
    st.sampled_from(("# a comment\n", "#\n", "\n", "  \n", "# escape=@\n", "#syntax=x\n", "\t# syntax=y\n")),
)
HEADS = st.sampled_from(
    ("", "", "# escape=`\n", "#escape=\\\n# syntax = x\n", "\ufeff", "# comment\n# escape=`\n", "\n# escape=`\n")
)


@st.composite
def files(draw: st.DrawFn) -> str:
    """``@`` is the escape character, most of the time the one that the file has. The package knows no `check`."""
    head = draw(HEADS)
    escape = "`" if "`" in head and draw(st.integers(0, 9)) else "\\"
    body = "".join(draw(st.lists(LINES, max_size=8)))
    return (head + draw(st.sampled_from(("FROM a\n", "FROM a AS b\n", ""))) + body).replace("@", escape)


@given(text=files())
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
def test_files_that_somebody_could_have_written(text: str) -> None:
    wanted = theirs(text)
    if not is_comparable(wanted):
        return
    assert ours(text) == wanted


def is_comparable(wanted: list[Any] | None) -> bool:
    """Where something follows a JSON array, the newest BuildKit takes it for the shell form; the package's does not.
    Of a flag that is not ASCII the package takes each byte for a character."""
    if wanted is None:
        return True
    odd = any(command[2] and not command[3].rstrip().endswith("]") for command in wanted)
    return not odd and all(flag.isascii() for command in wanted for flag in command[6])


def test_random_files() -> None:
    chance = random.Random(20)
    refused = compared = 0
    for _ in range(40_000):
        text = "FROM a\n" * (chance.random() < 0.8) + "".join(chance.choices(PIECES, k=chance.randrange(1, 25)))
        wanted, found = theirs(text), ours(text)
        if not is_comparable(wanted):
            continue
        assert found == wanted, repr(text)
        refused += wanted is None
        compared += 1
    assert compared > 35_000 and refused > 300
