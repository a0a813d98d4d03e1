"""What a registry may be told about who asks."""

from __future__ import annotations

from base64 import b64encode

from fastlayer._values import NamedTuple


class Credential(NamedTuple):
    """A login. ``identity_token``: a refresh token of OAuth2, taken instead of a password; ``registry_token``: a bearer
    token, sent as it is; ``source``: where it is from, for people."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"Credential(from {self.source})" if self.source else "Credential()"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown; the login as it is written in a header too, be it cut short at its padding."""
        basic = basic_value(self.username, self.password).rstrip("=") if self.password else ""
        return tuple(filter(None, (basic, self.password, self.identity_token, self.registry_token)))


def basic_value(username: str, password: str) -> str:
    """The credentials of RFC 7617, in UTF-8."""
    return b64encode(f"{username}:{password}".encode()).decode()
