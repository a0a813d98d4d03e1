"""A volume plugin for tests: written from the protocol's documentation, it shares nothing with ours."""

from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Plugin:
    """What a plugin knows; counts its mounts by id, as plugins do."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.calls: list[str] = []
        self.mounts: dict[str, set[str]] = {}
        self.options: dict[str, dict[str, str]] = {}

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        method = path.rpartition(".")[2]
        self.calls.append(method)
        if path == "/Plugin.Activate":
            return 200, {"Implements": ["VolumeDriver"]}
        name = asked.get("Name", "")
        if method in ("Get", "Mount", "Path", "Remove", "Unmount") and not (self.place / name).is_dir():
            return 500, {"Err": f"no volume {name}"}
        try:
            return 200, getattr(self, f"on_{method.lower()}")(name, asked)
        except ValueError as exc:
            return 500, {"Err": str(exc)}

    def on_create(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if set(asked["Opts"]) - {"flavor"}:
            raise ValueError(f"unknown option {asked['Opts']}")
        (self.place / name).mkdir()
        self.options[name] = asked["Opts"]
        return {"Err": ""}

    def on_remove(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if self.mounts.get(name):
            raise ValueError(f"{name} is mounted by {self.mounts[name]}")
        subprocess.run(["rm", "-rf", self.place / name], check=True)
        return {"Err": ""}

    def on_mount(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.mounts.setdefault(name, set()).add(asked["ID"])
        return {"Mountpoint": str(self.place / name), "Err": ""}

    def on_unmount(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.mounts.get(name, set()).discard(asked["ID"])
        return {"Err": ""}

    def on_path(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Mountpoint": str(self.place / name) if self.mounts.get(name) else "", "Err": ""}

    def on_get(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Volume": {"Name": name, "Status": {"taste": "good"}}, "Err": ""}

    def on_list(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Volumes": [{"Name": path.name} for path in self.place.iterdir()], "Err": ""}

    def on_capabilities(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {"Capabilities": {"Scope": "global"}}


class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def serving(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def handler(plugin: Plugin) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = plugin.answer(self.path, asked)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return ""

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
