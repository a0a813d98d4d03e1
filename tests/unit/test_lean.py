"""pathlib is loaded without what no verb needs of it; whoever wants that gets it."""

from __future__ import annotations

import subprocess
import sys


def after(code: str) -> str:
    code = f"import sys; from fastlayer.cli.lean import import_pathlib; import_pathlib()\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_not_loaded() -> None:
    assert after("print('pathlib' in sys.modules, 'urllib.parse' in sys.modules, 'ipaddress' in sys.modules)") == (
        "True False False"
    )


def test_the_module_itself_is_there_afterwards() -> None:
    code = "import pathlib; print(pathlib.Path('/a b').as_uri()); import urllib.parse as found\n"
    code += "print(found.quote('a b'), bool(found.__file__), pathlib.Path('/c d').as_uri())"
    assert after(code).splitlines() == ["file:///a%20b", "a%20b True file:///c%20d"]


def test_a_module_that_is_there_is_left_alone() -> None:
    code = "import sys, urllib.parse as found\nfrom fastlayer.cli.lean import import_pathlib\nimport_pathlib()\n"
    code += "import pathlib; print(sys.modules['urllib.parse'] is found, pathlib.Path('/a b').as_uri())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True file:///a%20b"
