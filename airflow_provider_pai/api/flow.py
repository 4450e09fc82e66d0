"""One exchange with PAI: what is sent, what comes back, how that is judged and when it is tried again.

A *flow* is a generator that yields :class:`Request` and is sent an :class:`Outcome`. It does no IO and
never sleeps: the wait before an attempt, its time limit and the correction of the clock travel on the
request, and a driver (``client.py``) carries them out. So there is one judge for every operation and for
both drivers, and all of it can be tested without a network.

Source: FACTS 4 (errors, limits and what may be tried again).
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Generator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

import msgspec

from airflow_provider_pai.api.credentials import AnyCredential
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
)
from airflow_provider_pai.api.models import MaybeRun, Page

__all__ = ["Acknowledgement", "Failure", "Flow", "Outcome", "Request", "Response", "call", "exchange"]

API_VERSION = "2021-02-04"
NONCE_USED = "SignatureNonceUsed"
ATTEMPTS = 5
"""How often one request is sent at the most; a corrected clock and another credential grant one more each."""
BACKOFF_SECONDS = 0.5
BACKOFF_LIMIT_SECONDS = 20.0
CALL_SECONDS = 120.0
"""How long one request may take in all: its attempts and the waits between them."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one operation. ``path`` is percent-encoded; ``query`` holds plain values."""

    action: str
    path: str
    method: str = "GET"
    query: dict[str, str] = {}
    body: bytes = b""
    wait: float = 0.0
    """Seconds the driver sleeps first."""
    limit: float = CALL_SECONDS
    """Seconds this attempt may take from its start to the last byte of the answer."""
    clock_offset: float | None = None
    """Seconds to add to this machine's clock when signing, from now on; ``None`` leaves it as it is."""
    refused: AnyCredential | None = None
    """The credential that PAI did not accept; this attempt wants another."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float = 0.0
    """How long the attempt took, without the wait before it."""
    received_at: float = 0.0
    """This machine's clock (Unix seconds) when the answer came."""
    renewable: AnyCredential | None = None
    """The credential of this attempt, where its source may give another in its place."""

    @property
    def date(self) -> datetime | None:
        """The server's clock, to the second."""
        try:
            return parsedate_to_datetime(self.headers.get("date", "")).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            return None

    @property
    def request_id(self) -> str | None:
        """PAI's name for this exchange: the body's, or else the headers'."""
        return _request_id(self, None)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing came back. ``sent`` is False where PAI surely never saw the request."""

    reason: str
    sent: bool
    seconds: float = 0.0


Outcome = Response | Failure
T = TypeVar("T")
Flow = Generator[Request, Outcome, T]


class Acknowledgement(msgspec.Struct, frozen=True):
    """The answer of an operation that has nothing to tell; its JSON is still checked to be an object."""

    items = ()


def call(request: Request, answer: type[T]) -> Flow[T]:
    """Send a request until it is answered, and return the answer decoded as ``answer``.

    :raises PaiError: as drawn in :mod:`~airflow_provider_pai.api.errors`, once trying again is pointless,
        not safe, or no longer allowed by :data:`ATTEMPTS` or :data:`CALL_SECONDS`.
    """
    decoded, _ = yield from exchange(request, answer)
    return decoded


def exchange(request: Request, answer: type[T]) -> Flow[tuple[T, Response]]:
    """Do as :func:`call`, and return the response beside its decoded body."""
    spent = 0.0
    attempt = 1
    mended: set[str] = set()
    while True:
        outcome = yield request
        spent += request.wait + outcome.seconds
        try:
            return _judge(request, outcome, answer)
        except PaiError as error:
            remedy = _remedy(error, outcome)
            if remedy.keys() - mended:
                mended |= remedy.keys()
                wait = 0.0
            elif attempt < ATTEMPTS and _may_try_again(error, request):
                wait = _wait(error, attempt)
                attempt += 1
            else:
                raise
            left = CALL_SECONDS - spent - wait
            if left <= 0:
                raise
        changes = {"clock_offset": None, "refused": None, **remedy}
        request = msgspec.structs.replace(request, wait=wait, limit=left, **changes)


def _remedy(error: PaiError, outcome: Outcome) -> dict[str, Any]:
    """Return what to change in the request where PAI says that our clock or our credential is not good."""
    if isinstance(outcome, Failure) or not isinstance(error, PaiAuthenticationError):
        return {}
    if error.code.startswith("InvalidTimeStamp"):
        return {"clock_offset": outcome.date.timestamp() - outcome.received_at} if outcome.date else {}
    if outcome.renewable is None or error.code == NONCE_USED:
        return {}
    return {"refused": outcome.renewable}  # it expired, or was revoked, sooner than its source foresaw


def _may_try_again(error: PaiError, request: Request) -> bool:
    if request.method == "GET":
        return error.transient or (isinstance(error, PaiApiError) and error.code == NONCE_USED)
    # A write only where it surely was not carried out. A used nonce is no such proof: some proxy may have
    # sent the request twice, and the first copy may have been carried out.
    return isinstance(error, PaiThrottledError) or (isinstance(error, PaiTransportError) and not error.sent)


def _wait(error: PaiError, attempt: int) -> float:
    """Return the seconds before the next attempt: exponential, with full jitter so that no herd forms."""
    if isinstance(error, PaiThrottledError) and error.retry_after is not None:
        return error.retry_after + random.uniform(0, BACKOFF_SECONDS)
    return random.uniform(0, min(BACKOFF_LIMIT_SECONDS, BACKOFF_SECONDS * 2 ** (attempt - 1)))


def _judge(request: Request, outcome: Outcome, answer: type[T]) -> tuple[T, Response]:
    if isinstance(outcome, Failure):
        raise PaiTransportError(f"{request.action}: {outcome.reason}", sent=outcome.sent)
    if not 200 <= outcome.status < 300:
        raise _error(request, outcome)
    try:
        decoded = _decode(request, outcome, answer)
    except PaiResponseError as error:
        if not error.transient and _has_code(outcome):
            raise _error(request, outcome) from None
        raise
    # An error in the clothes of a success would pass for an empty list, or for a run that is not there.
    if isinstance(decoded, (Page, Acknowledgement, MaybeRun)) and not decoded.items and _has_code(outcome):
        raise _error(request, outcome)
    return decoded, outcome


def _has_code(response: Response) -> bool:
    fields = _error_fields(response.body)
    return fields is not None and fields[0] != ""


@functools.cache
def _decoder(answer: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(answer)


def _decode(request: Request, response: Response, answer: type[T]) -> T:
    try:
        try:
            return cast("T", _decoder(cast("Any", answer)).decode(response.body))
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            # A metric can be NaN, which some servers write as it stands although JSON has no such word.
            return msgspec.convert(json.loads(response.body), answer)
    except msgspec.ValidationError as error:
        raise PaiResponseError(
            f"{request.action}: the answer is not what the API page promises: {error}",
            status=response.status,
            request_id=_request_id(response, None),
        ) from None
    except (ValueError, RecursionError):
        raise _not_json(request, response) from None


def _not_json(request: Request, response: Response) -> PaiNotJsonError:
    kind = response.headers.get("content-type", "no content type")
    start = " ".join(response.body[:200].decode("utf-8", "replace").split())
    return PaiNotJsonError(
        f"{request.action}: the answer is no JSON but {kind} beginning {start[:100]!r}. Usually a proxy or "
        "gateway spoke in PAI's place: check the connection's endpoint, and the proxy settings",
        status=response.status,
        request_id=_request_id(response, None),
    )


def _error(request: Request, response: Response) -> PaiError:
    fields = _error_fields(response.body)
    status = response.status
    if fields is None and status < 500 and status != 429:
        return _not_json(request, response)
    code, message, request_id = fields or ("", "", None)
    kind = _error_kind(status, code)
    error = kind(
        message or f"HTTP {status} without a message",
        action=request.action,
        status=status,
        code=code,
        request_id=_request_id(response, request_id),
    )
    if isinstance(error, PaiThrottledError):
        error.retry_after = _retry_after(response)
    return error


_WHO_IS_ASKING = (
    "IncompleteSignature",
    "InvalidAccessKey",
    "InvalidBearerToken",
    "InvalidSecurityToken",
    "InvalidTimeStamp",
    "MissingAuthorization",
    "MissingSecurityToken",
    "Signature",
)


def _error_kind(status: int, code: str) -> type[PaiApiError]:
    """Choose by what every Alibaba Cloud gateway shares; codes of PAI's own are an open set (FACTS 4)."""
    if "Throttling" in code or status == 429:
        return PaiThrottledError
    if status >= 500 or "ServiceUnavailable" in code:
        return PaiUnavailableError
    if status == 401 or code.startswith(_WHO_IS_ASKING):
        return PaiAuthenticationError
    if status == 403 or code.startswith(("NoPermission", "Forbidden")):
        return PaiPermissionError
    if status == 404 or "NotFound" in code or "NotExist" in code:
        return PaiNotFoundError
    return PaiApiError


