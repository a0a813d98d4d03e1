"""A Dockerfile as a list of instructions: directives, comments, continued lines, flags, here-documents.

Reference: docs.docker.com/reference/dockerfile (frontend 1.20). The tests hold it against BuildKit's own parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile import text as split
from fastlayer.builder.dockerfile.shell import Lexer
from fastlayer.errors import DockerfileError

MAX_SIZE = 16 << 20  # bytes of a Dockerfile; longer ones are something else
_DIRECTIVE = re.compile(r"#[\t\v\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\v\f\r ]*=(.+)\Z", re.DOTALL)
_BLANKS = "\t\v\f\r "
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"([0-9]*)<<(-?)([^<]*)", re.DOTALL)
_BACKSLASH = "\\"
_WITH_HEREDOCS = ("add", "copy", "run")


class Heredoc(NamedTuple):
    """A here-document. ``expand``: its name was not quoted, so variables in it are filled in; ``chomp``: ``<<-``,
    leading tabs are dropped when it is used. ``content`` is as written."""

    name: str
    fd: int
    content: str
    expand: bool
    chomp: bool

    @property
    def data(self) -> str:
        """The content as it is meant."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.chomp else self.content


class Instruction(NamedTuple):
    """One instruction as it was written. ``keyword`` in lower case; ``args``: how many there are depends on it;
    ``json``: they are from the JSON form; ``trigger``: of ONBUILD, which has no args of its own; ``start``, ``end``:
    numbers of its lines, from 1; ``comments``: the lines right above it."""

    keyword: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    json: bool
    heredocs: tuple[Heredoc, ...]
    original: str
    start: int
    end: int
    comments: tuple[str, ...] = ()
    trigger: Instruction | None = None


class Parsed(NamedTuple):
    """``directives``: by name, with their lines; ``blank_lines``: those inside continued instructions, which only
    old files have."""

    instructions: tuple[Instruction, ...]
    escape: str
    directives: dict[str, tuple[str, int]]
    blank_lines: tuple[int, ...]


def parse(data: bytes, name: str = "Dockerfile") -> Parsed:
    """The instructions of a file. Raises ``DockerfileError`` with ``name`` and the line of what is wrong."""
    if len(data) > MAX_SIZE:
        raise DockerfileError(f"{name}: {len(data)} bytes are too many for a Dockerfile: the limit is {MAX_SIZE}")
    reader = _Reader(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape"), name)
    instructions = tuple(reader.instructions())
    if not instructions:
        raise DockerfileError(f"{name}: has no instructions: the first one is FROM")
    return Parsed(instructions, reader.escape, reader.directives, tuple(reader.blank_lines))


def parse_one(text: str, name: str, escape: str = "\\") -> Instruction:
    """The instruction of a text that is nothing else: an ONBUILD trigger, as images keep it, or an option. ``name``:
    where it comes from. Raises ``DockerfileError``."""
    found = list(_Reader(text, name, escape).instructions())
    if len(found) != 1:
        raise DockerfileError(f"{name} {text!r}: is not one instruction")
    return found[0]


class _Reader:
    def __init__(self, text: str, name: str, escape: str = "\\") -> None:
        self.directives: dict[str, tuple[str, int]] = {}
        self.blank_lines: list[int] = []
        self._lines = text.split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._at = 0  # lines taken
        self._name = name
        self._heading = True  # directives may still come
        self._set_escape(escape)

    def _set_escape(self, escape: str) -> None:
        self.escape = escape
        quoted = re.escape(escape)
        self._continued = re.compile(rf"(?:(?<!{quoted})){quoted}[ \t]*\Z")

    def instructions(self) -> Iterator[Instruction]:
        comments: list[str] = []
        while self._at < len(self._lines):
            line = self._take().lstrip(split.SPACES)
            start = self._at
            if self._heading:
                self._heading = self._directive(line)
            if line.startswith("#"):
                comment = line[1:].strip(split.SPACES)
                if comment:
                    comments.append(comment)
                else:
                    comments.clear()
                continue
            if not line:
                continue
            with _located(self._name, start):
                yield self._instruction(self._whole(line), start, tuple(comments))
            comments.clear()

    def _take(self) -> str:
        self._at += 1
        return self._lines[self._at - 1].removesuffix("\r")

    def _directive(self, line: str) -> bool:
        """Whether more may follow. Anything that is no directive ends them, a comment too."""
        found = _DIRECTIVE.match(line)
        name = found[1].lower() if found else ""
        if found is None or name not in _DIRECTIVES:
            return False
        value = found[2].strip(_BLANKS) or found[2][-1]
        with _located(self._name, self._at):
            if name in self.directives:
                raise DockerfileError(f"the directive `{name}` can be given once only")
            if name == "escape" and value not in ("\\", "`"):
                raise DockerfileError(f"escape={value}: the escape character is \\ or `")
        self.directives[name] = (value, self._at)
        if name == "escape":
            self._set_escape(value)
        return True

    def _whole(self, line: str) -> str:
        """The line with those that continue it. Comments and blank lines between them do not end it."""
        parts = []
        while found := self._continued.search(line):
            parts.append(line[: found.start()])
            line = ""
            while self._at < len(self._lines):
                line = self._take()
                stripped = line.lstrip(split.SPACES)
                if stripped and not stripped.startswith("#"):
                    break
                if not stripped:
                    self.blank_lines.append(self._at)
                line = ""
        return "".join([*parts, line])

    def _instruction(self, line: str, start: int, comments: tuple[str, ...]) -> Instruction:
        plain = _of_line(line, self.escape)
        inner = plain.trigger or plain
        heredocs: tuple[Heredoc, ...] = ()
        original = line
        if inner.keyword in _WITH_HEREDOCS and not inner.json and "<<" in line:
            heredocs = tuple(self._content(opened, start) for opened in openings(line))
        if heredocs and plain.trigger is None:
            original += "\n" + "".join(f"{doc.content}{doc.name}\n" for doc in heredocs)
        if plain.trigger is not None:
            plain = plain._replace(trigger=plain.trigger._replace(heredocs=heredocs, start=start, end=self._at))
        return plain._replace(heredocs=heredocs, original=original, start=start, end=self._at, comments=comments)

    def _content(self, opened: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._lines):
            raw = self._lines[self._at]
            self._at += 1
            line = raw.rstrip("\r")
            if (line.lstrip("\t") if opened.chomp else line) == opened.name:
                return opened._replace(content="".join(content))
            content.append(raw + "\n")
        raise DockerfileError(f"the here-document `{opened.name}` does not end: a line must say `{opened.name}`")


class _located:
    """Errors get the name of the file and the line."""

    def __init__(self, name: str, line: int) -> None:
        self._name = name
        self._line = line

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, DockerfileError):
            raise DockerfileError(f"{self._name}:{self._line}: {exc}") from None


