"""Who is asking: the credential that authenticates an attempt, and the source that gives it.

A source is asked before every attempt, so that a token which was renewed meanwhile is used at once.
Sources that obtain credentials elsewhere, and renew them, are in ``sources.py``.
"""

from __future__ import annotations

import functools
import re
from html.entities import codepoint2name
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.api.signing import bear, sign

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

    :raises PaiConfigurationError: a part is missing, or holds characters no header can carry.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None

    def __post_init__(self) -> None:
        _check("AccessKey id (the connection's login)", self.access_key_id)
        _check("AccessKey secret (the connection's password)", self.access_key_secret)
        if self.security_token is not None:
            _check("security_token", self.security_token)

    def __repr__(self) -> str:
        return f"Credential(access_key_id={self.access_key_id!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would tell every field, and tracebacks drawn by rich ask it rather than __repr__.
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
        """Return ``body`` without this credential's secrets: error pages like to repeat a request.

        A secret is found as it is and as JSON, XML, HTML or a URL spell it.
        """
        return _without(body, self.access_key_secret, self.security_token)


class BearerToken(msgspec.Struct, frozen=True):
    """A token that stands for who is asking. Its repr does not show it.

    :raises PaiConfigurationError: it is empty, or holds characters no header can carry.
    """

    token: str

    def __post_init__(self) -> None:
        _check("bearer_token", self.token)

    def __repr__(self) -> str:
        return "BearerToken(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def authenticate(self, **attempt: Any) -> dict[str, str]:
        """Return the headers of an attempt that carry the token."""
        return bear(token=self.token, **attempt)

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

    def get(self) -> AnyCredential:
        """Return a credential that is good now.

        :raises PaiTransportError: nothing answered; asking again later may succeed.
        :raises PaiConfigurationError: there is none to be had until somebody changes something.
        """
        ...


@runtime_checkable
class RenewableSource(CredentialSource, Protocol):
    """A source that may have another credential than the one that PAI does not accept any more."""

    def replace(self, refused: AnyCredential) -> AnyCredential:
        """Return another credential than ``refused``, if there is one. Raises as :meth:`get` does."""
        ...


class StaticCredential(msgspec.Struct, frozen=True):
    """The one credential that the connection holds."""

    credential: AnyCredential

    blocking: ClassVar[bool] = False

    def get(self) -> AnyCredential:
        """Return it."""
        return self.credential
