"""The subset of Go's text/template that people use with Docker's ``--format``.

``{{.A.B}}``, ``{{.}}``, ``{{$.A}}``, ``{{index .A 0 "key"}}``, ``{{json .}}`` and the other functions below, also as
``{{.A | json}}`` and in parentheses; ``{{.Label "key"}}`` of a row; ``{{range .A}} {{else}} {{end}}``,
``{{if .A}} {{else}} {{end}}``; ``{{-`` and ``-}}`` take the blanks beside them away. No variables, no ``with``, no
``template``.

Values print as Go prints them: ``[a b]``, ``map[k:v]``, ``true``, ``<nil>``. What could steer a terminal is shown, not
sent (``plain.printable``); ``json`` gives it exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fastlayer._values import NamedTuple
from fastlayer.cli import output
from fastlayer.cli.plain import Labels, printable

_TOKEN = re.compile(
    r"""\s*(?:(?P<end>-?\}\})
    |(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>-?[0-9]{1,18})
    |(?P<fields>\$?(?:\.[A-Za-z_]\w*)+|\$|\.)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<close>\)(?:\.[A-Za-z_]\w*)*)
    |(?P<sign>[(|]))""",
    re.VERBOSE,
)
_MAX_DEPTH = 64  # blocks and parentheses within each other


class TemplateSyntaxError(Exception):
    """What was written is no template that is understood here."""


class TemplateValueError(Exception):
    """The template asks for what the thing has not got."""


class Scope(NamedTuple):
    """What ``$`` and ``.`` are."""

    root: Any
    dot: Any


class _Shown(str):
    """Text that is printed as it is."""

    __slots__ = ()


_Value = Callable[[Scope], Any]
_Writer = Callable[[Scope], str]
Functions = Mapping[str, Callable[..., Any]]


def text_of(value: Any, *, inner: bool = False) -> str:
    """A value as Go prints it."""
    if isinstance(value, str):
        return value if isinstance(value, _Shown) else printable(value)
    if value is None:
        return "<nil>" if inner else "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        pairs = (f"{printable(str(key))}:{text_of(value[key], inner=True)}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(text_of(item, inner=True) for item in value)}]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")  # as Go: a key that is not there is empty
        elif isinstance(value, (list, tuple)) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TemplateValueError(f"index out of range: {key} of {len(value)}")
            value = value[key]
        else:
            raise TemplateValueError(f"cannot index {_kind(value)} with {_kind(key)}")
    return value


def _length(value: Any) -> int:
    if not isinstance(value, (str, list, tuple, Mapping)):
        raise TemplateValueError(f"{_kind(value)} has no length")
    return len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value)


def _join(values: Any, between: str) -> str:
    if not isinstance(values, (list, tuple)):
        raise TemplateValueError(f"cannot join {_kind(values)}")
    return _Shown(_separator(between).join(text_of(value) for value in values))


def _split(value: Any, between: Any) -> list[str]:
    """As Go: nothing between them are its characters."""
    text = str(value)
    return text.split(between) if _separator(between) else list(text)


def _separator(value: Any) -> str:
    if not isinstance(value, str):
        raise TemplateValueError(f"{_kind(value)} cannot stand between texts")
    return value


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "a truth value", int: "a number", type(None): "nothing", list: "a list"}
    return "a map" if isinstance(value, Mapping) else names.get(type(value), "a list")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: _Shown(output.json_line(value).decode()),
    "upper": lambda value: str(value).upper(),
    "lower": lambda value: str(value).lower(),
    "index": _index,
    "len": _length,
    "join": _join,
    "split": _split,
    "println": lambda *values: _Shown(" ".join(text_of(value, inner=True) for value in values) + "\n"),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    "not": lambda value: not value,
}
HEADINGS: dict[str, Callable[..., Any]] = dict.fromkeys(FUNCTIONS, lambda value="", *_rest: value)


class Template(NamedTuple):
    """A compiled template. ``fields``: those of the thing itself that it names, in order."""

    writers: tuple[_Writer, ...]
    fields: tuple[str, ...]

    def render(self, value: Any) -> str:
        """The text for one thing. Raises ``TemplateValueError``."""
        return _text(self.writers, Scope(value, value))


def compile_template(text: str, functions: Functions = FUNCTIONS) -> Template:
    """Raises ``TemplateSyntaxError``. ``\\t`` and ``\\n`` outside of actions are a tab and a newline."""
    parser = _Parser(text, functions)
    writers, ended_by = parser.block(0)
    if ended_by:
        parser.refuse(f"{{{{{ended_by}}}}} without a beginning")
    return Template(writers, tuple(parser.fields))


def _text(writers: tuple[_Writer, ...], scope: Scope) -> str:
    return "".join([write(scope) for write in writers])


class _Parser:
    """Recursive descent over the text; what it finds are functions of the scope."""

    def __init__(self, text: str, functions: Functions) -> None:
        self._whole = text
        self._functions = functions
        self._at = 0  # where the next token is
        self._token: re.Match[str] | None = None
        self._trim = False  # the last action ended with -}}
        self.fields: list[str] = []

    def refuse(self, why: str) -> NoReturn:
        raise TemplateSyntaxError(why)

    def block(self, depth: int) -> tuple[tuple[_Writer, ...], str]:
        """Everything up to ``{{end}}``, ``{{else}}`` or the end of the text; and which of them it was."""
        if depth > _MAX_DEPTH:
            self.refuse("too many blocks within each other")
        writers: list[_Writer] = []
        while self._literal(writers):
            word = self._next("word") if self._token_is("word", "range", "if", "else", "end") else ""
            if word in ("else", "end"):
                self._finish()
                return tuple(writers), word
            writers.append(self._branch(word, depth) if word else _printer(self._last_pipeline()))
        return tuple(writers), ""

    def _literal(self, writers: list[_Writer]) -> bool:
        """The text before the next action, which is begun; False when there is none."""
        start = self._whole.find("{{", self._at)
        text = self._whole[self._at : start if start >= 0 else None]
        text = text.lstrip() if self._trim else text
        if start >= 0:
            self._at = start + 2
            if re.compile(r"-\s").match(self._whole, self._at):
                self._at += 1
                text = text.rstrip()
        if text := text.replace("\\t", "\t").replace("\\n", "\n"):
            writers.append(lambda _scope: text)
        if start >= 0:
            self._read()
        return start >= 0

    def _branch(self, word: str, depth: int) -> _Writer:
        about = self._last_pipeline()
        then, ended_by = self.block(depth + 1)
        otherwise: tuple[_Writer, ...] = ()
        if ended_by == "else":
            otherwise, ended_by = self.block(depth + 1)
        if ended_by != "end":
            self.refuse(f"{{{{{word}}}}} without {{{{end}}}}")
        return _range(about, then, otherwise) if word == "range" else _if(about, then, otherwise)

    # ---- one action --------------------------------------------------------------------------

    def _last_pipeline(self) -> _Value:
        value = self._pipeline(0)
        self._finish()
        return value

    def _finish(self) -> None:
        if not self._token_is("end"):
            self._unexpected()
        assert self._token is not None
        self._trim = self._token["end"].startswith("-")

    def _pipeline(self, depth: int) -> _Value:
        if depth > _MAX_DEPTH:
            self.refuse("too many parentheses within each other")
        value = self._command(depth, None)
        while self._token_is("sign", "|"):
            self._read()
            value = self._command(depth, value)
        return value

    def _command(self, depth: int, piped: _Value | None) -> _Value:
        """An operand, or a function with its operands, to which what is piped in comes last."""
        if not self._token_is("word") or self._token_is("word", "true", "false", "nil"):
            if piped is not None:
                self.refuse("a value is piped into what is no function")
            return self._operand(depth)
        name = self._next("word")
        function = self._functions.get(name)
        if function is None:
            self.refuse(f"function {name!a} is not known here: use one of {', '.join(FUNCTIONS)}, or a field .{name}")
        operands = []
        while not (self._token_is("end") or self._token_is("close") or self._token_is("sign", "|")):
            operands.append(self._operand(depth))
        return _call(name, function, [*operands, piped] if piped is not None else operands)

    def _operand(self, depth: int) -> _Value:
        if self._token_is("sign", "("):
            self._read()
            inner = self._pipeline(depth + 1)
            if not self._token_is("close"):
                self.refuse("a parenthesis is not closed")
            return _fields(inner, self._next("close")[1:])
        if self._token_is("fields"):
            return self._labelled(self._next("fields"))
        return self._constant()

    def _labelled(self, text: str) -> _Value:
        """``.Label "KEY"``, the only method of a row: the value of a label, or nothing."""
        if not (text.endswith(".Label") and self._token_is("text")):
            return self._chain(text)
        labels, key = self._chain(f"{text}s"), self._unquoted(self._next("text"))

        def get(scope: Scope) -> Any:
            found = labels(scope)
            if isinstance(found, Labels):
                return found.values.get(key, "")
            if isinstance(found, str):
                return key  # the heading of a column
            raise TemplateValueError(f"Label does not take {_kind(found)}")

        return get

    def _chain(self, text: str) -> _Value:
        first = text.lstrip("$").split(".")[1:2]
        self.fields += [name for name in first if name]
        return _fields(_root if text.startswith("$") else _dot, text.removeprefix("$"))

    def _constant(self) -> _Value:
        constant: Any = None
        if self._token_is("number"):
            constant = int(self._next("number"))
        elif self._token_is("text"):
            constant = self._unquoted(self._next("text"))
        elif self._token_is("word", "true", "false", "nil"):
            constant = {"true": True, "false": False, "nil": None}[self._next("word")]
        else:
            self._unexpected()
        return lambda _scope: constant

    def _unquoted(self, quoted: str) -> str:
        if quoted.startswith("`"):
            return quoted[1:-1]
        try:
            return str(json.loads(quoted))
        except ValueError:
            self.refuse(f"{quoted} is no text in quotes")

    # ---- tokens ------------------------------------------------------------------------------

    def _read(self) -> None:
        self._token = _TOKEN.match(self._whole, self._at)
        if self._token is None:
            self._unexpected()
        else:
            self._at = self._token.end()

    def _token_is(self, kind: str, *words: str) -> bool:
        found = self._token[kind] if self._token is not None else None
        return found is not None and (not words or found in words)

    def _next(self, kind: str) -> str:
        """The token at hand; the one after it is read."""
        assert self._token is not None
        found = self._token[kind]
        self._read()
        return str(found)

    def _unexpected(self) -> NoReturn:
        rest = self._whole[self._at :].strip()
        if self._token is not None:
            self.refuse(f"{self._token[0].strip()} is not expected there")
        self.refuse(f"{rest.split()[0][:20]!a} is not expected there" if rest else "}} is missing")


def _dot(scope: Scope) -> Any:
    return scope.dot


def _root(scope: Scope) -> Any:
    return scope.root


def _fields(value: _Value, chain: str) -> _Value:
    """``.A.B`` of a value."""
    names = [name for name in chain.split(".") if name]

    def get(scope: Scope) -> Any:
        found = value(scope)
        for name in names:
            found = _field(found, name)
        return found

    return get if names else value


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise TemplateValueError(f"there is no field {name} in {_kind(value)}")
    try:
        return value[name]
    except KeyError:
        known = ", ".join(map(str, value)) or "nothing: it is empty"
        raise TemplateValueError(f"there is no field {name}: use {known}") from None


def _call(name: str, function: Callable[..., Any], operands: list[_Value]) -> _Value:
    def call(scope: Scope) -> Any:
        values = [operand(scope) for operand in operands]
        try:
            return function(*values)
        except TypeError:
            raise TemplateValueError(f"{name} does not take {', '.join(map(_kind, values)) or 'nothing'}") from None

    return call


def _printer(value: _Value) -> _Writer:
    return lambda scope: text_of(value(scope))


def _if(about: _Value, then: tuple[_Writer, ...], otherwise: tuple[_Writer, ...]) -> _Writer:
    return lambda scope: _text(then if about(scope) else otherwise, scope)


def _range(about: _Value, then: tuple[_Writer, ...], otherwise: tuple[_Writer, ...]) -> _Writer:
    """As Go: a map by its keys in order, and nothing at all where the value is nil."""

    def write(scope: Scope) -> str:
        found = about(scope)
        items = [found[key] for key in sorted(found)] if isinstance(found, Mapping) else found
        if not isinstance(items, (list, tuple, type(None))):
            raise TemplateValueError(f"cannot range over {_kind(found)}")
        return "".join(_text(then, Scope(scope.root, item)) for item in items or ()) or _text(
            otherwise if not items else (), scope
        )

    return write
