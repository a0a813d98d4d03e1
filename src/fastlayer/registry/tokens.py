"""Being let in: anonymous, basic and token authentication (RFC 7617; Docker's token specification and its OAuth2 form).

A registry says in the challenge of a 401 where tokens come from. From then on they are fetched before they are asked
for, one for each set of scopes, by one thread for all that need it, and again before they end or when the registry
takes one no longer. No secret is in the ``repr`` of anything, or in an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import RegistryDeniedError, RegistryError, RegistryMissingError, show_path
from fastlayer.oci.jsontext import parse_object
from fastlayer.registry.challenge import Challenge, parse_challenges
from fastlayer.registry.credential import Credential, basic_value
from fastlayer.registry.http import Body, Connections
from fastlayer.registry.lines import hide, host_of, one_line, shown_url
from fastlayer.registry.origins import with_query
from fastlayer.registry.problems import problem
from fastlayer.registry.scopes import covers, merge_scopes

CLIENT = "fastlayer"
MAX_ANSWER = 1 << 20  # bytes of a token server's answer
_LIFE = 60  # seconds; of tokens that say nothing of it (Docker's token specification)
_LONGEST_LIFE = 1 << 31
_MARGIN = 30.0  # seconds before its end at which a token is not taken any more, but never more than
_SHARE = 0.2  # of its life
_NO_POST = frozenset({400, 401, 404, 405})  # what token servers say that know GET only
_MANY = 500  # sets of scopes, from which on those whose tokens have ended are forgotten
_FORM = "application/x-www-form-urlencoded"
Scopes = tuple[str, ...]


class _Token(NamedTuple):
    header: str
    ends: float

    def __repr__(self) -> str:
        return f"_Token(***, ends={self.ends})"


class _Slot:
    """The token for a set of scopes, and who fetches it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token: _Token | None = None
        self.error: RegistryError | None = None
        self.rounds = 0  # fetches that have ended


