"""The words of ``fastlayer build``'s options as values: Docker's, and what buildah and kaniko call the same things."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, registries, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.builder.context.sources import Source
    from fastlayer.builder.leave import Leave
    from fastlayer.builder.options import Options, Secret, Ssh
    from fastlayer.builder.outputs.notes import Notes
    from fastlayer.builder.outputs.options import Export
    from fastlayer.registry.opening import Wishes
    from fastlayer.running.limits import Limit
    from fastlayer.running.security import SecurityOptions
    from fastlayer.transfer.policies import Policy


def wanted(given: dict[str, Any]) -> Options:
    """What the builder is asked to do. Raises ``declare.LineError``, ``UsageError``."""
    from fastlayer.builder.options import Options

    epoch = options.source_date_epoch(given["source_date_epoch"])
    arguments = _arguments(given["arguments"])
    if epoch is not None:
        arguments.setdefault("SOURCE_DATE_EPOCH", str(epoch))
    return Options(
        target=given["target"],
        platform=stores.platform(given),
        arguments=arguments,
        labels=options.pairs("--label", given["labels"]),
        contexts=_contexts(given["contexts"]),
        no_cache=given["no_cache"],
        no_cache_stages=tuple(name.lower() for text in given["no_cache_filter"] for name in text.split(",")),
        epoch=epoch,
        explain=given["explain"],
        cache_mode=given["cache_mode"],
        isolation=given["isolation"],
        network=given["network"],
        hosts=tuple(map(_host, given["hosts"])),
        secrets=tuple(map(_secret, given["secrets"])),
        ssh=tuple(map(_ssh, given["ssh"])),
        squash=given["squash"],
        shm_size=options.memory("--shm-size", given["shm_size"]) or None,
        leave=_leave(given["allow"]),
        security=_security(given["security_opts"]),
        capabilities=_capabilities(given["added"], given["dropped"]),
        limits=_limits(given["ulimits"]),
        devices=_devices(given["devices"]),
        jobs=given["jobs"],
        wishes=_wishes(given),
        pull=_pull(given["pull"]),
        **_shared(given, arguments),
    )


def _pull(word: str) -> Policy:
    if word == "missing":
        return "missing"
    from fastlayer.builder.pulling import parse_pull

    return parse_pull(word)


def _wishes(given: dict[str, Any]) -> Wishes | None:
    """None where nothing is wished: a build that asks no registry loads nothing of them."""
    if all(given.get(name) is None for name in registries.NAMES):
        return None
    return registries.wishes(given)


def _shared(given: dict[str, Any], arguments: dict[str, str]) -> dict[str, Any]:
    if not (given["cache_from"] or given["cache_to"] or "BUILDKIT_INLINE_CACHE" in arguments):
        return {}
    from fastlayer.builder.sharing.options import shared

    return shared(given["cache_from"], given["cache_to"], arguments)


def exports(given: dict[str, Any]) -> list[Export]:
    """What is written besides the image in the store."""
    if not (given["outputs"] or given["tar_path"] or given["oci_layout_path"] or given["push"]):
        return []
    from fastlayer.builder.outputs.options import Export, kaniko_outputs, parse_output

    found = [parse_output(word) for word in given["outputs"]]
    if given["push"]:
        images = [export for export in found if export.type == "image"]
        found = [export._replace(push=True) if export in images else export for export in found]
        found += [] if images else [Export(push=True)]
    if given["no_push"]:
        found = [export._replace(push=False) for export in found]
    found += kaniko_outputs(given["tar_path"], given["oci_layout_path"], given["tags"])
    if any(export.push and not (export.names or given["tags"]) for export in found):
        raise declare.LineError("--push: the image has no name that says where to: give -t HOST/NAME[:TAG]")
    _check_places(found)
    return found


def _check_places(exports: list[Export]) -> None:
    """No two files in one place. A layout has room for several images, and trees may be laid over each other."""
    places = [
        "stdout" if one.to_stdout else os.path.realpath(one.dest) for one in exports if one.to_stdout or one.is_file
    ]
    for place in places:
        if places.count(place) > 1:
            from fastlayer.errors import show_path

            raise declare.LineError(f"--output: several go to {show_path(place)}: give each its own dest=FILE")


def notes(given: dict[str, Any]) -> Notes | None:
    """The files that scripts read afterwards; None: none are wanted."""
    names = (
        "iidfile",
        "metadata_file",
        "digest_file",
        "image_name_with_digest_file",
        "image_name_tag_with_digest_file",
    )
    if not any(given[name] for name in names):
        return None
    from fastlayer.builder.outputs.notes import Notes

    return Notes(*(given[name] or "" for name in names))


def _contexts(words: Sequence[str]) -> dict[str, Source]:
    if not words:
        return {}
    from fastlayer.builder.context.sources import parse_named

    return {found.name: found.source for found in map(parse_named, words)}


def _arguments(words: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE``; ``NAME`` alone takes the value from the environment, and is not set without one."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name:
            raise declare.LineError(f"--build-arg {word!r}: give NAME=VALUE")
        if sign:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _leave(words: Sequence[str]) -> Leave:
    from fastlayer.builder.leave import parse_leave

    return parse_leave(words)


def _security(words: Sequence[str]) -> SecurityOptions | None:
    if not words:
        return None
    from fastlayer.running.security import parse_security_options

    return parse_security_options(words)


def _capabilities(added: Sequence[str], dropped: Sequence[str]) -> int | None:
    if not added and not dropped:
        return None
    from fastlayer.running.capabilities import changed

    return changed(added, dropped)


def _limits(words: Sequence[str]) -> tuple[Limit, ...]:
    if not words:
        return ()
    from fastlayer.running.limits import parse_limits

    return parse_limits(tuple(words))


def _devices(words: Sequence[str]) -> tuple[str, ...]:
    if words:
        from fastlayer.running.devices import check_device

        for word in words:
            check_device(word)
    return tuple(words)


def _host(word: str) -> tuple[str, str]:
    from fastlayer.running.network_files import check_host

    name, sign, address = word.partition("=" if "=" in word else ":")
    if not (name and sign and address):
        raise declare.LineError(f"--add-host {word!r}: give NAME:ADDRESS")
    return name, check_host(name, address)


def _secret(word: str) -> Secret:
    from fastlayer.builder.options import Secret

    fields = dict(field.partition("=")[::2] for field in word.split(","))
    kind = fields.pop("type", "")
    identity = fields.pop("id", "")
    source = fields.pop("src", "") or fields.pop("source", "")
    variable = fields.pop("env", "")
    if not identity or fields or kind not in ("", "file", "env"):
        raise declare.LineError("--secret: give id=ID,src=FILE or id=ID,env=NAME")  # the word may be a secret
    if kind == "env" and source:
        source, variable = "", source
    if not source and not variable:
        source, variable = ("", identity) if identity in os.environ else (identity, "")
    return Secret(identity, source, variable)


def _ssh(word: str) -> Ssh:
    from fastlayer.builder.options import Ssh

    identity, _, socket = word.partition("=")
    socket = socket or os.environ.get("SSH_AUTH_SOCK", "")
    if not socket:
        raise declare.LineError(f"--ssh {word!r}: SSH_AUTH_SOCK is not set: start an agent, or give ID=SOCKET")
    return Ssh(identity or "default", socket)
