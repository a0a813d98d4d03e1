"""Image configurations (image-spec config.md), with the fields that Docker writes besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.chain import chain_id
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.document import Document
from fastlayer.oci.platform import Platform

if TYPE_CHECKING:
    from fastlayer.oci.manifest import Manifest

MAX_CONFIG = 8 << 20  # bytes
_KNOWN = ("architecture", "os", "config", "rootfs", "history", "created", "author", "variant")


class History(NamedTuple):
    """One step of the making. ``empty_layer``: it changed the configuration only. ``extra``: other properties, kept."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    extra: Mapping[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the specification, keys in Docker's order."""
        pairs = (
            ("created", self.created),
            ("author", self.author),
            ("created_by", self.created_by),
            ("comment", self.comment),
            ("empty_layer", self.empty_layer),
        )
        return {**{key: item for key, item in pairs if item}, **self.extra}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], what: str) -> History:
        """Reads the JSON object; raises ``ManifestError``."""
        return cls(
            created=jsontext.text(value, "created", what),
            created_by=jsontext.text(value, "created_by", what),
            author=jsontext.text(value, "author", what),
            comment=jsontext.text(value, "comment", what),
            empty_layer=jsontext.truth(value, "empty_layer", what),
            extra={key: item for key, item in value.items() if key not in _HISTORY},
        )


_HISTORY = frozenset({"created", "created_by", "author", "comment", "empty_layer"})


class RunConfig(NamedTuple):
    """How a container of the image runs: the ``config`` object. Absent and null are empty, as Docker reads them.

    ``extra``: the properties that have no name here (``Hostname``, ``Image``, ``MacAddress`` ...), kept.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = {}
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Mapping[str, Any] = {}
    extra: Mapping[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, keys in the specification's order; what is empty is left out."""
        value: dict[str, Any] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in sorted(self.exposed_ports)},
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint) if self.entrypoint is not None else None,
            "Cmd": list(self.cmd) if self.cmd is not None else None,
            "Volumes": {volume: {} for volume in sorted(self.volumes)},
            "WorkingDir": self.working_dir,
            "Labels": dict(sorted(self.labels.items())),
            "StopSignal": self.stop_signal,
            "Shell": list(self.shell),
            "OnBuild": list(self.on_build),
            "Healthcheck": dict(self.healthcheck),
        }
        kept = {key: item for key, item in value.items() if item or (key in ("Entrypoint", "Cmd") and item is not None)}
        return {**kept, **self.extra}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], what: str) -> RunConfig:
        """Reads the JSON object; raises ``ManifestError``."""
        return cls(
            user=jsontext.text(value, "User", what),
            exposed_ports=tuple(jsontext.mapping(value, "ExposedPorts", what)),
            env=jsontext.texts(value, "Env", what),
            entrypoint=_words(value, "Entrypoint", what),
            cmd=_words(value, "Cmd", what),
            volumes=tuple(jsontext.mapping(value, "Volumes", what)),
            working_dir=jsontext.text(value, "WorkingDir", what),
            labels=jsontext.text_map(value, "Labels", what),
            stop_signal=jsontext.text(value, "StopSignal", what),
            shell=jsontext.texts(value, "Shell", what),
            on_build=jsontext.texts(value, "OnBuild", what),
            healthcheck=jsontext.mapping(value, "Healthcheck", what),
            extra={key: item for key, item in value.items() if key not in _RUN},
        )


_RUN_KEYS = """
    User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal Shell OnBuild Healthcheck
"""
_RUN = frozenset(_RUN_KEYS.split())


