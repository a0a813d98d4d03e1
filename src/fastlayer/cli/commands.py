"""The group of verbs. Each lives in a file of its name and is imported when it is called."""

from __future__ import annotations

import importlib
import signal
from typing import Any

import click

from fastlayer.cli.stopped import Stopped

# verb -> (module, one line for --help); keeps `fastlayer --help` from importing them
VERBS = {
    "diff": ("fastlayer.cli.diff", "Show what changed between two trees, or write it as a layer."),
    "apply": ("fastlayer.cli.apply", "Put layers onto a directory."),
    "index": ("fastlayer.cli.index", "Save what a tree looks like, for later diffs."),
    "clone": ("fastlayer.cli.clone", "Copy a tree exactly, sharing its data where the file system can."),
    "copy-up": ("fastlayer.cli.copy_up", "Copy one path from a lower directory to an upper one."),
    "chunks": ("fastlayer.cli.chunks", "List the content-defined chunks of a file."),
}


class LazyGroup(click.Group):
    """Knows its verbs by name; imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(VERBS[cmd_name][0])
        command = module.command
        assert isinstance(command, click.Command)
        if not any(param.name == "debug" for param in command.params):
            command.params.append(_debug_option())
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise Stopped(signal.SIGPIPE) from exc

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            raise click.UsageError(f"there is no verb {name!r}: use one of {', '.join(VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


def _wish_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    wishes = ctx.find_root().obj
    if value and wishes is not None:
        wishes["debug"] = True


def _debug_option() -> click.Option:
    """Of every verb, too: where people put it when something has failed."""
    return click.Option(
        ["-D", "--debug"], is_flag=True, expose_value=False, callback=_wish_debug, help="Show the trace of an error."
    )


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> Any:
    if value:
        from fastlayer._version import __version__

        click.echo(f"fastlayer {__version__}")
        ctx.exit(0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
@click.option("-D", "--debug", is_flag=True, help="Show the trace of an error.")
def cli(debug: bool) -> None:
    """Container image layers at native speed: diff and apply trees as OCI layers.

    `fastlayer VERB --help` shows the options and examples of a verb. FASTLAYER_BACKEND=baseline
    runs the plain-Python engine instead of the native one.
    """
