"""Who is asking: the credential that signs an attempt, and where it comes from.

A source is asked before every attempt, so that a token which was renewed meanwhile is used at once.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from airflow_provider_pai.api.errors import PaiConfigurationError

__all__ = ["Credential", "CredentialSource", "StaticCredential"]


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """An AccessKey pair, with a security token where STS issued it. Its repr shows no secret.

    :raises PaiConfigurationError: a part is missing, or holds characters no header can carry.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None

    def __post_init__(self) -> None:
        parts = {
            "AccessKey id (the connection's login)": self.access_key_id,
            "AccessKey secret (the connection's password)": self.access_key_secret,
        }
        if self.security_token is not None:
            parts["security_token"] = self.security_token
        for name, value in parts.items():
            if not value:
                raise PaiConfigurationError(f"The {name} is empty; enter it in the connection.")
            if not (value.isascii() and value.isprintable()) or " " in value:
                raise PaiConfigurationError(
                    f"The {name} holds a space, a line break or a character outside ASCII; enter it again."
                )

    def __repr__(self) -> str:
        return f"Credential(access_key_id={self.access_key_id!r}, …)"

    def redact(self, body: bytes) -> bytes:
        """Return ``body`` without this credential's secrets: error pages like to repeat a request."""
        for secret in (self.access_key_secret, self.security_token):
            if secret:
                body = body.replace(secret.encode(), b"***")
        return body


class CredentialSource(Protocol):
    """Where credentials come from. ``blocking`` sources do IO and are asked in a thread by async code."""

    blocking: bool

    def get(self) -> Credential:
        """Return a credential that is good now."""
        ...


class StaticCredential:
    """The one credential that the connection holds."""

    blocking = False

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def get(self) -> Credential:
        """Return it."""
        return self._credential
