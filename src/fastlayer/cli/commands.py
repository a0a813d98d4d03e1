"""The group of verbs. Each lives in a file of its name and is imported when it is called."""

from __future__ import annotations

from fastlayer.cli.line.declare import Group

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
REGISTRIES = {
    "login": ("login", "Log in to a registry."),
    "logout": ("login:logout", "Forget the login for a registry."),
    "pull": ("pull", "Pull images from registries."),
    "push": ("push", "Push an image to a registry."),
    "copy": ("copy", "Copy an image between registries, layouts, archives and the store."),
    "search": ("search", "List what a registry has: tags, repositories, what refers to an image."),
    "manifest": ("manifest", "Look at manifests; make indexes of images and push them."),
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
    "fork": ("checkpoint:fork", "Make a container, or a writable layer, of what another one holds."),
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
    "unshare": ("unshare", "Run a command as root of a user namespace, as a plain user."),
    "doctor": ("doctor", "Tell which storage drivers work here, and why others do not."),
}
SECTIONS = {
    "Trees and layers": TREES,
    "Images": IMAGES,
    "Registries": REGISTRIES,
    "Containers": CONTAINERS,
    "Mounts and writable layers": MOUNTS,
    "Management": GROUPS,
}
VERBS = {verb: place for section in SECTIONS.values() for verb, place in section.items()}


cli = Group(
    "fastlayer",
    """Container images and their layers at native speed, without a daemon.

    `fastlayer VERB --help` shows the options and examples of a verb. FASTLAYER_BACKEND=baseline
    runs the plain-Python engine instead of the native one.
    """,
    SECTIONS,
)
