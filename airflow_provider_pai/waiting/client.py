"""One async client for each connection in this process, shared by everything that waits on it.

A client follows its Connection: it is read again every :data:`REFRESH_SECONDS`, and at once when PAI no
longer accepts the key, so that a rotated key is noticed. While the Connection cannot be read, which Airflow
also reports as "not found", the last client stays in use.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_pai import api
from airflow_provider_pai.api.client import advance
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.waiting.rate_limit import Lane, RateLimit, rate_limit

if TYPE_CHECKING:
    from airflow_provider_pai.api.flow import Outcome
    from airflow_provider_pai.connection import Settings

__all__ = ["REFRESH_SECONDS", "SharedClient", "apart", "shared_client"]

log = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
"""How old a Connection may be before it is read again."""
CLOSING_SECONDS = 10.0
"""How long closing waits for a Connection that is being read."""

T = TypeVar("T")


def apart(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that belongs to no trigger: it inherits nobody's log, ids or tracing span."""
    return contextvars.Context().run(asyncio.get_running_loop().create_task, coroutine)


class SharedClient:
    """Runs flows for many at once over one pool of connections."""

    def __init__(self, pai_conn_id: str, region: str | None) -> None:
        self.users = 0
        self._hook = PaiHook(pai_conn_id, region=region)
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._settings: Settings | None = None
        self._client: api.AsyncPaiClient | None = None
        self._retired: api.AsyncPaiClient | None = None

    async def settings(self) -> Settings:
        """Return what the connection means, read no longer than :data:`REFRESH_SECONDS` ago if it can be.

        :raises PaiTransportError: it could not be read yet.
        :raises PaiConfigurationError: with the field of the connection to correct.
        """
        settings, _ = await self._current()
        return settings

    async def run(
        self,
        make_flow: Callable[[], api.Flow[T]],
        lane: Callable[[RateLimit], Lane],
        before_asking: Callable[[], None] = lambda: None,
    ) -> T:
        """Run a flow in a lane of the account's limit; once more where the key was rotated meanwhile.

        ``before_asking`` is called when the first request has its slot.

        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        settings, client = await self._current()
        try:
            return await _drive(client, make_flow(), lane(rate_limit(settings.endpoint)), before_asking)
        except api.PaiAuthenticationError:
            renewed, client = await self._current(refused=settings)
            if renewed == settings:
                raise
            return await _drive(client, make_flow(), lane(rate_limit(renewed.endpoint)), before_asking)

    async def close(self) -> None:
        """Close the connections, once the Connection is no longer being read."""
        # Cancelled in the middle of a look-up, Airflow 3.0 and 3.1 lose the thread of their supervisor.
        if self._reading is not None and not self._reading.done():
            await asyncio.wait({self._reading}, timeout=CLOSING_SECONDS)
        for client in (self._client, self._retired):
            if client is not None:
                await client.__aexit__(None, None, None)
        self._client = self._retired = None

    async def _current(self, refused: Settings | None = None) -> tuple[Settings, api.AsyncPaiClient]:
        """Return the settings and their client; ``refused`` are settings that PAI does not accept."""
        fresh = time.monotonic() - self._read_at < REFRESH_SECONDS
        if self._settings is None or not fresh or self._settings == refused:
            if self._reading is None:
                self._reading = apart(self._read())
                self._reading.add_done_callback(self._was_read)
            try:
                await asyncio.shield(self._reading)
            except api.PaiTransportError as error:
                if self._settings is None or self._settings == refused:
                    raise
                log.warning("%s; the last settings stay in use", error)
                self._read_at = time.monotonic()
        assert self._settings is not None and self._client is not None
        return self._settings, self._client

    def _was_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # whoever waited for it has it; one who was cancelled need not hear of it

    async def _read(self) -> None:
        try:
            settings = await self._hook.asettings()
        except api.PaiError:
            raise
        except Exception as error:  # whatever keeps Airflow from telling: its API, its database, a vault
            reason = f"the connection {self._hook.pai_conn_id!r} could not be read: {type(error).__name__}"
            detail = f": {error}" if type(error).__name__ == "AirflowNotFoundException" else ""
            raise api.PaiTransportError(reason + detail, sent=False) from error
        if self.users == 0:
            return  # everybody left while the connection was read, and nobody would close another client
        if settings != self._settings:
            # Made in a thread: the first client of a process imports its HTTP libraries.
            made = await asyncio.to_thread(
                lambda: api.AsyncPaiClient(settings.endpoint, settings.credentials)
            )
            client = await made.__aenter__()
            # What is under way on the last client ends there; the one before it is surely done.
            retired, self._retired, self._client = self._retired, self._client, client
            if retired is not None:
                await retired.__aexit__(None, None, None)
        self._settings, self._read_at = settings, time.monotonic()


async def _drive(
    client: api.AsyncPaiClient, flow: api.Flow[T], lane: Lane, before_asking: Callable[[], None]
) -> T:
    """Run a flow; each of its requests, those that are tried again too, takes a slot."""
    outcome: Outcome | None = None
    while True:
        request, result = await advance(flow, outcome)
        if request is None:
            return result  # type: ignore[no-any-return]
        async with lane.slot():
            if outcome is None:
                before_asking()
            outcome = await client.attempt(request)


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], SharedClient]]
_clients = WeakKeyDictionary()


@asynccontextmanager
async def shared_client(pai_conn_id: str, region: str | None) -> AsyncIterator[SharedClient]:
    """Give the client of a connection to one more user; the last one out closes it."""
    key = pai_conn_id, region
    of_loop = _clients.setdefault(asyncio.get_running_loop(), {})
    client = of_loop.setdefault(key, SharedClient(pai_conn_id, region))
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if client.users == 0:
            del of_loop[key]
            await client.close()
