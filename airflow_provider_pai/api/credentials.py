"""Who is asking: the credential that signs an attempt, and where it comes from.

A source is asked before every attempt, so that a token which was renewed meanwhile is used at once.
"""

from __future__ import annotations

import functools
import re
from html.entities import codepoint2name
from typing import Any, ClassVar, Protocol

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
            if not isinstance(value, str) or not (value.isascii() and value.isprintable()) or " " in value:
                raise PaiConfigurationError(
                    f"The {name} holds a space, a line break or a character outside ASCII; enter it again."
                )

    def __repr__(self) -> str:
        return f"Credential(access_key_id={self.access_key_id!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would tell every field, and tracebacks drawn by rich ask it rather than __repr__.
        return [("access_key_id", self.access_key_id)]

    def redact(self, body: bytes) -> bytes:
        """Return ``body`` without this credential's secrets: error pages like to repeat a request.

        A secret is found as it is and as JSON, XML, HTML or a URL spell it.
        """
        for secret in (self.access_key_secret, self.security_token):
            if secret:
                constant, spelled = _spellings(secret)
                if constant in body:
                    body = spelled.sub(b"***", body)
        return body


@functools.lru_cache(maxsize=8)
def _spellings(secret: str) -> tuple[bytes, re.Pattern[bytes]]:
    """Return the longest part that no encoding changes, which is quick to look for, and all spellings."""
    constant = max(re.findall("[A-Za-z0-9]*", secret), key=len)
    pattern = "".join(c if c.isalnum() else _spelled(c) for c in secret)
    return constant.encode(), re.compile(pattern.encode())


def _spelled(character: str) -> str:
    code = ord(character)
    entity = f"&(?:#0*{code}|#[xX]0*(?i:{code:x})|{codepoint2name.get(code, 'apos')});"
    return rf"(?:\\*u(?i:{code:04x})|%(?i:{code:02x})|{entity}|\\*{re.escape(character)})"


class CredentialSource(Protocol):
    """Where credentials come from. Blocking sources are asked in a thread by async code."""

    @property
    def blocking(self) -> bool:
        """Whether :meth:`get` does IO."""
        ...

    def get(self) -> Credential:
        """Return a credential that is good now."""
        ...


class StaticCredential(msgspec.Struct, frozen=True):
    """The one credential that the connection holds."""

    credential: Credential

    blocking: ClassVar[bool] = False

    def get(self) -> Credential:
        """Return it."""
        return self.credential
