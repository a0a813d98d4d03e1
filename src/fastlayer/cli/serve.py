"""``fastlayer serve``: what others ask for over a socket."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from fastlayer.cli import options, stores
from fastlayer.cli.line import declare
from fastlayer.cli.stopped import Stopped

_VERBS = {"volume-plugin": ("serve:volume_plugin", "Let a Docker engine use the volumes of a store.")}
_SOCKET = "/run/docker/plugins/fastlayer.sock"
EPILOG = """\b
Examples:
  fastlayer serve volume-plugin &
  docker volume create -d fastlayer -o size=10g data
  docker volume create -d fastlayer -o image=node:22 modules      an image's tree, to be written to
  docker volume create -d fastlayer -o clone=data data-test
  docker volume create -d fastlayer -o snapshot=data@monday old
  docker run -v data:/var/lib/data IMAGE
"""


command = declare.Group("serve", "Serve others over a socket, until it is stopped by a signal.", {"Verbs": _VERBS})


@declare.command("volume-plugin", epilog=EPILOG)
@declare.option(
    "--socket",
    "socket_",
    default=_SOCKET,
    show_default=True,
    metavar="PATH",
    type=options.WORD,
    help="Where to listen; its name is the driver's for Docker.",
)
@stores.store_options
def volume_plugin(**given: Any) -> int:
    """Let a Docker engine on this machine use the volumes of a store, as the volume plugin that the socket names.

    It may be killed and started again at any time: all it knows is in the store. SIGTERM ends it after what is being
    done. With a socket of systemd (LISTEN_FDS) it serves that.
    """
    from fastlayer.store.store import Store, open_store
    from fastlayer.volume.plugin.server import PluginServer, recover

    def opener() -> Store:
        return open_store(given["root"], driver=given["driver"])

    with opener() as store:
        recover(store)
    server = PluginServer(Path(given["socket_"]), opener)
    try:
        print(f"fastlayer: serving volumes at {server.path or 'the given socket'}", file=sys.stderr, flush=True)
        server.serve_forever(poll_interval=0.1)
    except Stopped as exc:
        if exc.number != signal.SIGTERM:
            raise
    finally:
        server.close()
    return 0
