"""A repository as people mean it: by the name of an image, with all that is set up for its registry on this machine.

Mirrors and insecure registries are of ``settings``, authorities and certificates of ``certificates``, the login of
``credentials``; what fails for a moment is tried again as ``pauses`` say.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError
from fastlayer.oci.reference import Reference
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.calls import Pause
from fastlayer.registry.certificates import find_certificates
from fastlayer.registry.client import Registry, Repository, first_that_answers
from fastlayer.registry.credential import Credential
from fastlayer.registry.credentials import find_credential
from fastlayer.registry.http import Budget, Endpoint
from fastlayer.registry.pauses import Policy, is_worth_a_try, next_pause, retry_after
from fastlayer.registry.settings import Location, pull_locations, push_location, read_settings

_ETC = Path("/etc")


class Wishes(NamedTuple):
    """What a command says of registries. ``verify``: certificates (``--tls-verify``); None: as it is set up.

    ``credential``: a login that is given, instead of one that is looked up, for the registry ``credential_for`` (empty:
    the one that an image is asked of; mirrors of it never get it). ``etc``: where the system's files are.
    """

    authfile: str = ""
    cert_dir: str = ""
    verify: bool | None = None
    credential: Credential | None = None
    credential_for: str = ""
    policy: Policy = Policy()
    timeouts: Timeouts | None = None
    environ: Mapping[str, str] | None = None
    etc: Path = _ETC

    @property
    def environment(self) -> Mapping[str, str]:
        return os.environ if self.environ is None else self.environ


AS_SET_UP = Wishes()  # nothing in particular


def sources(reference: Reference, wishes: Wishes) -> tuple[Location, ...]:
    """Where to look for an image, in order. Raises ``OperandError`` for settings that cannot be, or forbid it."""
    return pull_locations(read_settings(wishes.environment, etc=wishes.etc), reference)


def destination(reference: Reference, wishes: Wishes) -> Location:
    """Where an image goes. Raises likewise."""
    return push_location(read_settings(wishes.environment, etc=wishes.etc), reference)


@contextmanager
def opened(
    location: Location,
    wishes: Wishes,
    *,
    budget: Budget | None = None,
    warn: Callable[[str], object] = lambda line: None,
) -> Iterator[Repository]:
    """The repository at a location, for the block. ``warn``: given each line that people should see.

    Raises ``RegistryError`` where no registry answers, ``OperandError`` for certificates that cannot be.
    """
    with opened_registry(location, wishes, budget=budget, warn=warn) as registry:
        yield registry.repository(location.reference.path)


@contextmanager
def opened_registry(
    location: Location,
    wishes: Wishes,
    *,
    budget: Budget | None = None,
    warn: Callable[[str], object] = lambda line: None,
    credentials: Callable[[], Credential | None] | None = None,
    offline: bool = False,
) -> Iterator[Registry]:
    """The registry at a location, likewise. ``credentials``: asked instead of those that are looked up; ``offline``: as
    of ``Registry``."""
    found = endpoints(location, wishes)
    endpoint = found[0]
    if len(found) > 1:
        endpoint = first_that_answers(found, timeouts=wishes.timeouts, budget=budget)
    with Registry(
        endpoint,
        name=location.reference.domain,
        credentials=credentials or (lambda: _credential(location, wishes, warn)),
        pause=pause_of(wishes.policy),
        timeouts=wishes.timeouts,
        budget=budget,
        offline=offline,
        warn=warn,
    ) as registry:
        yield registry


def endpoints(location: Location, wishes: Wishes) -> tuple[Endpoint, ...]:
    """The ways to reach it: https, then plain http where that will do."""
    insecure = location.insecure if wishes.verify is None else not wishes.verify
    certificates = find_certificates(
        location.host, cert_dir=wishes.cert_dir, environ=wishes.environment, etc=wishes.etc
    )
    if len(certificates.clients) > 1:
        names = ", ".join(os.path.basename(one) for one, _ in certificates.clients)
        raise OperandError(f"{location.host}: several client certificates are set up ({names}): leave one")
    client = certificates.clients[0] if certificates.clients else None
    schemes = (location.scheme,) if location.scheme else ("https", "http") if insecure else ("https",)
    return tuple(
        Endpoint(f"{scheme}://{location.host}", insecure, certificates.authorities, client) for scheme in schemes
    )


def pause_of(policy: Policy, chance: Callable[[], float] = random.random) -> Pause:
    """How long to wait before another try of a call (``calls.Pause``)."""

    def pause(attempt: int, status: int, headers: Mapping[str, str]) -> float | None:
        if status and not is_worth_a_try(status):
            return None
        asked = headers.get("retry-after", "")
        return next_pause(policy, attempt + 1, 0.0, retry_after(asked, time.time()) if asked else None, chance())

    return pause


def _credential(location: Location, wishes: Wishes, warn: Callable[[str], object]) -> Credential | None:
    asked = location.named or location.reference.domain
    if wishes.credential is not None and not location.mirror and wishes.credential_for in ("", asked):
        return wishes.credential
    found = find_credential(location.reference.name, authfile=wishes.authfile, environ=wishes.environment)
    for line in found.warnings:
        warn(line)
    return found.credential
