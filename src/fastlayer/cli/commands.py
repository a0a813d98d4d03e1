"""The group of verbs. Each lives in a file of its name and is imported when it is called."""

from __future__ import annotations

import importlib
import signal
from typing import Any

import click

from fastlayer.cli.stopped import Stopped

# verb -> (module[:command], one line for --help); keeps `fastlayer --help` from importing them
TREES = {
    "diff": ("diff", "Show what changed between two trees, images or a layer and its image; or write it as a layer."),
    "apply": ("apply", "Put layers onto a directory."),
    "index": ("index", "Save what a tree looks like, for later diffs."),
    "clone": ("clone", "Copy a tree exactly, sharing its data where the file system can."),
    "copy-up": ("copy_up", "Copy paths from a lower directory or image to a writable layer."),
    "chunks": ("chunks", "List the content-defined chunks of a file."),
}
IMAGES = {
    "build": ("build", "Build an image of a Dockerfile."),
    "images": ("images", "List images."),
    "history": ("history", "Show how an image came to be, with the size of each layer."),
    "inspect": ("inspect", "Show everything about images, containers, mounts and writable layers, as JSON."),
    "load": ("load", "Load images from a layout or archive."),
    "save": ("save", "Save images to a layout or archive."),
    "import": ("import_image", "Make an image of a directory or tar."),
    "tag": ("tag", "Give an image another name."),
    "rmi": ("rmi", "Remove images."),
    "commit": ("commit", "Make an image of a writable layer."),
}
CONTAINERS = {
    "run": ("run", "Run a program in a new container."),
    "create": ("create", "Make a container without starting it."),
    "start": ("start", "Start containers."),
    "exec": ("exec_verb", "Run a program in a running container."),
    "attach": ("attach", "Be with a running container."),
    "ps": ("ps", "List containers."),
    "logs": ("logs", "Show what a container has written."),
    "stop": ("containers:stop", "Ask containers to end, then make them."),
    "kill": ("containers:kill", "Send containers a signal."),
    "restart": ("containers:restart", "Stop containers and start them again."),
    "wait": ("containers:wait", "Wait until containers have ended."),
    "pause": ("containers:pause", "Stop the processes of containers where they are."),
    "unpause": ("containers:unpause", "Let paused containers go on."),
    "rename": ("containers:rename", "Give a container another name."),
    "rm": ("containers:remove", "Remove containers and writable layers."),
}
MOUNTS = {
    "mount": ("mount", "Mount an image read-only, or with a writable layer."),
    "umount": ("umount", "Unmount."),
    "mounts": ("mounts", "List mounts and writable layers."),
    "cp": ("cp", "Copy files into a writable layer and out of it."),
    "export": ("export", "Write all files of a writable layer and its image as a tar."),
    "checkpoint": ("checkpoint", "Keep what a writable layer holds now; list and remove such states."),
    "rollback": ("checkpoint:rollback", "Go back to a checkpoint."),
    "fork": ("checkpoint:fork", "Make a writable layer of what another one holds."),
}
GROUPS = {
    "image": ("groups:image", "Everything about images."),
    "container": ("groups:container", "Everything about containers."),
    "volume": ("volume", "Data that outlives containers: create, clone, snapshot, export."),
    "serve": ("serve", "Serve others: volumes for a Docker engine."),
    "context": ("groups:context", "What builds copy from."),
    "system": ("groups:system", "Disk usage, pruning, what this machine can do."),
    "store": ("groups:store", "Check and repair the store."),
    "cache": ("cache", "What builds remember: list, prune, explain."),
    "doctor": ("doctor", "Tell which storage drivers work here, and why others do not."),
}
SECTIONS = {
    "Trees and layers": TREES,
    "Images": IMAGES,
    "Containers": CONTAINERS,
    "Mounts and writable layers": MOUNTS,
    "Management": GROUPS,
}
VERBS = {verb: place for section in SECTIONS.values() for verb, place in section.items()}


class LazyGroup(click.Group):
    """Knows its verbs by name; imports the one that is run. ``sections``: heading -> verb -> (place, help)."""

    def __init__(self, *args: Any, sections: dict[str, dict[str, tuple[str, str]]] | None = None, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.sections = SECTIONS if sections is None else sections
        self.verbs = {verb: place for section in self.sections.values() for verb, place in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module, _, name = self.verbs[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"fastlayer.cli.{module}"), name or "command")
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
        if name not in self.verbs and not name.startswith("-"):
            raise click.UsageError(f"there is no verb {name!r}: use one of {', '.join(self.verbs)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, verbs in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, line) for name, (_, line) in verbs.items()])


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
    """Container images and their layers at native speed, without a daemon.

    `fastlayer VERB --help` shows the options and examples of a verb. FASTLAYER_BACKEND=baseline
    runs the plain-Python engine instead of the native one.
    """
