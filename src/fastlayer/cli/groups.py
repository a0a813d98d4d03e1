"""The nouns: groups of verbs about one kind of thing. Docker's words where Docker has the thing."""

from __future__ import annotations

from fastlayer.cli.commands import CONTAINERS
from fastlayer.cli.line import declare

_IMAGE = {
    "build": ("build", "Build an image of a Dockerfile."),
    "ls": ("images", "List images."),
    "history": ("history", "Show how an image came to be, with the size of each layer."),
    "inspect": ("inspect", "Show everything about an image, as JSON."),
    "pull": ("pull", "Pull images from registries."),
    "load": ("load", "Load images from a layout or archive."),
    "save": ("save", "Save images to a layout or archive."),
    "push": ("push", "Push an image to a registry."),
    "import": ("import_image", "Make an image of a directory or tar."),
    "tag": ("tag", "Give an image another name."),
    "rm": ("rmi", "Remove images."),
    "prune": ("prune:image_prune", "Remove what no image uses any more."),
    "materialize": ("materialize", "Write the blobs that an image's layers have not got yet."),
}
_CONTAINER = {
    **{verb: place for verb, place in CONTAINERS.items() if verb != "ps"},
    "ls": ("ps", "List containers."),
    "inspect": ("inspect", "Show everything about a container, as JSON."),
    "commit": ("commit", "Make an image of a container."),
    "diff": ("diff", "Show what has changed in a container."),
    "cp": ("cp", "Copy files into a container and out of it."),
    "export": ("export", "Write all files of a container as a tar."),
    "checkpoint": ("checkpoint", "Keep what a container holds now; list and remove such states."),
    "rollback": ("checkpoint:rollback", "Go back to a checkpoint."),
    "fork": ("checkpoint:fork", "Make a container of what another one is and holds."),
    "prune": ("containers:prune", "Remove all containers that do not run."),
}
_SYSTEM = {
    "df": ("df", "Show what takes how much of the disk."),
    "prune": ("prune:system_prune", "Remove everything that is not used."),
    "doctor": ("doctor", "Tell which storage drivers work here, and why others do not."),
}
_CONTEXT = {
    "ls": ("context", "Show what a build context sends, with sizes."),
}
_STORE = {
    "check": ("check", "Check that everything is there and what it says."),
    "gc": ("prune:collect_garbage", "Remove what nobody can reach, and what killed processes left."),
}


image = declare.Group("image", "Everything about images.", {"Verbs": _IMAGE})


container = declare.Group("container", "Everything about containers.", {"Verbs": _CONTAINER})


system = declare.Group("system", "Disk usage, pruning, what this machine can do.", {"Verbs": _SYSTEM})


context = declare.Group("context", "What builds copy from.", {"Verbs": _CONTEXT})


store = declare.Group("store", "Check and repair the store.", {"Verbs": _STORE})
