"""The declared verbs as click's commands: for help, completion, and to say what is wrong with a line."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from fastlayer.cli.commands import cli
from fastlayer.cli.line import declare, reading
from fastlayer.cli.main import misused
from fastlayer.cli.stopped import Stopped

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def clicked(found: declare.Command | declare.Group) -> click.Command:
    """The same for click."""
    return _VerbGroup(found) if isinstance(found, declare.Group) else _Verb(found)


def call(args: list[str], wishes: dict[str, Any]) -> int:
    """What click makes of the line; returns the exit code. ``wishes["debug"]``: set if the line asks for it."""
    group = clicked(cli)
    try:
        result = group.main(args=args, prog_name="fastlayer", standalone_mode=False, obj=wishes)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exc:
        return int(exc.exit_code)
    except _NoVerb as exc:
        print(exc.message, file=sys.stderr)
        return 2
    except click.ClickException as exc:
        return misused(exc.format_message(), reading.path_of(cli, args))
    except click.exceptions.Abort as exc:
        raise KeyboardInterrupt from exc


class _Verb(click.Command):
    def __init__(self, declared: declare.Command) -> None:
        settings: dict[str, Any] = dict(_SETTINGS)
        if declared.program:
            settings |= {"allow_interspersed_args": False, "help_option_names": ["--help"]}
        super().__init__(
            declared.name,
            context_settings=settings,
            callback=declared.callback,
            params=_parameters(declared),
            help=declared.callback.__doc__,
            **declared.settings,
        )
        self.declared = declared

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = reading.flags_of(self.declared.options)
        words = reading.spelled_out(reading.plain_switches(self.declared, args, flags), flags)
        return super().parse_args(ctx, words)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except declare.LineError as exc:
            raise click.UsageError(str(exc), ctx) from None
        except BrokenPipeError as exc:
            raise Stopped(signal.SIGPIPE) from exc


class _NoVerb(click.ClickException):
    """A group alone on a line; the message is its help."""


class _VerbGroup(click.Group):
    """Knows its verbs by name; imports the one that is run."""

    def __init__(self, declared: declare.Group) -> None:
        top = declared.name == "fastlayer"
        super().__init__(
            declared.name,
            context_settings=_SETTINGS,
            params=[*([_version_option()] if top else []), _debug_option()],
            help=declared.words,
            no_args_is_help=False,
            invoke_without_command=True,
            subcommand_metavar="COMMAND [ARGS]...",
            callback=_want_verb,
        )
        self.declared = declared

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.declared.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return clicked(self.declared.find(cmd_name)) if cmd_name in self.declared.verbs else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.declared.verbs and not name.startswith("-"):
            raise click.UsageError(f"there is no verb {name!r}: use one of {', '.join(self.declared.verbs)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, verbs in self.declared.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, line) for name, (_, line) in verbs.items()])


def _want_verb() -> None:
    ctx = click.get_current_context()
    if ctx.invoked_subcommand is None:
        raise _NoVerb(ctx.get_help())


def _parameters(declared: declare.Command) -> list[click.Parameter]:
    found: list[click.Parameter] = []
    for one in declared.parameters:
        settings = _settings(one.settings)
        if isinstance(one, declare.Option):
            found.append(click.Option(one.flags, **settings))
        else:
            found.append(click.Argument([one.name], **settings))
    return [*found, _debug_option()] if declare.DEBUG in declared.options else found


def _settings(declared: dict[str, Any]) -> dict[str, Any]:
    found = {**declared, "type": _type(declared.get("type"))}
    found.pop("bare", None)
    if "callback" in declared:
        found["callback"] = _callback(declared["callback"])
    return found


def _callback(declared: Any) -> Any:
    def call(ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        try:
            return declared(value)
        except declare.LineError as exc:
            raise click.UsageError(str(exc), ctx) from None

    return call


def _type(kind: Any) -> Any:
    if isinstance(kind, declare.Choice):
        return click.Choice(kind.choices)
    if isinstance(kind, declare.IntRange):
        return click.IntRange(kind.min, kind.max)
    if isinstance(kind, declare.Truth):
        return click.BOOL
    return _Kind(kind) if isinstance(kind, declare.Kind) else kind


class _Kind(click.ParamType[Any]):
    def __init__(self, kind: declare.Kind) -> None:
        self.kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.kind.read(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def _wish_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    wishes = ctx.find_root().obj
    if value and wishes is not None:
        wishes["debug"] = True


def _debug_option() -> click.Option:
    one = declare.DEBUG
    return click.Option(one.flags, expose_value=False, callback=_wish_debug, **one.settings)


def _version_option() -> click.Option:
    words: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "help": "Show the version."}
    return click.Option(["-V", "--version"], callback=_version, **words)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> Any:
    if value:
        from fastlayer._version import __version__

        click.echo(f"fastlayer {__version__}")
        ctx.exit(0)
