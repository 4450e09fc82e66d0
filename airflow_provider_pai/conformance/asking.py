"""Send requests to PAI and keep its answers unchanged, refusals included.

All functions are flows like those of :mod:`airflow_provider_pai.api`: they yield requests and do no IO.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import msgspec

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import Flow, Outcome, Request, Response, exchange
from airflow_provider_pai.api.models import MaybeRun, Run, RunPage
from airflow_provider_pai.api.parameters import path

__all__ = ["Answer", "Asker", "Listing", "NotDecidable", "short", "surely_refused", "until"]

PACE_SECONDS = 0.2
"""The pause before each ListRuns: 15 requests in 3 seconds, where the account's quota is 50."""
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each attempt to see what PAI may show late: a minute in total."""

T = TypeVar("T")


class NotDecidable(Exception):
    """An assumption cannot be decided; the text says why."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """PAI's answer to one request: decoded as the provider decodes it, and unchanged."""

    response: Response
    record: T | None = None
    error: api.PaiApiError | None = None

    def must(self) -> T:
        """Return the record.

        :raises PaiApiError: where PAI refused.
        """
        if self.error is not None:
            raise self.error
        assert self.record is not None
        return self.record

    @property
    def refusal(self) -> str:
        """A short form of the error, or an empty text."""
        return "" if self.error is None else short(self.error)

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object, unchanged."""
        fields: dict[str, Any] = json.loads(self.response.body)
        return fields


@dataclass(frozen=True)
class Listing:
    """The pages of one listing, as PAI answered them."""

    pages: list[Answer[RunPage]] = field(default_factory=list)
    error: api.PaiApiError | None = None
    repeated: str = ""
    """The token that came a second time, which ended the listing."""
    whole: bool = False
    """Whether PAI marked the last page as the end."""

    def must(self) -> Listing:
        """Return this listing.

        :raises PaiApiError: where PAI refused a page.
        """
        if self.error is not None:
            raise self.error
        return self

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order in which they came, without repeats."""
        runs = {run.run_id: run for page in self.pages for run in page.must().runs}
        return list(runs.values())

    @property
    def ids(self) -> set[str]:
        """The ids of the runs."""
        return {run.run_id for run in self.runs}


class Asker:
    """Sends requests to PAI, at a pace that leaves most of the quota to others."""

    def __init__(self) -> None:
        self.throttled: list[Response] = []
        """Answers by which PAI throttled a request."""
        self._last: Outcome | None = None

    def do(self, flow: Flow[T], *, wait: float = 0.0) -> Flow[T]:
        """Run a flow after ``wait`` seconds, at a pace that leaves most of the quota to others."""
        outcome: Any = None
        while True:
            try:
                request = flow.send(outcome)
            except StopIteration as end:
                return cast("T", end.value)
            pause = max(request.wait, wait, PACE_SECONDS if request.action == "ListRuns" else 0.0)
            outcome = self._last = yield msgspec.structs.replace(request, wait=pause)
            wait = 0.0
            if isinstance(outcome, Response) and _is_throttle(outcome):
                self.throttled.append(outcome)

    def ask(self, request: Request, shape: type[T], *, wait: float = 0.0) -> Flow[Answer[T]]:
        """Send a request, and return PAI's answer, also where it refuses.

        :raises PaiError: an error that says nothing about the request: throttling, no permission, no answer.
        """
        try:
            record, response = yield from self.do(exchange(request, shape), wait=wait)
        except api.PaiApiError as error:
            if error.transient or isinstance(error, (api.PaiPermissionError, api.PaiAuthenticationError)):
                raise
            return Answer(self.last_response, error=error)
        return Answer(response, record)

    @property
    def last_response(self) -> Response:
        """PAI's last answer."""
        return cast("Response", self._last)

    def get_run(self, run_id: str, *, wait: float = 0.0) -> Flow[Answer[MaybeRun]]:
        """Send GetRun."""
        request = Request(action="GetRun", path=path("runs", run_id), query={"Verbose": "true"})
        return self.ask(request, MaybeRun, wait=wait)

    def list_page(self, query: dict[str, str], *, wait: float = 0.0) -> Flow[Answer[RunPage]]:
        """Send ListRuns with exactly these parameters."""
        return self.ask(Request(action="ListRuns", path=path("runs"), query=query), RunPage, wait=wait)


def short(error: api.PaiApiError) -> str:
    """Return the HTTP status and the code of an error."""
    return f"HTTP {error.status} {error.code}".strip()


def until(attempt: Callable[[float], Flow[T | None]]) -> Flow[tuple[T | None, float]]:
    """Repeat ``attempt`` after ever longer pauses, until it returns something or a minute has passed.

    ``attempt`` takes the seconds to wait before its first request. Return its result and the time waited.
    """
    waited = 0.0
    for pause in PAUSES:
        waited += pause
        seen = yield from attempt(pause)
        if seen is not None:
            return seen, waited
    return None, waited


def _is_throttle(response: Response) -> bool:
    return response.status >= 400 and (response.status == 429 or b"Throttling" in response.body[:2000])


def surely_refused(error: api.PaiError) -> bool:
    """Tell whether PAI cannot have carried out the request."""
    if isinstance(error, api.PaiTransportError):
        return not error.sent
    refusals = api.PaiApiError, api.PaiConfigurationError, api.PaiUsageError
    return isinstance(error, refusals) and not isinstance(error, api.PaiUnavailableError)