def _error_fields(body: bytes) -> tuple[str, str, str | None] | None:
    """Return code, message and request id of an error body in any form the SDK knows, else ``None``."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # the first: before msgspec 0.21
        found = dict(re.findall(r"<(Code|Message|RequestId)>([^<]*)</", body.decode("utf-8", "replace")))
        return (found.get("Code", ""), found.get("Message", ""), found.get("RequestId")) if found else None
    if not isinstance(fields, dict):
        return None
    lower = {str(name).lower(): value for name, value in fields.items() if value is not None}
    code, message, request_id = (lower.get(name) for name in ("code", "message", "requestid"))
    return _text(code), _text(message), _text(request_id) or None


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:2000]


def _request_id(response: Response, from_body: str | None) -> str | None:
    if from_body is None and response.status < 400:
        found = re.search(rb'"[Rr]equestId"\s*:\s*"([^"]{1,100})"', response.body)
        from_body = found.group(1).decode("utf-8", "replace") if found else None
    return from_body or response.headers.get("x-acs-request-id")


def _retry_after(response: Response) -> float | None:
    """Return the seconds PAI asks to wait; the header says milliseconds."""
    try:
        return max(0.0, float(response.headers["x-acs-retry-after"]) / 1000)
    except (KeyError, ValueError):
        return None
