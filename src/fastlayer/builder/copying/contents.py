"""Here-documents of COPY and ADD: each a file of its name, 0644, owned by 0:0, in a directory the caller gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.sources import Pick, Selection
from fastlayer.builder.copying.trees import encode
from fastlayer.builder.dockerfile.parser import Heredoc
from fastlayer.builder.dockerfile.shell import Lexer
from fastlayer.errors import DockerfileError

MODE = 0o644


def text_of(document: Heredoc, env: Mapping[str, str]) -> str:
    """What it says: variables are filled in unless its name was quoted. Quotes in it mean nothing, and the escape is a
    backslash whatever the directive says."""
    return Lexer("\\", plain_quotes=True).word(document.data, env) if document.expand else document.data


def write_contents(
    directory: int, documents: Sequence[Heredoc], text: Callable[[Heredoc], str], created_ns: int
) -> Selection:
    """Makes the files below the descriptor of an empty directory, with ``created_ns`` as their time."""
    folder = Folder(directory)
    picks = []
    for number, document in enumerate(documents):
        if document.name in (".", "..") or "/" in document.name:
            raise DockerfileError(f"<<{document.name}: not a name for a file: use one without a slash")
        path = str(number).encode()  # two of them may have the same name
        _write(directory, path, encode(text(document)), created_ns)
        entry = folder.find(path)
        assert entry is not None
        picks.append(Pick(path, encode(document.name), entry._replace(uid=0, gid=0)))
    return Selection(folder, tuple(picks))


def _write(directory: int, name: bytes, data: bytes, created_ns: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), MODE)
        os.utime(file.fileno(), ns=(created_ns, created_ns))
