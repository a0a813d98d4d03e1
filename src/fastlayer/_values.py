"""``NamedTuple`` as ``typing`` has it, made in a tenth of the time.

``typing.NamedTuple`` compiles every annotation that is a string, which all are here, and ``collections.namedtuple``
compiles a function for each class: 250 and 100 µs for a class of six fields, and a command loads a hundred such
classes, few of which it makes many values of. Here the strings are kept, and the function is compiled for those. Type
checkers see that of ``typing``, and so does Python from 3.14 on, which compiles annotations when somebody asks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info >= (3, 14):
    from typing import NamedTuple as NamedTuple
else:
    from collections import _tuplegetter

    _FEW = 12  # values that take as long as to compile the function

    class _Maker(type):
        """Makes a tuple class of the fields that a class body lists, with the rest of the body on it."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            annotations = body.get("__annotations__", {})
            fields = tuple(annotations)
            defaults = {field: body[field] for field in fields if field in body}
            if fields[len(fields) - len(defaults) :] != tuple(defaults):
                raise TypeError(f"{name}: a field without a default follows one that has one")
            members = {
                **_METHODS,
                "__slots__": (),
                "__doc__": f"{name}({', '.join(fields)})",
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                **{key: value for key, value in body.items() if key not in defaults},
                **{field: _tuplegetter(number, "") for number, field in enumerate(fields)},
            }
            if "__new__" not in body:
                members["__new__"] = _first_new(fields, defaults)
            return type(name, (tuple,), members)

    def _first_new(fields, defaults):
        """The ``__new__`` of a class of which there are few values yet: then it puts a compiled one in its place."""
        few = _FEW

        def __new__(cls, /, *values, **named):
            nonlocal few
            few -= 1
            left = fields[len(values) :]
            given = {**defaults, **named}
            if few > 0 and len(values) <= len(fields) and named.keys() <= {*left} and given.keys() >= {*left}:
                return tuple.__new__(cls, (*values, *[given[field] for field in left]))
            owner = next(kind for kind in cls.__mro__ if kind.__dict__.get("__new__") is first)
            owner.__new__ = real = _compiled_new(owner, fields, defaults)
            return real(cls, *values, **named)

        first = staticmethod(__new__)
        return first

    def _compiled_new(owner, fields, defaults):
        words = ", ".join(fields)
        space = {
            "__builtins__": {},
            "__name__": f"namedtuple_{owner.__name__}",
            "_make": tuple.__new__,
        }  # no field begins so
        made = eval(f"lambda _cls, {words}: _make(_cls, ({words}{',' * bool(words)}))", space)
        made.__name__ = "__new__"
        made.__qualname__ = f"{owner.__qualname__}.__new__"
        made.__defaults__ = tuple(defaults.values())
        made.__annotations__ = owner.__annotations__
        return made

    @classmethod
    def _make(cls, values):
        """A value of as many things as there are fields."""
        made = tuple.__new__(cls, values)
        if len(made) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
        return made

    def _replace(self, /, **named):
        """The same value with other things in some fields."""
        made = self._make(map(named.pop, self._fields, self))
        if named:
            raise ValueError(f"Got unexpected field names: {list(named)!r}")
        return made

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map('{}={!r}'.format, self._fields, self))})"

    def _asdict(self):
        """Field names and what is in them."""
        return dict(zip(self._fields, self, strict=True))

    def __getnewargs__(self):
        """For copies and pickles."""
        return tuple(self)

    _METHODS = {
        "_make": _make,
        "_replace": _replace,
        "__replace__": _replace,
        "__repr__": __repr__,
        "_asdict": _asdict,
        "__getnewargs__": __getnewargs__,
    }

    class NamedTuple(metaclass=_Maker):
        """The base that class bodies name."""
