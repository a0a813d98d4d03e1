"""Who may know whom: docs/architecture.md, checked by walking the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastlayer

SOURCE = Path(fastlayer.__file__).parent

# room -> rooms it may import (besides itself); those of FREE are for all
MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "_values": set(),
    "_checked": set(),
    "_temporary": set(),
    "oci": set(),
    "_native": set(),
    "_baseline": set(),
    "_backend": set(),  # it imports the two engines by name, at run time
    "layer": {"_backend", "oci"},
    "metadata": set(),
    "mounts": {"_backend"},
    "content": {"oci", "_backend"},
    "snapshot": {"metadata", "mounts", "oci", "layer"},
    "drivers": {"snapshot", "layer", "mounts", "_backend"},
    "store": {"content", "metadata", "snapshot", "drivers", "oci"},
    "image": {"store", "content", "metadata", "snapshot", "mounts", "layer", "oci", "_backend"},
    "registry": {"content", "oci", "layer", "snapshot", "store", "image", "metadata", "_backend"},
    "transfer": {
        "registry",
        "image",
        "store",
        "content",
        "snapshot",
        "metadata",
        "mounts",
        "layer",
        "oci",
        "_backend",
    },
    "running": {"mounts", "oci", "_backend"},
    "builder": {
        "transfer",
        "registry",
        "running",
        "image",
        "store",
        "content",
        "snapshot",
        "metadata",
        "mounts",
        "layer",
        "oci",
        "_backend",
    },
    "container": {
        "transfer",
        "registry",
        "volume",
        "running",
        "_backend",
        "builder",
        "image",
        "store",
        "snapshot",
        "metadata",
        "mounts",
        "drivers",
        "layer",
        "oci",
    },
    "volume": {
        "running",
        "image",
        "store",
        "content",
        "snapshot",
        "metadata",
        "drivers",
        "mounts",
        "layer",
        "oci",
        "_backend",
    },
    "maintenance": {
        "volume",
        "container",
        "image",
        "store",
        "content",
        "snapshot",
        "metadata",
        "drivers",
        "layer",
        "oci",
    },
    "testing": {"volume", "snapshot", "drivers", "mounts", "metadata", ""},
    "cli": {
        "transfer",
        "registry",
        "maintenance",
        "volume",
        "builder",
        "running",
        "container",
        "image",
        "store",
        "content",
        "snapshot",
        "drivers",
        "mounts",
        "layer",
        "oci",
        "_backend",
        "",
    },
    "": {
        "transfer",
        "registry",
        "builder",
        "volume",
        "container",
        "image",
        "store",
        "layer",
        "oci",
        "_backend",
    },  # the public API
    "__main__": {"cli"},
}
FREE = {"errors", "_version", "_values", "_checked", "_temporary"}

# heavy things and the rooms that may import them at the top of a module
HEAVY = ("numpy", "rich", "blake3", "zstandard", "isal", "sqlite3", "grpc", "http", "urllib3", "asyncio")
ONLY_CLI = ("click", "rich")

# rooms within rooms that live on a heavy library: nobody may import them at the top
BEHIND_A_DOOR = {
    "fastlayer.cli.line.clicked": "click",
    "fastlayer.layer.keys": "blake3",
    "fastlayer.metadata.database": "sqlite3",
    "fastlayer.metadata.spare": "sqlite3",
    "fastlayer.registry.heads": "http",
    "fastlayer.store.store": "sqlite3",
    "fastlayer.volume.plugin.server": "http",
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ["fastlayer", *path.relative_to(SOURCE).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found.append((".".join(parts), path))
    return found


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "fastlayer":
                names |= {f"fastlayer.{alias.name}" for alias in node.names if is_module(alias.name)}
    return names


def is_module(name: str) -> bool:
    return (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").exists()


@pytest.mark.parametrize("module,path", modules(), ids=[m for m, _ in modules()])
def test_imports_go_one_way(module: str, path: Path) -> None:
    room = room_of(module)
    assert room in MAY_KNOW, f"a new room {room!r}: say in MAY_KNOW whom it may know"
    allowed = MAY_KNOW[room] | FREE | {room}
    for name in imports(path):
        if name.split(".")[0] == "fastlayer" and name != "fastlayer":
            assert room_of(name) in allowed, f"{module} imports {name}"
        elif name == "fastlayer":
            assert "" in allowed or any(n.startswith("fastlayer.") for n in imports(path)), (
                f"{module} imports fastlayer"
            )


@pytest.mark.parametrize("module,path", modules(), ids=[m for m, _ in modules()])
def test_heavy_imports_are_lazy(module: str, path: Path) -> None:
    for name in imports(path, top_only=True):
        if module not in BEHIND_A_DOOR or BEHIND_A_DOOR.get(name) != BEHIND_A_DOOR[module]:
            assert name not in BEHIND_A_DOOR, f"{module} imports {name} at the top"
        if name.split(".")[0] != BEHIND_A_DOOR.get(module):
            assert name.split(".")[0] not in HEAVY, f"{module} imports {name} at the top"
        if name.split(".")[0] in ONLY_CLI:
            assert room_of(module) == "cli", f"{module} imports {name}"


def test_the_baseline_is_plain_python() -> None:
    for module, path in modules():
        if room_of(module) == "_baseline":
            outside = {n for n in imports(path) if n.split(".")[0] not in sys.stdlib_module_names | {"fastlayer"}}
            assert not outside, f"{module} imports {outside}"


def test_sub_packages_do_not_shadow_public_functions() -> None:
    packages = {p.name for p in SOURCE.iterdir() if p.is_dir()} | {p.stem for p in SOURCE.glob("*.py")}
    assert not packages & set(fastlayer.__all__)


def test_a_plain_import_loads_nothing_heavy() -> None:
    assert loaded_by("import fastlayer", (*HEAVY, "click")) == "[]"


def test_a_small_diff_loads_nothing_heavy(tmp_path: Path) -> None:
    for tree, text in (("a", "1"), ("b", "22")):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "f").write_text(text)
    code = f"import fastlayer; assert len(fastlayer.diff({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}))"
    assert loaded_by(code, HEAVY) == "[]"


def loaded_by(code: str, names: tuple[str, ...]) -> str:
    code += f"; import sys; print([m for m in sys.modules if m.split('.')[0] in {names!r}])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_engine_modules_have_the_same_names() -> None:
    native = {p.stem for p in (SOURCE / "_native").glob("*.pyi")}
    baseline = {p.stem for p in (SOURCE / "_baseline").glob("*.py")}
    names = "changes upper encode extract tarread merge chunk clone scan mountapi subvolume usage run"
    for name in names.split():
        assert name in native, f"_native/{name}.pyi"
        assert name in baseline, f"_baseline/{name}.py"


def test_every_public_name_exists_and_is_documented() -> None:
    for name in fastlayer.__all__:
        thing = getattr(fastlayer, name)
        if callable(thing) and not name.startswith("__"):
            assert (thing.__doc__ or "").strip(), f"fastlayer.{name} has no docstring"
