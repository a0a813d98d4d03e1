"""click is imported with stand-ins for what it does not need; whoever wants the modules themselves gets them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from fastlayer.cli import lean

NOT_LOADED = ("inspect", "gettext", "uuid", "urllib.parse", "platform", "ast", "locale", "ipaddress")


def after(code: str) -> str:
    code = f"import sys; from fastlayer.cli.lean import import_click; click = import_click()\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_not_loaded() -> None:
    assert after(f"print([name for name in {NOT_LOADED!r} if name in sys.modules])") == "[]"


def test_commands_are_made_and_called_without_it() -> None:
    code = """
@click.command(help="One line.", epilog="Ends.")
@click.option("--number", type=int, default=lambda: 3, help="A number.")
@click.argument("words", nargs=-1)
def command(number, words):
    return number, words
print(command.main(["a", "b"], standalone_mode=False))
print("inspect" in sys.modules, "uuid" in sys.modules)
"""
    assert after(code).splitlines() == ["(3, ('a', 'b'))", "False False"]


def test_the_modules_themselves_are_there_afterwards() -> None:
    code = f"""
import importlib
for name in {(*NOT_LOADED, "datetime")!r}:
    module = importlib.import_module(name)
    assert module.__spec__ is not None and module.__file__, name
import datetime, uuid, urllib.parse, inspect
print(datetime.datetime(2020, 1, 2).isoformat(), urllib.parse.quote("a b"), uuid.UUID(int=1).int)
print(inspect.signature(lambda one: one))
"""
    assert after(code).splitlines() == ["2020-01-02T00:00:00 a%20b 1", "(one)"]


def test_click_has_all_of_it_when_it_asks() -> None:
    code = """
import pathlib
print(pathlib.Path("/a b").as_uri())
print(click.UUID.convert("12345678-1234-5678-1234-567812345678", None, None).hex)
print(click.DateTime().convert("2020-01-02", None, None).year)
print(click.core.inspect.signature(lambda one: one), click.core.inspect.isfunction(len))
"""
    assert after(code).splitlines() == ["file:///a%20b", "12345678123456781234567812345678", "2020", "(one) False"]


def test_modules_that_are_there_are_left_alone() -> None:
    code = "import inspect, uuid\nfrom fastlayer.cli.lean import import_click\nclick = import_click()\n"
    code += "print(click.core.inspect is inspect, sys.modules['inspect'] is inspect)"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"


@pytest.mark.parametrize("text", ["", "one", "  one ", "\tone\ttwo", "one\n  two\n   three", "\n\n one\n two\n\n"])
def test_texts_are_cleaned_as_inspect_does(text: str) -> None:
    assert lean._cleandoc(text) == inspect.cleandoc(text)
