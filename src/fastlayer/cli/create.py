"""``fastlayer create``."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import container_options, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root
from fastlayer.cli.starting import created

EPILOG = """\b
Examples:
  fastlayer create --name web -v /srv/www:/www:ro debian httpd -f
  fastlayer start web
"""


@declare.command("create", epilog=EPILOG, switches=True, program=True)
@declare.argument("image")
@declare.argument("words", nargs=-1, metavar="[COMMAND] [ARG]...")
@container_options.container_options
def command(**given: Any) -> int:
    """Make a container of IMAGE without starting it; prints its id."""
    as_root(given)
    asked = container_options.wanted(given, detach=False)
    with stores.open_store(given, create=given["pull"] != "never") as store:
        print(created(store, given, asked).id)
    return 0
