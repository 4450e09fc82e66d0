"""Two transports of the same flows: :class:`PaiClient` over requests, :class:`AsyncPaiClient` over aiohttp.

A transport does what a flow's request says: sleep, fetch the credential, sign this attempt, send exactly the
bytes that were signed, and return what came back. It decides nothing and sends nothing a second time.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3.exceptions import HTTPError

from airflow_provider_pai.api.credentials import AnyCredential, CredentialSource, RenewableSource
from airflow_provider_pai.api.errors import PaiError, PaiTransportError, PaiUsageError
from airflow_provider_pai.api.flow import (
    API_VERSION,
    Failure,
    Flow,
    Outcome,
    Request,
    Response,
    check_fresh,
)
from airflow_provider_pai.api.network import address_of, proxy_for
from airflow_provider_pai.api.over_requests import Connections
from airflow_provider_pai.api.paging import Paginator
from airflow_provider_pai.api.signing import canonical_query
from airflow_provider_pai.api.tls import Trust, describe_refusal
from airflow_provider_pai.api.wire import (
    ACCEPTED_ENCODINGS,
    Attempt,
    Body,
    current,
    user_agent,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AsyncPaiClient", "PaiClient", "advance"]

CHUNK_BYTES = 1024 * 1024
LARGE_BYTES = 256 * 1024
"""An answer beyond this size is decoded in a thread: 8 MiB of runs that have an id alone take a second."""

T = TypeVar("T")
Item = TypeVar("Item")


class Transport:
    """What both transports share: where to send, and how to sign one attempt."""

    def __init__(self, endpoint: str, credentials: CredentialSource) -> None:
        self.endpoint, self._host = address_of(endpoint)
        self._credentials = credentials
        self._renewing = credentials if isinstance(credentials, RenewableSource) else None
        self._clock_offset = 0.0
        self._user_agent = user_agent()
        self._proxy = proxy_for(self.endpoint)
        schemes = [self.endpoint, self._proxy.url if self._proxy else ""]
        self._trust = Trust() if any(url.startswith("https:") for url in schemes) else None

    def _signed(self, request: Request, credential: AnyCredential) -> tuple[str, dict[str, str]]:
        """Return the URL and the headers of one attempt, signed now."""
        if request.clock_offset is not None:
            self._clock_offset = request.clock_offset
        now = datetime.fromtimestamp(time.time() + self._clock_offset, timezone.utc)
        try:
            query = canonical_query(request.query)
        except UnicodeEncodeError as error:
            raise PaiUsageError(
                f"{request.action}: {error.object!r} is not valid text, and cannot be sent."
            ) from None
        headers = credential.authenticate(
            method=request.method,
            host=self._host,
            path=request.path,
            query=query,
            body=request.body,
            action=request.action,
            version=API_VERSION,
            date=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            nonce=uuid.uuid4().hex,
        )
        headers["accept"] = "application/json"
        headers["accept-encoding"] = ACCEPTED_ENCODINGS
        headers["user-agent"] = self._user_agent
        if request.body:
            headers["content-type"] = "application/json"
        if self._proxy is not None and self.endpoint.startswith("http:"):
            headers.update(self._proxy.headers)  # it reads the request itself; of TLS it sees a CONNECT alone
        return f"{self.endpoint}{request.path}{'?' if query else ''}{query}", headers

    def _credential_for(self, request: Request) -> AnyCredential:
        if request.refused is not None and self._renewing is not None:
            return self._renewing.replace(request.refused)
        return self._credentials.get()

    def _response(
        self, status: int, headers: Any, body: Body, credential: AnyCredential, attempt: Attempt
    ) -> Response:
        return Response(
            status=status,
            headers={name.lower(): value for name, value in headers.items()},
            body=credential.redact(body.whole()),
            seconds=attempt.seconds,
            received_at=time.time(),
            renewable=None if self._renewing is None else credential,
        )

    def _failure(self, error: Exception, attempt: Attempt) -> Failure:
        """Return why there is no answer, for the flow to decide what to do."""
        if isinstance(error, PaiTransportError):  # of the credential source
            return Failure(reason=str(error), sent=False, seconds=attempt.seconds)
        if isinstance(error, PaiError):
            return Failure(reason=str(error), sent=attempt.sent, seconds=attempt.seconds, error=error)
        refused = describe_refusal(error, self._host)
        if refused is not None:
            return self._failure(refused, attempt)
        reason = f"no answer from {self._host}: {_root(error)}"
        return Failure(reason=reason, sent=attempt.sent, seconds=attempt.seconds)


class PaiClient(Transport):
    """Run flows over requests, one after another: ``PaiClient(...).run(get_run("run-1"))``."""

    def __init__(self, endpoint: str, credentials: CredentialSource) -> None:
        super().__init__(endpoint, credentials)
        # Not a session: it would add a login from netrc, and read a redirect's body without a bound.
        self._connections = self._made()
        self._process = os.getpid()
        self._of_parents: list[Connections] = []

    def __enter__(self) -> PaiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _made(self) -> Connections:
        tls = None if self._trust is None else self._trust.context()
        return Connections(self.endpoint, self._proxy, tls)

    def _current(self) -> Connections:
        if self._process != os.getpid():
            # Forked: on shared connections parent and child would read each other's answers. The parent's
            # are kept here unused, because even closing them may wait for a lock that no thread holds here.
            self._of_parents.append(self._connections)
            self._process, self._connections = os.getpid(), self._made()
        if self._trust is not None and self._trust.context() is not self._connections.tls:
            self._connections.close()
            self._connections = self._made()
        return self._connections

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end and return its result.

        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        check_fresh(flow)
        request, result = _advance(flow, None)
        while request is not None:
            request, result = _advance(flow, self.attempt(request))
        return result  # type: ignore[no-any-return]

    def iter(self, listing: Paginator[Item]) -> Iterator[Item]:
        """Yield the items of a listing, holding one page at a time."""
        while not listing.done:
            yield from self.run(listing.next_page())

    def attempt(self, request: Request) -> Outcome:
        """Carry out one attempt of a flow, for callers that drive flows themselves."""
        if request.wait:  # even sleep(0) yields the processor
            time.sleep(request.wait)
        attempt = Attempt(request.limit)
        current.set(attempt)
        try:
            credential = self._credential_for(request)
            url, headers = self._signed(request, credential)
            if request.method != "GET":
                headers["content-length"] = str(len(request.body))
            with self._current().exchange(request.method, url, headers, request.body, attempt) as response:
                body = Body(response.status, response.headers.get("content-encoding", ""))
                while chunk := response.read(CHUNK_BYTES, decode_content=False):
                    body.add(chunk)
                return self._response(response.status, response.headers, body, credential, attempt)
        except (PaiError, HTTPError, OSError, ValueError) as error:
            return self._failure(error, attempt)


class AsyncPaiClient(Transport):
    """Run flows over aiohttp. Concurrent flows share one pool of connections.

    Use it as ``async with AsyncPaiClient(...) as client: await client.run(get_run("run-1"))``.
    """

    _session: aiohttp.ClientSession

    def __init__(self, endpoint: str, credentials: CredentialSource) -> None:
        super().__init__(endpoint, credentials)
        self._through_proxy: Any = {}
        if self._proxy is not None:
            self._through_proxy = {"proxy": self._proxy.url, "proxy_headers": self._proxy.headers}
        self._process = 0
        self._of_parents: list[Any] = []
        self._asking: dict[AnyCredential | None, asyncio.Task[AnyCredential]] = {}

    async def __aenter__(self) -> AsyncPaiClient:
        await asyncio.to_thread(  # 140 ms, once in a process
            importlib.import_module, "airflow_provider_pai.api.over_aiohttp"
        )
        await self._tls()
        self._open()
        return self

    def _open(self) -> None:
        from airflow_provider_pai.api.over_aiohttp import opened

        self._session, self._process, self._asking = opened(), os.getpid(), {}

    def _current(self) -> aiohttp.ClientSession:
        if self._process != os.getpid():  # forked; see PaiClient
            self._of_parents += [self._session, self._asking]
            self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process = 0
        await self._session.close()

    async def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its end and return its result.

        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        if not self._process:
            raise PaiUsageError("This client is not open: async with AsyncPaiClient(…) as client: …")
        check_fresh(flow)
        request, result = await advance(flow, None)
        while request is not None:
            request, result = await advance(flow, await self.attempt(request))
        return result  # type: ignore[no-any-return]

    async def iter(self, listing: Paginator[Item]) -> AsyncIterator[Item]:
        """Yield the items of a listing, holding one page at a time."""
        while not listing.done:
            for item in await self.run(listing.next_page()):
                yield item

    async def _tls(self) -> Any:
        if self._trust is None:
            return True  # what aiohttp takes for its default
        if self._trust.changed:  # 30 ms of CPU, which would stall every other trigger
            return await asyncio.to_thread(self._trust.context)
        return self._trust.context()

    async def _awaited_credential(self, request: Request) -> AnyCredential:
        if not self._credentials.blocking:
            return self._credential_for(request)
        task = self._asking.get(request.refused)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._credential_for, request))
            self._asking[request.refused] = task
            task.add_done_callback(functools.partial(self._was_asked, request.refused))
        # One look-up serves all flows that wait for it. A flow that is cancelled does not cancel the look-up.
        return await asyncio.shield(task)

    def _was_asked(self, refused: AnyCredential | None, task: asyncio.Task[AnyCredential]) -> None:
        self._asking.pop(refused, None)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it; one who was cancelled need not hear of it

    async def attempt(self, request: Request) -> Outcome:
        """Carry out one attempt of a flow, for callers that drive flows themselves."""
        import aiohttp
        from yarl import URL

        from airflow_provider_pai.api.over_aiohttp import timeout

        await asyncio.sleep(request.wait)
        attempt = Attempt(request.limit)
        current.set(attempt)
        try:
            session = self._current()
            credential = await self._awaited_credential(request)
            url, headers = self._signed(request, credential)
            async with session.request(
                request.method,
                URL(url, encoded=True),  # yarl would decode %3A and %2C, and break the signature
                headers=headers,
                data=request.body or None,
                allow_redirects=False,
                timeout=timeout(request.limit),
                ssl=await self._tls(),
                **self._through_proxy,
            ) as response:
                body = Body(response.status, response.headers.get("content-encoding", ""))
                async for chunk in response.content.iter_any():
                    body.add(chunk)
                return self._response(response.status, response.headers, body, credential, attempt)
        except (PaiError, aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            return self._failure(error, attempt)


async def advance(flow: Flow[Any], outcome: Outcome | None) -> tuple[Request | None, Any]:
    """Let a flow go on, and return its next request; or ``None``, and the flow's result.

    A large answer is decoded in a thread, so that everything else on the event loop has its turns meanwhile.
    """
    if isinstance(outcome, Response) and len(outcome.body) > LARGE_BYTES:
        return await asyncio.to_thread(_advance, flow, outcome)
    return _advance(flow, outcome)


def _advance(flow: Flow[Any], outcome: Outcome | None) -> tuple[Request | None, Any]:
    try:
        return flow.send(outcome), None  # type: ignore[arg-type]
    except StopIteration as end:
        return None, end.value


def _root(error: BaseException) -> str:
    """Return the innermost reason, without the errors that urllib3 puts around it."""
    while isinstance(error, HTTPError):
        inside = (getattr(error, "reason", None), *error.args)
        inner = next((each for each in inside if isinstance(each, Exception)), None)
        if inner is None:
            break
        error = inner
    text = re.sub(r"^<[^>]* at 0x\w+>: ", "", str(error)) or "timed out"  # before urllib3 2.3
    return f"{type(error).__name__}: {text}"
