"""``fastlayer create``."""

from __future__ import annotations

from typing import Any

import click

from fastlayer.cli import container_options, stores
from fastlayer.cli.rootless import as_root
from fastlayer.cli.starting import ARGUMENTS, created
from fastlayer.cli.switches import SwitchCommand

EPILOG = """\b
Examples:
  fastlayer create --name web -v /srv/www:/www:ro debian httpd -f
  fastlayer start web
"""


@click.command("create", cls=SwitchCommand, epilog=EPILOG, context_settings=ARGUMENTS)
@click.argument("image")
@click.argument("words", nargs=-1, metavar="[COMMAND] [ARG]...")
@container_options.container_options
def command(**given: Any) -> int:
    """Make a container of IMAGE without starting it; prints its id."""
    as_root(given)
    asked = container_options.wanted(given, detach=False)
    with stores.open_store(given) as store:
        print(created(store, given, asked).id)
    return 0