def openings(line: str) -> Iterator[Heredoc]:
    """The here-documents that a line begins, without their content.

    They are the shell's: their escape character is the backslash, whatever the directive says (BuildKit, parser.go).
    """
    try:
        found = Lexer(_BACKSLASH, raw_quotes=True, raw_escapes=True, keep_unset=True).words(line, {})
    except DockerfileError:
        return  # for the shell to say
    for word in found:
        opened = opening(word)
        if opened is not None:
            yield opened


def opening(word: str) -> Heredoc | None:
    """The here-document that a word opens, without its content; None when it opens none."""
    found = _HEREDOC.fullmatch(word)
    if found is None:
        return None
    raw = Lexer(_BACKSLASH, raw_quotes=True, raw_escapes=True, keep_unset=True).words(found[3], {})
    plain = Lexer(_BACKSLASH, keep_unset=True).words(found[3], {})
    if len(raw) != 1 or len(plain) != 1:
        return None
    return Heredoc(plain[0], int(found[1] or 0), "", raw[0] == plain[0], found[2] == "-")


# ---- one instruction -------------------------------------------------------------------------------


def _of_line(line: str, escape: str, *, triggered: bool = False) -> Instruction:
    """``triggered``: by ONBUILD, and so no ONBUILD itself."""
    keyword, rest = split.split_first(line.strip(split.SPACES))
    flags, rest = split.flags(rest)
    keyword, rest = keyword.lower(), rest.strip(split.SPACES)
    if keyword == "onbuild":
        trigger = _of_line(rest, escape, triggered=True) if rest and not triggered else None
        return Instruction(keyword, tuple(flags), (), False, (), line, 0, 0, trigger=trigger)
    args, is_json = _args(keyword, rest, escape)
    return Instruction(keyword, tuple(flags), tuple(args), is_json, (), line, 0, 0)


def _args(keyword: str, rest: str, escape: str) -> tuple[list[str], bool]:
    if keyword in ("add", "copy", "volume"):
        found = split.json_strings(rest)
        return (split.by_blanks(rest), False) if found is None else (found, True)
    if keyword in ("run", "cmd", "entrypoint", "shell"):
        return _command(rest)
    if keyword == "healthcheck":
        kind, command = split.split_first(rest)
        args, is_json = _command(command)
        return [kind, *args] if kind else [], is_json
    if keyword in ("env", "label"):
        return split.pairs(rest, escape, keyword.upper()), False
    if keyword == "arg":
        return split.words(rest, escape), False
    if keyword in ("expose", "from"):
        return split.by_blanks(rest), False
    return [rest] if rest else [], False


def _command(text: str) -> tuple[list[str], bool]:
    found = split.json_strings(text)
    if found is not None:
        return found, True
    return [text] if text else [], False
