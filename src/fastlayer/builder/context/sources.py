"""What the word for a context means: a directory, a tar, standard input, a URL, a git repository; or, for named ones,
an image, a layout, a stage.

Git is what BuildKit takes for git: ``git://``, ``ssh://``, ``git@host:path``, http(s) with a path that ends in
``.git``, ``github.com/...``; and a local ``PATH.git#...``. Behind ``#``: ``ref:subdirectory``; http(s) also takes
``?ref= branch= tag= commit= checksum= subdir=``.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import ReferenceFormatError, UsageError

Kind = Literal["directory", "tar", "stdin", "http", "git", "image", "layout", "stage"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_SCP = re.compile(r"[a-zA-Z0-9_.-]+@[a-zA-Z0-9_.-]+:(?!//)")  # user@host:path
_STDIN = ("-", "tar://stdin")
_QUERY = ("ref", "branch", "tag", "commit", "checksum", "subdir", "submodules", "keep-git-dir")
_NAMED: dict[str, Kind] = {"docker-image://": "image", "oci-layout://": "layout", "target:": "stage"}
_SHOWN = 200


class GitPlace(NamedTuple):
    """``remote`` as the git program takes it; ``ref``: a branch, tag, full ref or commit, "" for the default branch;
    ``commit``: what its id must begin with."""

    remote: str
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    submodules: bool = True
    keep_git: bool = False


class Source(NamedTuple):
    """``place``: path, URL, image or stage; ``git``: of a repository."""

    kind: Kind
    place: str
    git: GitPlace | None = None


class NamedContext(NamedTuple):
    """``--build-context NAME=SOURCE``."""

    name: str
    source: Source


def parse_source(word: str) -> Source:
    """What a context is. A file is a ``tar``; whether it is one, its content says. Raises ``UsageError``."""
    if not word:
        raise UsageError("the context is empty: give a directory (`.` is the current one)")
    if "\0" in word:
        raise UsageError("the context's name has a NUL byte in it: give a directory")
    if word in _STDIN:
        return Source("stdin", "-")
    for prefix, kind in (("dir://", "directory"), ("tar://", "tar")):
        if word.startswith(prefix):
            return Source("directory" if kind == "directory" else "tar", word.removeprefix(prefix))
    place = git_place(word)
    if place is not None:
        return Source("git", place.remote, place)
    scheme = _SCHEME.match(word)
    if scheme is not None:
        if scheme[1].lower() in ("http", "https"):
            return Source("http", word)
        raise UsageError(
            f"{word[:_SHOWN]}: {scheme[1]}:// is no context: give a directory, a tar, -, or an http or git URL"
        )
    return Source("directory" if os.path.isdir(word) or not os.path.exists(word) else "tar", word)


def parse_named(word: str) -> NamedContext:
    """``NAME=SOURCE``, where a source may also be ``docker-image://``, ``oci-layout://`` or ``target:``.

    Raises ``UsageError``.
    """
    name, sign, value = word.partition("=")
    if not (name and sign and value):
        raise UsageError(f"--build-context {word[:_SHOWN]!r}: give NAME=SOURCE")
    for prefix, kind in _NAMED.items():
        if value.startswith(prefix):
            rest = value.removeprefix(prefix)
            if not rest:
                raise UsageError(f"--build-context {word[:_SHOWN]!r}: nothing follows {prefix}")
            return NamedContext(context_name(name), Source(kind, rest))
    source = parse_source(value)
    if source.kind == "stdin":
        raise UsageError(f"--build-context {name}=-: only the main context can come from standard input")
    return NamedContext(context_name(name), source)


def context_name(name: str) -> str:
    """A name as it is compared: ``docker.io/library/alpine:latest`` is ``alpine`` (BuildKit, dockerui.NamedContext)."""
    from fastlayer.oci.reference import parse_reference

    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except ReferenceFormatError:  # FROM and --from may hold anything
        return name


def git_place(word: str) -> GitPlace | None:
    """The repository a word means; None: it means none. Raises ``UsageError`` for one that means nothing."""
    address, _, fragment = word.partition("#")
    query = ""
    if word.startswith("github.com/"):
        if os.path.exists(word):
            return None
        address = "https://" + address
    elif _SCP.match(word):
        pass
    elif (scheme := _SCHEME.match(word)) is not None:
        name = scheme[1].lower()
        if name in ("http", "https"):
            address, _, query = address.partition("?")
            if not address.endswith(".git"):
                return None
        elif name not in ("git", "ssh"):
            return None
    elif not (fragment and address.endswith(".git") and os.path.isdir(address)):
        return None
    else:
        address = os.path.abspath(address)
    return _place(word, address, fragment, query)


def _place(word: str, address: str, fragment: str, query: str) -> GitPlace:
    ref, _, subdir = fragment.partition(":")
    ref, _, commit = ref.partition("#")  # kaniko: #refs/heads/main#COMMIT, and the commit is what is meant
    place = GitPlace(address, commit or ref, subdir, commit)
    if query:
        place = _with_query(word, place, query)
    for part in (place.remote, place.ref, place.commit):
        if part.startswith("-") or any(char <= " " for char in part):
            raise UsageError(f"{word[:_SHOWN]}: {part[:_SHOWN]!r} is no name of a repository or ref: correct it")
    if place.commit and not re.fullmatch(r"[0-9a-f]{7,64}", place.commit):
        raise UsageError(f"{word[:_SHOWN]}: {place.commit[:_SHOWN]!r} is not the id of a commit: give hex digits")
    return place


def _with_query(word: str, place: GitPlace, query: str) -> GitPlace:
    from urllib.parse import parse_qsl

    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = set(given) - set(_QUERY)
    if unknown:
        raise UsageError(f"{word[:_SHOWN]}: unknown query {min(unknown)!r}: use {', '.join(_QUERY)}")
    refs = [
        prefix + given[key]
        for key, prefix in (("ref", ""), ("branch", "refs/heads/"), ("tag", "refs/tags/"))
        if given.get(key)
    ]
    refs += [place.ref] * bool(place.ref)
    commit = given.get("commit") or given.get("checksum") or place.commit
    if len(refs) > 1 or (place.subdir and given.get("subdir")):
        raise UsageError(f"{word[:_SHOWN]}: names what it means twice: give one ref and one subdirectory")
    return place._replace(
        ref=refs[0] if refs else "",
        subdir=given.get("subdir", place.subdir),
        commit=commit,
        submodules=given.get("submodules", "true") not in ("0", "false"),
        keep_git=given.get("keep-git-dir", "false") not in ("0", "false"),
    )
