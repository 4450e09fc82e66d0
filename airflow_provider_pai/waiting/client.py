"""One async client for each connection in this process, shared by everything that waits on it.

A client follows its Connection: it is read again every :data:`REFRESH_SECONDS`, and at once when PAI no
longer accepts the key, so that a key that was rotated, and a connection that was deleted, are noticed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from airflow_provider_pai import api
from airflow_provider_pai._compat import AirflowNotFoundException
from airflow_provider_pai.hooks import PaiHook

if TYPE_CHECKING:
    from airflow_provider_pai.connection import Settings

__all__ = ["REFRESH_SECONDS", "SharedClient", "shared_client"]

REFRESH_SECONDS = 30.0
"""How old a Connection may be before it is read again."""
TURNS = 12
"""How many pages and queries beyond an interval's first page are asked for in any 3 seconds: less than a
quarter of PAI's quota, so that there is room for other triggerers and for the workers.
"""
QUOTA_SECONDS = 3.0

T = TypeVar("T")


class SharedClient:
    """Runs flows for many at once over one pool of connections."""

    def __init__(self, pai_conn_id: str, region: str | None) -> None:
        self._hook = PaiHook(pai_conn_id, region=region)
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._settings: Settings | None = None
        self._client: api.AsyncPaiClient | None = None
        self._retired: api.AsyncPaiClient | None = None
        self._turns = asyncio.Semaphore(TURNS)
        self.users = 0

    async def settings(self) -> Settings:
        """Return what the connection means, read no longer than :data:`REFRESH_SECONDS` ago."""
        settings, _ = await self._current()
        return settings

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to ask once more; it is free again when PAI's quota has forgotten the request."""
        await self._turns.acquire()
        try:
            yield
        finally:
            # From the answer on: when the request arrived, and began to count, only PAI knows.
            asyncio.get_running_loop().call_later(QUOTA_SECONDS, self._turns.release)

    async def located(self, query: api.RunQuery) -> api.RunQuery:
        """Return a query in the connection's workspace, unless it names one itself."""
        if query.workspace_id is not None:
            return query
        workspace_id = (await self.settings()).workspace_id
        return msgspec.structs.replace(query, workspace_id=workspace_id)

    async def run(self, flow: Callable[[], api.Flow[T]]) -> T:
        """Run a flow, made anew where the key turns out to have been rotated meanwhile.

        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        settings, client = await self._current()
        try:
            return await client.run(flow())
        except api.PaiAuthenticationError:
            renewed, client = await self._current(after=settings)
            if renewed == settings:
                raise
            return await client.run(flow())

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, self._retired):
            if client is not None:
                await client.__aexit__(None, None, None)
        self._client = self._retired = None

    async def _current(self, after: Settings | None = None) -> tuple[Settings, api.AsyncPaiClient]:
        """Return the settings and their client; ``after`` are settings that no longer work."""
        async with self._reading:
            outdated = time.monotonic() - self._read_at >= REFRESH_SECONDS
            if self._settings is None or self._client is None or outdated or self._settings == after:
                await self._read()
            assert self._settings is not None and self._client is not None
            return self._settings, self._client

    async def _look_up(self) -> Settings:
        try:
            return await self._hook.asettings()
        except api.PaiError:
            raise
        except AirflowNotFoundException as error:
            raise api.PaiConfigurationError(f"{error}; make the connection again.") from error
        except Exception as error:  # whatever keeps Airflow from telling: its API, its database, a vault
            reason = f"the connection {self._hook.pai_conn_id!r} could not be read: {type(error).__name__}"
            raise api.PaiTransportError(reason, sent=False) from error

    async def _read(self) -> None:
        settings = await self._look_up()
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


_clients: dict[tuple[int, str, str | None], SharedClient] = {}


@asynccontextmanager
async def shared_client(pai_conn_id: str, region: str | None) -> AsyncIterator[SharedClient]:
    """Give the client of a connection to one more user; the last one out closes it."""
    key = (id(asyncio.get_running_loop()), pai_conn_id, region)
    client = _clients.setdefault(key, SharedClient(pai_conn_id, region))
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if client.users == 0:
            del _clients[key]
            await client.close()
