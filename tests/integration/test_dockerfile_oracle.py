"""Our parser of Dockerfiles against BuildKit's own, which the package `dockerfile` wraps."""

from __future__ import annotations

import platform
import random
from typing import Any

import pytest

from fastlayer.builder.dockerfile.parser import Instruction, parse
from fastlayer.errors import DockerfileError

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


def test_random_files() -> None:
    """Where something follows a JSON array, the newest BuildKit takes it for the shell form; the package's does not."""
    chance = random.Random(20)
    refused = compared = 0
    for _ in range(40_000):
        text = "FROM a\n" * (chance.random() < 0.8) + "".join(chance.choices(PIECES, k=chance.randrange(1, 25)))
        wanted, found = theirs(text), ours(text)
        if wanted is not None and any(command[2] and not command[3].rstrip().endswith("]") for command in wanted):
            continue
        if wanted is not None and any(not flag.isascii() for command in wanted for flag in command[6]):
            continue  # the package takes each of their bytes for a character
        assert found == wanted, repr(text)
        refused += wanted is None
        compared += 1
    assert compared > 35_000 and refused > 300
