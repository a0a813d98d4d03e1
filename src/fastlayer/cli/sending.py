"""What verbs have in common that send images somewhere: options, the digest file, the line about the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.cli import options, output
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.transfer.copy import Copied
    from fastlayer.transfer.push import Pushed

F = TypeVar("F", bound=Callable[..., Any])

compression_choice = declare.Choice(["none", "gzip", "zstd", "zstd:chunked", "estargz"])
digestfile_option = declare.option(
    "--digestfile", type=options.PATH, metavar="FILE", help="Write the digest of what was sent to FILE."
)


def sending_options(function: F) -> F:
    """--compression-level and what else says how images are sent, but for --compression, whose default differs."""
    for option in (
        declare.option(
            "--format",
            "format_",
            type=declare.Choice(["text", "json"]),
            default="text",
            help="How the result is printed.",
        ),
        digestfile_option,
        declare.option(
            "--chunk-size",
            metavar="SIZE",
            help="Send blobs in requests of at most SIZE bytes (16m), for registries that want it.",
        ),
        declare.option(
            "--preserve-digests", is_flag=True, help="Fail rather than write a manifest with another digest."
        ),
        manifest_format_option("-f", "--manifest-format"),
        declare.option("--force-compression", is_flag=True, help="Compress anew what is compressed in another way."),
        declare.option(
            "--compression-level", type=declare.IntRange(0, 22), metavar="N", help="gzip: 0 to 9; zstd: 1 to 22."
        ),
    ):
        function = option(function)
    return function


def manifest_format_option(*words: str) -> Callable[[F], F]:
    """-f, by the names that a verb has for it."""
    return declare.option(
        *words,
        type=declare.Choice(["oci", "v2s2"]),
        help="Write manifests of OCI's or Docker's kind (default: as they are).",
    )


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    """What is given by --compression and ``sending_options``, as ``PushOptions`` and ``CopyOptions`` call it."""
    return {
        "compression": given["compression"],
        "level": given["compression_level"],
        "force": given["force_compression"],
        "manifest_format": given["manifest_format"] or "",
        "preserve_digests": given["preserve_digests"],
        "chunk": options.memory("--chunk-size", given["chunk_size"]) or 0,
    }


def write_digest(path: bytes | None, digest: str) -> None:
    """--digestfile."""
    if path is None:
        return
    from fastlayer.layer.output import Output

    with Output(path) as file:
        file.write(f"{digest}\n".encode())
        file.commit()


def tell(sent: Pushed | Copied, given: dict[str, Any], label: str) -> None:
    """The result on stdout, as --format says."""
    output.warn(sent.warnings, given["quiet"])
    descriptor = sent.descriptor
    if given["format_"] == "json":
        value = {"schema": 1, **sent._asdict(), "descriptor": descriptor.to_dict()}
        print(output.json_line(value).decode())
        return
    print(f"{label}: digest: {descriptor.digest} size: {descriptor.size}", flush=True)