def _words(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    """A command: none is not the same as an empty one. Very old images have one string."""
    found = value.get(key)
    if isinstance(found, str):
        return (found,)
    return None if found is None else jsontext.texts(value, key, what)


class ImageConfig(Document):
    """What an image is. ``raw`` and ``value`` as in ``Manifest``; its digest is Docker's image id."""

    __slots__ = ("author", "created", "diff_ids", "history", "platform", "run", "value")
    platform: Platform
    created: str
    author: str
    run: RunConfig
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...]
    value: Mapping[str, Any]

    def __init__(
        self,
        raw: bytes,
        platform: Platform,
        created: str,
        author: str,
        run: RunConfig,
        diff_ids: tuple[Digest, ...],
        history: tuple[History, ...],
        value: Mapping[str, Any] | None = None,
    ) -> None:
        self._fill(
            raw=raw,
            platform=platform,
            created=created,
            author=author,
            run=run,
            diff_ids=diff_ids,
            history=history,
            value=value or {},
        )

    @property
    def chain_id(self) -> Digest | None:
        """The identity of its stack of layers; None when it has no layers."""
        return chain_id(self.diff_ids) if self.diff_ids else None

    @property
    def explained(self) -> tuple[History, ...]:
        """The history with a step for every layer: a history may be missing, but there is none of some layers only."""
        unexplained = len(self.diff_ids) - sum(not step.empty_layer for step in self.history)
        return (*[History()] * unexplained, *self.history)

    def descriptor(self, media_type: str = mediatypes.CONFIG) -> Descriptor:
        """Names the configuration itself."""
        return Descriptor(media_type, self.digest, len(self.raw))

    def edit(
        self,
        *,
        run: RunConfig | None = None,
        layers: Sequence[str] = (),
        history: Iterable[History] = (),
        created: str | None = None,
        author: str | None = None,
        drop: Iterable[str] = ("container", "container_config"),
    ) -> ImageConfig:
        """A configuration with further layers (diff ids) and steps on top; unknown properties are kept.

        ``drop``: properties of the old image that are not the new one's.
        """
        value = {key: item for key, item in self.value.items() if key not in set(drop)}
        for key, given in (("created", created), ("author", author)):
            if given is not None:
                value[key] = given
        if run is not None:
            value["config"] = run.to_dict()
        rootfs = {"type": "layers", **self.value.get("rootfs", {})}
        value["rootfs"] = {**rootfs, "diff_ids": [str(diff_id) for diff_id in (*self.diff_ids, *layers)]}
        value["history"] = [*(self.value.get("history") or ()), *(step.to_dict() for step in history)]
        return parse_config(jsontext.write(value))


def parse_config(data: bytes, what: str = "image configuration") -> ImageConfig:
    """Reads a configuration. Raises ``ManifestError``."""
    value = jsontext.parse_object(data, what, MAX_CONFIG)
    jsontext.check_spelling(value, _KNOWN, what)
    rootfs = jsontext.mapping(value, "rootfs", what)
    if rootfs and jsontext.text(rootfs, "type", what) != "layers":
        jsontext.refuse(what, "its rootfs is not of type layers")
    return ImageConfig(
        raw=data,
        platform=_platform(value, what),
        created=jsontext.text(value, "created", what),
        author=jsontext.text(value, "author", what),
        run=RunConfig.from_dict(jsontext.mapping(value, "config", what), f"{what}: config"),
        diff_ids=_diff_ids(rootfs, what),
        history=tuple(
            History.from_dict(step, f"{what}: history {number}")
            for number, step in enumerate(jsontext.objects(value, "history", what), 1)
        ),
        value=value,
    )


def new_config(
    platform: Platform,
    diff_ids: Iterable[str],
    *,
    run: RunConfig | None = None,
    history: Iterable[History] = (),
    created: str = "",
    author: str = "",
) -> ImageConfig:
    """A configuration of these parts; the same parts always give the same bytes."""
    value: dict[str, Any] = {key: item for key, item in (("created", created), ("author", author)) if item}
    value.update(platform.to_dict())
    value["config"] = (run or RunConfig()).to_dict()
    value["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    steps = [step.to_dict() for step in history]
    if steps:
        value["history"] = steps
    return parse_config(jsontext.write(value))


def check_consistent(manifest: Manifest, config: ImageConfig, what: str = "image") -> None:
    """Raises ``ManifestError`` unless manifest and configuration speak of the same number of layers.

    A history may be missing (it is optional), but one that is there has one step with a layer per layer.
    """
    layers, diff_ids = len(manifest.layers), len(config.diff_ids)
    if layers != diff_ids:
        jsontext.refuse(what, f"the manifest has {layers} layers, the configuration has {diff_ids} diff ids")
    steps = sum(not step.empty_layer for step in config.history)
    if config.history and steps != layers:
        jsontext.refuse(what, f"the history has {steps} steps with a layer for {layers} layers")


def _platform(value: Mapping[str, Any], what: str) -> Platform:
    system, architecture, variant, version = (
        jsontext.text(value, key, what) for key in ("os", "architecture", "variant", "os.version")
    )
    try:
        return Platform(system, architecture, variant, version, jsontext.texts(value, "os.features", what)).check()
    except ValueError as exc:
        jsontext.refuse(what, f"{exc}: do not use this image")


def _diff_ids(rootfs: Mapping[str, Any], what: str) -> tuple[Digest, ...]:
    try:
        return tuple(Digest(text) for text in jsontext.texts(rootfs, "diff_ids", what))
    except ValueError as exc:
        jsontext.refuse(what, f"rootfs: {exc}")
