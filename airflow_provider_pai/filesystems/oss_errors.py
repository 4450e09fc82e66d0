"""OSS's errors, as this package's and as Python's own at once, without the secrets in their texts.

A caller of fsspec expects ``FileNotFoundError`` and ``PermissionError``; a task needs to know whether to try
again. OSS repeats in some answers what was signed, the security token included: only its code, its message
and the id of the request are passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiError,
    PaiNotFoundError,
    PaiPermissionError,
    PaiTransportError,
    PaiUnavailableError,
)
from airflow_provider_pai.api.tls import describe_refusal

__all__ = ["OssAuthenticationError", "describe"]


class OssError(PaiApiError, OSError):
    """OSS refused the request itself."""


class OssUnavailableError(PaiUnavailableError, OSError):
    """OSS answered 5xx or 429, as it does while it limits a bucket."""


class OssNotFoundError(PaiNotFoundError, FileNotFoundError):
    """There is no such object, upload or bucket."""


class OssPermissionError(PaiPermissionError, PermissionError):
    """OSS knows whose credential it is, and refuses the operation."""

    hint = "Check the bucket's name and region, and what the key's RAM user or role may do with it."


class OssAuthenticationError(PaiAuthenticationError, PermissionError):
    """OSS does not accept the credential."""


class OssUnreachableError(PaiTransportError, ConnectionError):
    """No answer, or half of one, arrived from OSS."""


_WHO = (
    *("InvalidAccessKeyId", "InvalidSecurityToken", "RequestTimeTooSkewed"),
    *("SecurityTokenExpired", "SignatureDoesNotMatch"),
)


def describe(action: str, error: Any, redact: Callable[[bytes], bytes]) -> PaiError:
    """Convert an error of oss2 or requests into one of this package.

    :param action: the operation and its object, for the message.
    :param redact: removes the credential's secrets from a text of OSS.
    """
    status = getattr(error, "status", None)
    if status is None or status < 0:  # requests' own, or oss2's words for it
        cause = getattr(error, "exception", error)
        refusal = describe_refusal(cause, "OSS")
        if refusal is not None:
            return refusal
        return OssUnreachableError(f"{action}: {type(cause).__name__}", sent=True)
    code = error.code or ""
    kind: type[PaiApiError] = OssError
    if status >= 500 or status == 429:
        kind = OssUnavailableError
    elif status == 404:
        kind = OssNotFoundError
    elif code in _WHO:
        kind = OssAuthenticationError
    elif status == 403:
        kind = OssPermissionError
    message = error.message or "no reason is given"
    place = error.details.get("Endpoint")  # OSS says so of a bucket of another region
    if place:
        message += f" (this bucket's endpoint is {place})"
    message = redact(message.encode()).decode()
    return kind(message, action=action, status=status, code=code, request_id=error.request_id or None)