class Tokens:
    """The way into one registry. For threads.

    ``credentials`` is asked once, when the registry wants to know who we are. ``offline``: ask for an identity token as
    well, as a login does; it is ``identity_token`` then.
    """

    def __init__(
        self,
        connections: Connections,
        credentials: Callable[[], Credential | None] | None = None,
        *,
        registry: str = "",
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry or connections.endpoint.host
        self._connections = connections
        self._ask = credentials or (lambda: None)
        self._offline = offline
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: dict[Scopes, _Slot] = {}
        self._challenge: Challenge | None = None
        self._credentials: Credential | None = None
        self._asked = False
        self._identity = ""

    def __repr__(self) -> str:
        return f"Tokens({self.registry})"

    @property
    def identity_token(self) -> str:
        """What the token server gave to be used instead of the password; empty for none."""
        return self._identity

    @property
    def login(self) -> str:
        """Whose login the registry or its token server has seen, for people; empty when it had none."""
        with self._lock:
            who = self._credentials
        if who is None or not (who.password or who.identity_token or who.registry_token):
            return ""
        return f"the login of {show_path(who.username)}" if who.username else "the login"

    def authorization(self, scopes: Iterable[str]) -> str:
        """The header for a request that needs ``scopes``; empty as long as the registry has not asked for one."""
        with self._lock:
            challenge = self._challenge
        return self._header(challenge, merge_scopes(scopes)) if challenge is not None else ""

    def challenged(self, header: str, scopes: Iterable[str], used: str) -> str:
        """The header for the next try, after a 401 with this ``WWW-Authenticate`` to a request that had ``used``.

        Empty when there is nothing else to try. Raises ``RegistryError`` when the token server does.
        """
        challenge = self._choose(header)
        if challenge is None:
            return ""
        wanted = merge_scopes((*scopes, *challenge.parameters.get("scope", "").split()))
        with self._lock:
            self._challenge = challenge
        self._forget(used)
        found = self._header(challenge, wanted)
        return "" if found == used else found

    def _choose(self, header: str) -> Challenge | None:
        challenges = parse_challenges(header)
        for one in challenges:
            if one.scheme == "bearer" and one.parameters.get("realm"):
                return one
        for one in challenges:
            if one.scheme == "basic":
                return one
        if challenges and not any(one.scheme == "bearer" for one in challenges):
            names = ", ".join(one_line(one.scheme) for one in challenges)
            raise RegistryDeniedError(
                f"{self.registry}: wants to be talked to by {names}, not by basic or bearer: see its documentation",
                status=401,
            )
        return None

    def _header(self, challenge: Challenge, scopes: Scopes) -> str:
        who = self._who()
        if who is not None and who.registry_token:
            return "Bearer " + _clean(who.registry_token, self.registry)
        if challenge.scheme == "basic":
            return "Basic " + basic_value(who.username, who.password) if who is not None and who.password else ""
        return self._token(challenge, scopes)

    def _who(self) -> Credential | None:
        with self._lock:
            if not self._asked:
                self._credentials = self._ask()
                self._asked = True
                if self._credentials is not None:
                    hide(self._credentials.secrets)
            return self._credentials

    # ---- tokens that are kept ------------------------------------------------------------------------------

    def _forget(self, used: str) -> None:
        with self._lock:
            for slot in self._slots.values():
                if slot.token is not None and slot.token.header == used:
                    slot.token = None

    def _token(self, challenge: Challenge, scopes: Scopes) -> str:
        with self._lock:
            for have, slot in self._slots.items():
                if covers(have, scopes) and (token := self._live(slot)) is not None:
                    return token.header
            if len(self._slots) >= _MANY:
                self._slots = {have: slot for have, slot in self._slots.items() if self._live(slot) is not None}
            slot = self._slots.setdefault(scopes, _Slot())
            rounds = slot.rounds
        with slot.lock:
            if slot.rounds != rounds:  # somebody has fetched it while we waited
                if (token := self._live(slot)) is not None:
                    return token.header
                if slot.error is not None:
                    raise _again(slot.error)
            return self._fetch_into(slot, challenge, scopes).header

    def _live(self, slot: _Slot) -> _Token | None:
        token = slot.token
        return token if token is not None and self._clock() < token.ends else None

    def _fetch_into(self, slot: _Slot, challenge: Challenge, scopes: Scopes) -> _Token:
        try:
            token = self._fetch(challenge, scopes)
        except RegistryError as exc:
            slot.error = exc
            raise
        else:
            slot.token, slot.error = token, None
            return token
        finally:
            slot.rounds += 1

    # ---- the token server ----------------------------------------------------------------------------------

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Token:
        began = self._clock()
        realm = challenge.parameters["realm"]
        service = challenge.parameters.get("service", "")
        who = self._who()
        identity = self._identity or (who.identity_token if who is not None else "")
        if identity:
            value = self._post(realm, _refresh_form(identity), service, scopes, allow_get=bool(who and who.password))
        else:
            value = self._get(realm, service, scopes, who)
        if value is None:
            value = self._get(realm, service, scopes, who)
        text = _text(value, "access_token") or _text(value, "token")
        if not text:
            raise RegistryDeniedError(f"{self._line(realm)}: gives no token: tell whoever runs the registry")
        hide((text, _text(value, "refresh_token")))
        self._keep_identity(_text(value, "refresh_token"))
        return _Token("Bearer " + _clean(text, self.registry), began + _usable(value.get("expires_in")))

    def _keep_identity(self, given: str) -> None:
        if given and self._offline:
            self._identity = given

    def _get(self, realm: str, service: str, scopes: Scopes, who: Credential | None) -> dict[str, Any]:
        from urllib.parse import urlencode

        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if who is not None and who.password:
            headers["Authorization"] = "Basic " + basic_value(who.username, who.password)
            query.append(("account", who.username))
        if self._offline:
            query += [("offline_token", "true"), ("client_id", CLIENT)]
        found = self._exchange("GET", with_query(realm, urlencode(query)) if query else realm, headers, None, ())
        assert found is not None
        return found

    def _post(
        self, realm: str, form: Mapping[str, str], service: str, scopes: Scopes, *, allow_get: bool
    ) -> dict[str, Any] | None:
        """None when the server knows GET only and there is a password for that."""
        from urllib.parse import urlencode

        fields = {**form, "service": service, "client_id": CLIENT}
        if scopes:
            fields["scope"] = " ".join(scopes)
        if self._offline:
            fields["access_type"] = "offline"
        data = urlencode(fields).encode()
        return self._exchange("POST", realm, {"Content-Type": _FORM}, data, _NO_POST if allow_get else ())

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None, else_none: Iterable[int]
    ) -> dict[str, Any] | None:
        sent = {"Accept": "application/json", **headers}
        body = Body(lambda: (data,), len(data), again=False) if data is not None else None  # no redirect takes it along
        with self._connections.request(method, url, headers=sent, body=body) as answer:
            if answer.status in frozenset(else_none):
                return None
            if answer.status != 200:
                raise _not_missing(problem(answer, "token", self.registry, self.login))
            found = answer.read_all(MAX_ANSWER)
        try:
            return parse_object(found, "answer", MAX_ANSWER)
        except Exception as exc:  # a ManifestError, of what may hold a token: it is not shown
            raise RegistryError(f"{self._line(url)}: answers something else than a JSON object") from exc

    def _line(self, url: str) -> str:
        return f"{host_of(url)}: token for {self.registry}: {shown_url(url)}"


def _refresh_form(identity: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": identity}


def _usable(life: Any) -> float:
    """Seconds for which a token is taken."""
    good = isinstance(life, int | float) and not isinstance(life, bool) and 0 < life < _LONGEST_LIFE
    seconds = float(life) if good else float(_LIFE)
    return seconds - min(_MARGIN, seconds * _SHARE)


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def _clean(token: str, registry: str) -> str:
    """A token that can stand in a header, without being shown when it cannot."""
    if not token.isascii() or any(char <= " " or char == "\x7f" for char in token):
        raise RegistryDeniedError(f"{registry}: its token has characters that no header can have: log in again")
    return token


def _not_missing(error: RegistryError) -> RegistryError:
    """A token server that is not there does not mean that an image is not."""
    return _again(error, RegistryError) if isinstance(error, RegistryMissingError) else error


def _again(error: RegistryError, kind: type[RegistryError] | None = None) -> RegistryError:
    """The same error for another thread, with a traceback of its own; or as another kind."""
    return (kind or type(error))(
        str(error), status=error.status, code=error.code, headers=error.headers, transient=error.transient
    )
