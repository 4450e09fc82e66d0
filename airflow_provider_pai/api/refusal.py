"""What an answer says that is an error: code and message in any form and encoding, and when to come back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiNotFoundError,
    PaiPermissionError,
    PaiThrottledError,
    PaiUnavailableError,
)

__all__ = ["decoded", "error_fields", "error_kind", "parsed_date", "retry_after"]

_AUTHENTICATION_CODES = (
    "IncompleteSignature",
    "InvalidAccessKey",
    "InvalidBearerToken",
    "InvalidSecurityToken",
    "InvalidTimeStamp",
    "MissingAuthorization",
    "MissingSecurityToken",
    "Signature",
)


def error_kind(status: int, code: str) -> type[PaiApiError]:
    """Choose the class by codes that every Alibaba Cloud gateway shares; PAI's own are not all documented."""
    if "Throttling" in code or status == 429:
        return PaiThrottledError
    if status >= 500 or "ServiceUnavailable" in code:
        return PaiUnavailableError
    if status == 401 or code.startswith(_AUTHENTICATION_CODES):
        return PaiAuthenticationError
    if status == 403 or code.startswith(("NoPermission", "Forbidden")):
        return PaiPermissionError
    if status == 404 or "NotFound" in code or "NotExist" in code:
        return PaiNotFoundError
    return PaiApiError


def error_fields(body: bytes) -> tuple[str, str, str | None] | None:
    """Return code, message and request id of an error body in any form that the SDK reads, else ``None``."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # the first: before msgspec 0.21
        text = decoded(body)
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            fields = dict(re.findall(r"<(Code|Message|RequestId)>([^<]*)</", text)) or None
    if not isinstance(fields, dict):
        return None
    lower = {str(name).lower(): value for name, value in fields.items() if value is not None}
    code, message, request_id = (lower.get(name) for name in ("code", "message", "requestid"))
    return _text(code), _text(message), _text(request_id) or None


def decoded(body: bytes) -> str:
    """Return a body as text. Gateways write UTF-8 with a byte order mark, or GBK, and seldom say which."""
    for encoding in ("utf-8-sig", "gb18030"):
        with suppress(UnicodeDecodeError):
            return body.decode(encoding)
    return body.decode("utf-8", "replace")


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:2000]


def retry_after(headers: Mapping[str, str], date: datetime | None, received_at: float) -> float | None:
    """Return the seconds to wait, as PAI asks in milliseconds, or a gateway in seconds or with a date."""
    try:
        return max(0.0, float(headers["x-acs-retry-after"]) / 1000)
    except (KeyError, ValueError):
        text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    then = parsed_date(text)
    if then is None:
        return None
    now = date or datetime.fromtimestamp(received_at, timezone.utc)
    return max(0.0, (then - now).total_seconds())


def parsed_date(text: str) -> datetime | None:
    """Return what a header such as Date says, or ``None``."""
    try:
        return parsedate_to_datetime(text).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
