"""The public surface: small, complete, and imported only as far as it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastlayer

HEAVY = ["numpy", "blake3", "isal", "zstandard", "rich", "tempfile", "ctypes", "inspect"]


def loaded_after(code: str) -> set[str]:
    """Modules of HEAVY (and the engine) that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(json.loads(out)) & {*HEAVY, "fastlayer._backend"}


def test_everything_in_all_exists() -> None:
    for name in fastlayer.__all__:
        assert getattr(fastlayer, name) is not None
    assert sorted(fastlayer.__all__) == fastlayer.__all__ == dir(fastlayer)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastlayer.nothing  # noqa: B018


def test_every_error_is_exported() -> None:
    from fastlayer import errors

    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert found <= set(fastlayer.__all__)


def test_functions_are_not_hidden_by_modules() -> None:
    import fastlayer.layer.clone
    import fastlayer.layer.index

    for name in ("apply", "chunks", "clone", "copy_up", "diff", "diff_upper", "index"):
        assert callable(getattr(fastlayer, name)), name


def test_every_module_can_be_imported() -> None:
    code = """
import fastlayer, importlib, pkgutil
found = [module.name for module in pkgutil.walk_packages(fastlayer.__path__, "fastlayer.")]
for name in found:
    if not name.endswith(".__main__"):
        importlib.import_module(name)
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = [*Path(fastlayer.__file__).parent.rglob("*.py"), *Path(fastlayer.__file__).parent.rglob("*.so")]
    assert int(done.stdout) == len({path.with_suffix("").with_suffix("") for path in modules}) - 1


def test_importing_costs_nothing() -> None:
    assert loaded_after("import fastlayer") == set()


def test_a_small_diff_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_text("x")
    code = f"import fastlayer\nassert list(fastlayer.diff({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}))"
    assert loaded_after(code) == {"fastlayer._backend"}


def test_a_plain_layer_loads_no_codec(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_text("x")
    out, tree = str(tmp_path / "o.tar"), str(tmp_path / "b")
    assert not loaded_after(f"import fastlayer\nfastlayer.diff(None, {tree!r}, {out!r})") & set(HEAVY)
