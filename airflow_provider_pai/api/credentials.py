"""The credential that authenticates an attempt, and the source that returns it.

A transport asks its source before every attempt, so that it uses a renewed token at once. ``renewal.py`` has
the source that obtains credentials from elsewhere and renews them.
"""

from __future__ import annotations

import functools
import re
from html.entities import codepoint2name
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.api.signing import authorize, sign

__all__ = [
    "AnyCredential",
    "BearerToken",
    "Credential",
    "CredentialSource",
    "RenewableSource",
    "StaticCredential",
]


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """An AccessKey pair, with a security token where STS issued it. Its repr shows no secret.

    :raises PaiConfigurationError: a part is missing, or holds characters that no header can carry.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None

    def __post_init__(self) -> None:
        _check("AccessKey id (the connection's login)", self.access_key_id)
        _check("AccessKey secret (the connection's password)", self.access_key_secret)
        if self.security_token is not None:
            _check("security_token", self.security_token)

    blocking: ClassVar[bool] = False

    def get(self) -> Credential:
        """Return itself: a credential that never changes is its own source."""
        return self

    def __repr__(self) -> str:
        return f"Credential(access_key_id={self.access_key_id!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own method would show every field, and rich calls it for tracebacks instead of __repr__.
        return [("access_key_id", self.access_key_id)]

    def authenticate(self, **attempt: Any) -> dict[str, str]:
        """Return the headers of an attempt, signed; see :func:`~airflow_provider_pai.api.signing.sign`."""
        return sign(
            access_key_id=self.access_key_id,
            access_key_secret=self.access_key_secret,
            security_token=self.security_token,
            **attempt,
        )

    def redact(self, body: bytes) -> bytes:
        """Return ``body`` without this credential's secrets: error pages often repeat the request.

        Secrets are found as plain text, and as JSON, XML, HTML or a URL escape them.
        """
        return _without(body, self.access_key_secret, self.security_token)


class BearerToken(msgspec.Struct, frozen=True):
    """A bearer token. Its repr does not show it.

    :raises PaiConfigurationError: it is empty, or holds characters that no header can carry.
    """

    token: str

    def __post_init__(self) -> None:
        _check("bearer_token", self.token)

    blocking: ClassVar[bool] = False

    def get(self) -> BearerToken:
        """Return itself."""
        return self

    def __repr__(self) -> str:
        return "BearerToken(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def authenticate(self, **attempt: Any) -> dict[str, str]:
        """Return the headers of an attempt that carry the token."""
        return authorize(token=self.token, **attempt)

    def redact(self, body: bytes) -> bytes:
        """Return ``body`` without the token."""
        return _without(body, self.token)


AnyCredential = Credential | BearerToken


def _check(name: str, value: Any) -> None:
    if not value:
        raise PaiConfigurationError(f"The {name} is empty; enter it in the connection.")
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()) or " " in value:
        raise PaiConfigurationError(
            f"The {name} holds a space, a line break or a character outside ASCII; enter it without those."
        )


def _without(body: bytes, *secrets: str | None) -> bytes:
    for secret in filter(None, secrets):
        constant, pattern = _escaped(secret)
        if constant in body:
            body = pattern.sub(b"***", body)
    return body


@functools.lru_cache(maxsize=8)
def _escaped(secret: str) -> tuple[bytes, re.Pattern[bytes]]:
    """Return the longest part that no encoding changes, for a quick search, and a pattern."""
    constant = max(re.findall("[A-Za-z0-9]*", secret), key=len)
    pattern = "".join(c if c.isalnum() else _escaped_character(c) for c in secret)
    return constant.encode(), re.compile(pattern.encode())


def _escaped_character(character: str) -> str:
    code = ord(character)
    entity = f"&(?:#0*{code}|#[xX]0*(?i:{code:x})|{codepoint2name.get(code, 'apos')});"
    return rf"(?:\\*u(?i:{code:04x})|%(?i:{code:02x})|{entity}|\\*{re.escape(character)})"


class CredentialSource(Protocol):
    """Where credentials come from. Async code calls blocking sources in a thread."""

    @property
    def blocking(self) -> bool:
        """Whether :meth:`get` does IO."""
        ...

    def get(self) -> AnyCredential:
        """Return a credential that is valid now.

        :raises PaiTransportError: the place it comes from did not answer; a later call may succeed.
        :raises PaiConfigurationError: there is no credential until somebody changes something.
        """
        ...


@runtime_checkable
class RenewableSource(CredentialSource, Protocol):
    """A source that may return a new credential where PAI no longer accepts the old one."""

    def replace(self, refused: AnyCredential) -> AnyCredential:
        """Return another credential than ``refused``, if there is one. Raises what ``get`` raises."""
        ...


class StaticCredential(msgspec.Struct, frozen=True):
    """The one credential that the connection holds."""

    credential: AnyCredential

    blocking: ClassVar[bool] = False

    def get(self) -> AnyCredential:
        """Return it."""
        return self.credential
