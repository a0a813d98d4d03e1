"""The second half of ``make demo``: an image of a real Python application is built, and built again after a change.

On a Debian with python3, made by debootstrap, it is a Flask application, installed by pip from wheels that lie in the
context. Where there is no debootstrap, or no root to run it, it is a shell script on busybox; where there is not even
that, or nothing that RUN could be run by, this half is skipped and says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.telling import FASTLAYER, Failed, run, say

SYSTEM = Path(__file__).parents[1] / ".ci/system"
FLASK = "flask>=3.1,<3.2"
BASE_PYTHON = "3.11"  # of Debian 12

FLASK_FILE = """\
FROM base
WORKDIR /srv
RUN --mount=source=wheels,target=/wheels PYTHONPATH=$(echo /wheels/pip-*.whl) \\
    python3 -m pip install -q --no-index --find-links=/wheels --break-system-packages --root-user-action=ignore flask
COPY shop shop
RUN python3 -B -c "import shop; print(shop.app.test_client().get('/').text)"
ENTRYPOINT ["python3", "-m", "flask", "--app", "shop", "run"]
"""
FLASK_APP = """\
from flask import Flask

app = Flask(__name__)


@app.route("/")
def index() -> str:
    return "one of everything, please"
"""
SHELL_FILE = """\
FROM base
WORKDIR /srv
RUN head -c 5000000 /dev/zero >data
COPY shop shop
RUN sh shop/shop.sh
ENTRYPOINT ["sh", "/srv/shop/shop.sh"]
"""
SHELL_APP = "echo one of everything, please\n"


class App(NamedTuple):
    """``source``: the file that is changed."""

    dockerfile: str
    source: str
    text: str


def show_build(work: Path) -> None:
    say("An image of an application")
    env = {"FASTLAYER_ROOT": str(work / "store")}
    try:
        app = _prepare(work, env)
        if app is not None:
            _show(work, app, env)
    except Failed as exc:
        print(f"{exc}\n   skipped: there is no way to build an image here", flush=True)


def _prepare(work: Path, env: dict[str, str]) -> App | None:
    """The base image in the store and the context on the disk; None: said why not."""
    debian = _debian()
    if debian is not None:
        run(work, FASTLAYER, "import", "-q", debian, "base", env=env)
        _write(work, app := App(FLASK_FILE, "shop/__init__.py", FLASK_APP))
        _wheels(work)
        return app
    root = _busybox(work)
    if root is None:
        print("   skipped: no busybox (package busybox-static) for a base image", flush=True)
        return None
    run(work, FASTLAYER, "import", "-q", root, "base", env=env)
    _write(work, app := App(SHELL_FILE, "shop/shop.sh", SHELL_APP))
    return app


def _debian() -> Path | None:
    """An archive of a Debian with python3, made once and kept; None: said why not."""
    if os.geteuid() != 0:
        return _no_debian("debootstrap needs root")
    if not shutil.which("debootstrap"):
        subprocess.run(["bash", SYSTEM, "bench"], check=False)
    if not shutil.which("debootstrap"):
        return _no_debian("debootstrap cannot be installed")
    from bench.workloads import debian_with_python

    print("a Debian 12 with python3, by debootstrap (once; a minute or two)", flush=True)
    try:
        return debian_with_python()
    except (RuntimeError, OSError) as exc:
        return _no_debian(str(exc).strip().rpartition("\n")[2])


def _no_debian(why: str) -> None:
    print(f"   no Debian base image: {why}; busybox instead", flush=True)


def _busybox(work: Path) -> Path | None:
    """A root file system of busybox and links to it."""
    program = shutil.which("busybox")
    if program is None:
        return None
    root = work / "busybox"
    (root / "bin").mkdir(parents=True)
    shutil.copy(program, root / "bin/busybox")
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    return root


def _wheels(work: Path) -> None:
    """What pip needs in a step without a network: the packages, and itself."""
    print(f"app/wheels: pip download {FLASK} pip", flush=True)
    words = ["-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", BASE_PYTHON]
    run(work, sys.executable, *words, "--dest", "app/wheels", FLASK, "pip", show=False)


def _write(work: Path, app: App) -> None:
    (work / "app/shop").mkdir(parents=True)
    (work / "app/Dockerfile").write_text(app.dockerfile)
    (work / "app" / app.source).write_text(app.text)
    print(f"$ cat app/Dockerfile\n{app.dockerfile}", end="", flush=True)


def _show(work: Path, app: App, env: dict[str, str]) -> None:
    build: Callable[..., object] = _builder(work, env)
    build("-t", "shop:1")
    say("Again: everything is in the cache")
    build("-t", "shop:1")
    say(f"Again after a change in {app.source}, its second half is done, and it is said why")
    path = work / "app" / app.source
    path.write_text(path.read_text().replace("one of", "two of"))
    build("-t", "shop:2", "--explain")
    say("The two images share all layers but one; steps that changed no file have none")
    for name in ("shop:1", "shop:2"):
        run(work, FASTLAYER, "history", name, env=env)
    run(work, FASTLAYER, "diff", "shop:1", "shop:2", env=env)


def _builder(work: Path, env: dict[str, str]) -> Callable[..., object]:
    def build(*words: str) -> None:
        _, seconds = run(work, FASTLAYER, "build", "--progress", "plain", *words, "app", env=env, errors=True)
        print(f"   {seconds:.2f} s, the whole process")

    return build
