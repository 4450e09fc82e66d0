"""One exchange with PAI: send a request, check the answer, and decide whether to send it again.

A *flow* is a generator that yields :class:`Request` and is sent an :class:`Outcome`. It does no IO and
never sleeps: the wait before an attempt, its time limit and the clock correction are fields of the request,
and a transport (``client.py``) carries them out. So all operations and both transports share one set of
rules, and all of it can be tested without a network.

docs/fidelity.md lists the time limits, and which requests are sent again.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
from collections.abc import Generator, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from airflow_provider_pai.api.credentials import AnyCredential
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiError,
    PaiNotJsonError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
    PaiUsageError,
    printable,
)
from airflow_provider_pai.api.model_records import MaybeModel, MaybeModelVersion
from airflow_provider_pai.api.models import MaybeRun, Page
from airflow_provider_pai.api.reading import read
from airflow_provider_pai.api.refusal import decoded, error_fields, error_kind, parsed_date, retry_after

__all__ = [
    "Acknowledgement",
    "Failure",
    "Flow",
    "Outcome",
    "Request",
    "Response",
    "begun",
    "call",
    "check_fresh",
    "exchange",
]

API_VERSION = "2021-02-04"
NONCE_USED = "SignatureNonceUsed"
ATTEMPTS = 5
"""How often one request is sent at most. A corrected clock and another credential add one attempt each."""
BACKOFF_SECONDS = 0.5
BACKOFF_LIMIT_SECONDS = 20.0
CALL_SECONDS = 120.0
"""How long one request may take in total, with its attempts and the waits between them."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one operation. ``path`` is percent-encoded; ``query`` holds plain values."""

    action: str
    path: str
    method: str = "GET"
    query: dict[str, str] = {}
    body: bytes = b""
    wait: float = 0.0
    """Seconds that the transport sleeps first."""
    limit: float = CALL_SECONDS
    """Seconds that this attempt may take, from its start to the last byte of the answer."""
    clock_offset: float | None = None
    """Seconds to add to this machine's clock when signing, from now on; ``None`` leaves it as it is."""
    refused: AnyCredential | None = None
    """The credential that PAI did not accept. This attempt needs another one."""


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
    """The credential of this attempt, where its source may have another one."""

    @property
    def date(self) -> datetime | None:
        """The server's clock, to the second."""
        return parsed_date(self.headers.get("date", ""))

    @property
    def request_id(self) -> str | None:
        """PAI's id of this exchange, from the body or else from the headers."""
        return _request_id(self, None)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why no answer came. ``sent`` is False where PAI cannot have received the request."""

    reason: str
    sent: bool
    seconds: float = 0.0
    error: PaiError | None = None
    """What another attempt would not change. It is raised inside the flow."""


Outcome = Response | Failure
T = TypeVar("T")
Flow = Generator[Request, Outcome, T]


class Acknowledgement(msgspec.Struct, frozen=True):
    """The answer of an operation that returns nothing: a JSON object, or no body where that is usual."""

    items = ()


def begun(flow: Flow[T]) -> Flow[T]:
    """Return a flow that stands at its first request, so that wrong arguments are refused now.

    :raises PaiUsageError: as the flow would when it is run.
    """
    first = next(flow)

    def rest() -> Flow[T]:
        outcome = yield first
        while True:
            try:
                request = flow.send(outcome)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            outcome = yield request

    return rest()


def check_fresh(flow: Flow[Any]) -> None:
    """Refuse a flow that has run: it would end at once, as if PAI had answered nothing.

    :raises PaiUsageError: it has.
    """
    if inspect.getgeneratorstate(flow) != inspect.GEN_CREATED:
        raise PaiUsageError("This flow has run already; make a new one for each run.")


def call(request: Request, answer: type[T]) -> Flow[T]:
    """Send a request until it is answered, and return the answer decoded as ``answer``.

    :raises PaiError: see :mod:`~airflow_provider_pai.api.errors`. It is raised when another attempt would
        not help, would not be safe, or would exceed :data:`ATTEMPTS` or :data:`CALL_SECONDS`.
    """
    decoded, _ = yield from exchange(request, answer)
    return decoded


def exchange(request: Request, answer: type[T]) -> Flow[tuple[T, Response]]:
    """Do as :func:`call`, and return the decoded answer together with the response."""
    spent = 0.0
    attempt = 1
    fixed: set[str] = set()
    while True:
        outcome = yield request
        spent += request.wait + outcome.seconds
        try:
            return _check(request, outcome, answer)
        except PaiError as error:
            fix = _fix(error, outcome)
            if fix.keys() - fixed:
                fixed |= fix.keys()
                wait = 0.0
            elif attempt < ATTEMPTS and _may_try_again(error, request):
                wait = _wait(error, attempt)
                attempt += 1
            else:
                raise
            left = CALL_SECONDS - spent - wait
            if left <= 0:
                raise
        changes = {"clock_offset": None, "refused": None, **fix}
        request = msgspec.structs.replace(request, wait=wait, limit=left, **changes)


def _fix(error: PaiError, outcome: Outcome) -> dict[str, Any]:
    """Return which fields of the request to change where PAI rejected our clock or our credential."""
    if isinstance(outcome, Failure) or not isinstance(error, PaiAuthenticationError):
        return {}
    if error.code.startswith("InvalidTimeStamp"):
        return {"clock_offset": outcome.date.timestamp() - outcome.received_at} if outcome.date else {}
    if outcome.renewable is None or error.code == NONCE_USED:
        return {}
    return {"refused": outcome.renewable}  # it expired, or was revoked, earlier than its source expected


def _may_try_again(error: PaiError, request: Request) -> bool:
    if request.method == "GET":
        return error.transient or (isinstance(error, PaiApiError) and error.code == NONCE_USED)
    # A write is sent again only where PAI cannot have carried it out. A used nonce does not prove that: a
    # proxy may have sent the request twice, and PAI may have carried out the first copy.
    return isinstance(error, PaiThrottledError) or (isinstance(error, PaiTransportError) and not error.sent)


def _wait(error: PaiError, attempt: int) -> float:
    """Return the seconds before the next attempt: exponential, at random so that clients spread out."""
    if isinstance(error, (PaiThrottledError, PaiUnavailableError)) and error.retry_after is not None:
        return error.retry_after + random.uniform(0, BACKOFF_SECONDS)
    return random.uniform(0, min(BACKOFF_LIMIT_SECONDS, BACKOFF_SECONDS * 2 ** (attempt - 1)))


def _check(request: Request, outcome: Outcome, answer: type[T]) -> tuple[T, Response]:
    """Return the decoded answer, or raise what is wrong with it."""
    if isinstance(outcome, Failure):
        if outcome.error is not None:
            raise outcome.error
        raise PaiTransportError(f"{request.action}: {outcome.reason}", sent=outcome.sent)
    if not 200 <= outcome.status < 300:
        raise _error(request, outcome)
    try:
        decoded = _decode(request, outcome, answer)
    except PaiResponseError as error:
        if not error.transient and _has_code(outcome):
            raise _error(request, outcome) from None
        raise
    # An error sent with status 200 would look like an empty list, or like a run that does not exist.
    may_be_empty = Page, Acknowledgement, MaybeRun, MaybeModel, MaybeModelVersion
    if isinstance(decoded, may_be_empty) and not decoded.items and _has_code(outcome):
        raise _error(request, outcome)
    return decoded, outcome


def _has_code(response: Response) -> bool:
    fields = error_fields(response.body)
    return fields is not None and fields[0] != ""


@functools.cache
def _decoder(answer: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(answer)


def _decode(request: Request, response: Response, answer: type[T]) -> T:
    # To other requests, an empty 200 is more likely a proxy's answer than PAI's.
    may_be_empty = answer is Acknowledgement and (response.status == 204 or request.method == "DELETE")
    if may_be_empty and not response.body.strip():
        return answer()
    try:
        try:
            return cast("T", _decoder(cast("Any", answer)).decode(response.body))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return read(response.body, answer, request.action)
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
    start = " ".join(decoded(response.body)[:200].split())
    return PaiNotJsonError(
        f"{request.action}: the answer is not JSON but {kind} beginning {start[:100]!r}. Usually a proxy "
        "or gateway answered instead of PAI: check the connection's endpoint, and the proxy settings",
        status=response.status,
        request_id=_request_id(response, None),
    )


def _error(request: Request, response: Response) -> PaiError:
    fields = error_fields(response.body)
    status = response.status
    if fields is None and status < 500 and status != 429:
        return _not_json(request, response)
    code, message, request_id = fields or ("", "", None)
    kind = error_kind(status, code)
    error = kind(
        message or f"HTTP {status} without a message",
        action=request.action,
        status=status,
        code=code,
        request_id=_request_id(response, request_id),
    )
    if isinstance(error, PaiThrottledError) or (isinstance(error, PaiUnavailableError) and status == 503):
        error.retry_after = retry_after(response.headers, response.date, response.received_at)
    return error


def _request_id(response: Response, from_body: str | None) -> str | None:
    if from_body is None and response.status < 400:
        found = re.search(rb'"[Rr]equestId"\s*:\s*"([^"]{1,100})"', response.body)
        from_body = found.group(1).decode("utf-8", "replace") if found else None
    request_id = from_body or response.headers.get("x-acs-request-id")
    return request_id and printable(request_id)
