"""``fastlayer._values.NamedTuple``: what classes of it can do is what those of ``typing`` can."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import typing
from typing import Any

import pytest

from fastlayer import _values


class Ours(_values.NamedTuple):
    """Words."""

    a: int
    b: tuple[str, ...] = ()
    c: NotThere | None = None  # type: ignore[name-defined]  # noqa: F821

    @property
    def twice(self) -> int:
        return 2 * self.a

    @classmethod
    def of(cls, a: int) -> Ours:
        return cls(a, ("x",))

    def __str__(self) -> str:
        return f"<{self.a}>"


class Theirs(typing.NamedTuple):
    """Words."""

    a: int
    b: tuple[str, ...] = ()
    c: Any = None

    @property
    def twice(self) -> int:
        return 2 * self.a

    @classmethod
    def of(cls, a: int) -> Theirs:
        return cls(a, ("x",))

    def __str__(self) -> str:
        return f"<{self.a}>"


def _said(kind: Any) -> list[Any]:
    one = kind.of(3)
    return [
        tuple(one),
        one.twice,
        str(one),
        repr(one).partition("(")[2],
        kind._fields,
        kind._field_defaults,
        one._asdict(),
        tuple(one._replace(c=5)),
        kind(1) == (1, (), None),
        hash(kind(1)),
        kind.__doc__,
        kind.__module__,
        kind.__mro__[1:],
        list(kind.__annotations__),
        isinstance(one, tuple) and hasattr(one, "__dict__"),
        kind._make([1, 2, 3])[:],
    ]


def test_as_those_of_typing() -> None:
    assert _said(Ours) == _said(Theirs)
    assert Ours.__qualname__ == "Ours" and pickle.loads(pickle.dumps(Ours.of(1))) == Ours.of(1)
    with pytest.raises(TypeError):
        Ours()  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Ours(1).a = 2  # type: ignore[misc]


class Named(_values.NamedTuple):
    """Fields of names that the making uses."""

    cls: int
    make: int = 2
    self: int = 3


class Nothing(_values.NamedTuple):
    """No fields."""


class Below(Ours):
    """A class of such a class."""

    @property
    def thrice(self) -> int:
        return 3 * self.a


def test_the_first_value_and_all_later_ones() -> None:
    for _ in range(30):
        assert Named(cls=1) == (1, 2, 3) and Named(1, self=5).self == 5 and Named(*"abc").make == "b"
        assert Nothing() == () and Below(2).thrice == 6 and type(Below(2)._replace(a=1)) is Below
    assert Below.__new__ is Ours.__new__ and Named.__new__.__name__ == "__new__" and copy.copy(Named(4)) == Named(4)


@pytest.mark.parametrize("kind", [Ours, Theirs])
@pytest.mark.parametrize("used", [0, 30])
def test_wrong_values(kind: Any, used: int) -> None:
    if kind is Ours:  # a class of its own, of which there are no values yet

        class Fresh(_values.NamedTuple):
            a: int
            b: tuple[str, ...] = ()
            c: Any = None

        kind = Fresh
    for number in range(used):
        assert kind(number) == (number, (), None)
    for words, named in (((), {}), ((1, 2, 3, 4), {}), ((1,), {"nope": 2}), ((1,), {"a": 2})):
        with pytest.raises(TypeError):
            kind(*words, **named)
    with pytest.raises(TypeError, match="Expected 3 arguments, got 2"):
        kind._make([1, 2])
    with pytest.raises((ValueError, TypeError), match="nope"):
        kind(1)._replace(nope=2)


def test_matched_by_place() -> None:
    match Ours(1, ("x",)):
        case Ours(1, (word,)):
            assert word == "x"
        case _:
            pytest.fail("is not matched")


def test_fields_with_and_without_defaults() -> None:
    with pytest.raises(TypeError, match="default"):

        class Wrong(_values.NamedTuple):
            a: int = 1
            b: int  # type: ignore[misc]


def test_all_of_ours_are_made_by_it() -> None:
    """Loading the command compiles no annotation."""
    program = (
        "import importlib, pkgutil, typing\n"
        "made = typing.NamedTupleMeta.__new__\n"
        "def looked(cls, name, bases, body):\n"
        "    place = body['__module__']\n"
        "    assert not place.startswith('fastlayer.') or place.startswith('fastlayer._native'), (place, name)\n"
        "    return made(cls, name, bases, body)\n"
        "typing.NamedTupleMeta.__new__ = looked\n"
        "import fastlayer\n"
        "for found in pkgutil.walk_packages(fastlayer.__path__, 'fastlayer.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
    )
    if sys.version_info >= (3, 14):
        pytest.skip("typing's own is used")
    subprocess.run([sys.executable, "-c", program], check=True)
