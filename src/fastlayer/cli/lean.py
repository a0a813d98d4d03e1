"""click and pathlib, without what they load for what no verb of ours does: a third of the time their import takes.

While click is imported, it finds stand-ins for ``inspect`` (which loads a parser of Python), ``gettext`` (which looks
for catalogues that click does not have), ``uuid`` (which loads ``platform``) and ``datetime``; pathlib one for
``urllib.parse``. They do the little that click needs to make commands and parse a line; anything else they hand to the
module itself, which they load then.
Afterwards everybody else who imports these modules gets the modules.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def import_click() -> Any:
    """The module ``click``. pathlib has been imported, too."""
    put = {name: made for name, made in _STAND_INS.items() if name not in sys.modules}
    sys.modules.update(put)
    try:
        import pathlib  # noqa: F401

        import click
    finally:
        for name, made in put.items():
            if sys.modules.get(name) is made:
                del sys.modules[name]
    return click


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import importlib

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _stand_in(name: str, **known: Any) -> _StandIn:
    module = _StandIn(name)
    module.__dict__.update(known)
    return module


def _cleandoc(text: str) -> str:
    """As ``inspect.cleandoc``, which only texts of several lines need."""
    if "\n" not in text:
        return text.expandtabs().lstrip()
    from inspect import cleandoc

    return cleandoc(text)


def _is_function(value: object) -> bool:
    return isinstance(value, types.FunctionType)


def _untranslated(message: str) -> str:
    return message


def _untranslated_plural(one: str, several: str, number: int) -> str:
    return one if number == 1 else several


def _quote_from_bytes(data: bytes, safe: str = "/") -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(data, safe)


class _Uuid:
    """Is a type, which is all that click wants of it when it is imported; makes the real ones."""

    def __new__(cls, *words: Any, **named: Any) -> Any:
        from uuid import UUID

        return UUID(*words, **named)


class _DateTime:
    """Likewise."""

    @staticmethod
    def strptime(text: str, form: str) -> Any:
        from datetime import datetime

        return datetime.strptime(text, form)


_STAND_INS = {
    "inspect": _stand_in("inspect", cleandoc=_cleandoc, isfunction=_is_function),
    "gettext": _stand_in("gettext", gettext=_untranslated, ngettext=_untranslated_plural),
    "datetime": _stand_in("datetime", datetime=_DateTime),
    "urllib.parse": _stand_in("urllib.parse", quote_from_bytes=_quote_from_bytes),
    "uuid": _stand_in("uuid", UUID=_Uuid),
}
