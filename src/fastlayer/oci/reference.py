"""Names of images, by Docker's grammar (github.com/distribution/reference, reference.go and normalize.go).

::

    reference  name [":" tag] ["@" digest]
    name       [domain "/"] path
    domain     host [":" port]; a first component with a dot, a colon or a capital, or ``localhost``
    path       components of [a-z0-9]+ joined by . _ __ or dashes, with slashes between; at most 255 characters
    tag        a word character, then up to 127 of [A-Za-z0-9_.-]

A name without a domain is Docker Hub's (``docker.io``), there without a slash an official one (``library/``).
"""

from __future__ import annotations

import re

from fastlayer._values import NamedTuple
from fastlayer.errors import ReferenceFormatError
from fastlayer.oci.digest import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
MAX_PATH = 255  # characters
SHORT_ID = 12  # hex digits of an image id that people see
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_LONGEST = 4096  # characters; a longer text is no reference, whatever it is

_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_ID = r"[a-f0-9]{64}"
_ID_PREFIX = r"[a-f0-9]{1,64}"


def _is(pattern: str, text: str) -> bool:
    """Each pattern is compiled when something is held against it: together they take longer than reading a name."""
    return re.fullmatch(pattern, text, re.ASCII) is not None


class Reference(NamedTuple):
    """A normalised name: the domain and the path are always there, tag and digest may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """``docker.io/library/alpine``: without tag and digest."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        """The full form, unique for what it names."""
        return self.name + self._suffix

    @property
    def familiar_name(self) -> str:
        """``alpine``: what Docker shows as REPOSITORY."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """``alpine:3.20``: the shortest text that is this reference again when parsed."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """With the tag ``latest`` when it has neither tag nor digest."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """The same repository with another tag, without a digest. Raises ``ReferenceFormatError``."""
        return self._replace(tag=check_tag(tag), digest="")


def parse_reference(text: str) -> Reference:
    """The reference that a person means. Raises ``ReferenceFormatError``, one line that says what is wrong.

    64 hex digits are an id, never a name; use ``parse_any`` where ids may be given.
    """
    if not text:
        raise ReferenceFormatError("an empty name is no image name: give NAME[:TAG]")
    if len(text) > _LONGEST:
        raise ReferenceFormatError(f"{_shown(text)}: a name of {len(text)} characters: the path may have {MAX_PATH}")
    if _is(_ID, text):
        raise ReferenceFormatError(f"{text}: 64 hex digits are an image id, not a name: give NAME[:TAG]")
    domain, rest = _split_domain(text)
    remote = rest.partition(":")[0].partition("@")[0]
    if remote != remote.lower() and _parts(domain, remote.lower()):
        raise ReferenceFormatError(
            f"{_shown(text)}: capitals in the repository name: write {_shown(remote.lower().removeprefix(_OFFICIAL))}"
        )
    found = _parts(domain, rest)
    if found is None:
        raise ReferenceFormatError(f"{_shown(text)}: {_reason(text)}")
    if len(found.path) > MAX_PATH:
        raise ReferenceFormatError(f"{_shown(text)}: a path of {len(found.path)} characters: it may have {MAX_PATH}")
    _check_digest(found.digest, text)
    return found


def _parts(domain: str, rest: str) -> Reference | None:
    """``PATH[:TAG][@DIGEST]`` of a domain; None when a part is not what the grammar wants."""
    named, at, digest = rest.partition("@")
    path, colon, tag = named.partition(":")
    if not (domain == DEFAULT_DOMAIN or _is(_DOMAIN, domain)) or not _is(_PATH, path):
        return None
    if (colon and not _is(_TAG, tag)) or (at and not _is(_DIGEST, digest)):
        return None
    return Reference(domain, path, tag, digest)


def stored_reference(text: str) -> Reference:
    """What ``str`` made of a reference once, which is not checked again."""
    text, _, digest = text.partition("@")
    domain, _, rest = text.partition("/")
    path, _, tag = rest.partition(":")
    return Reference(domain, path, tag, digest)


def parse_any(text: str) -> Reference | Digest:
    """A reference, or the digest that an id of 64 hex digits or a full digest means."""
    if _is(_ID, text):
        return Digest("sha256:" + text)
    try:
        return Digest(text)
    except ValueError:
        return parse_reference(text)


def is_id_prefix(text: str) -> bool:
    """Whether the text may be the beginning of an image id (1 to 64 lower-case hex digits), as ``docker rmi`` takes it.

    Such a text may be a name as well: names go first.
    """
    return _is(_ID_PREFIX, text.removeprefix("sha256:"))


def short_id(digest: str) -> str:
    """The 12 hex digits that people see of a digest."""
    return digest.partition(":")[2][:SHORT_ID]


def is_tag(text: str) -> bool:
    """Whether the text may be a tag."""
    return _is(_TAG, text)


def check_tag(tag: str) -> str:
    """The tag, when it is one. Raises ``ReferenceFormatError``."""
    if not is_tag(tag):
        raise ReferenceFormatError(
            f"{_shown(tag)}: not a tag: letters, digits, `_`, `.` and `-`, not first a `.` or `-`, at most 128"
        )
    return tag


def _split_domain(text: str) -> tuple[str, str]:
    """Docker's guess whether the first component is a domain."""
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + text
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    elif first != "localhost" and not set(first) & {".", ":"} and first == first.lower():
        return DEFAULT_DOMAIN, text
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest


def _check_digest(digest: str, text: str) -> None:
    if digest:
        try:
            Digest(digest)
        except ValueError as exc:
            raise ReferenceFormatError(f"{_shown(text)}: {exc}") from None


def _reason(text: str) -> str:
    if "://" in text:
        return "an address, not an image name: leave out the scheme"
    if text != text.strip() or any(char.isspace() for char in text):
        return "white space in an image name: give NAME[:TAG]"
    return "not an image name: give [HOST[:PORT]/]PATH[:TAG][@DIGEST]"


def _shown(text: str) -> str:
    """One line, whatever the text holds."""
    short = text if len(text) <= 100 else text[:100] + "..."
    return short if short.isascii() and short.isprintable() else ascii(short)
