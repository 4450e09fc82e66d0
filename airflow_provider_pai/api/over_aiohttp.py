"""The async transport's connections: those of aiohttp, which send nothing a second time by themselves.

This module is imported when a client opens: aiohttp's import takes longer than that of this whole package,
and a task that runs only the sync client should not wait for it.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from airflow_provider_pai.api import wire
from airflow_provider_pai.api.wire import CONNECT_SECONDS, READ_SECONDS, current

__all__ = ["opened", "timeout"]


class _Connector(aiohttp.TCPConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        attempt = current.get()
        if attempt.sent:
            # Where a kept connection breaks, aiohttp sends a GET again by itself, with the same signature and
            # nonce. Every attempt must be signed afresh, so the flow decides.
            raise aiohttp.ClientConnectionError("the connection broke before an answer came")
        connection = await super().connect(*args, **kwargs)
        attempt.sent = True
        return connection


def opened() -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and leaves bodies packed."""
    return aiohttp.ClientSession(
        connector=_Connector(keepalive_timeout=wire.IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


def timeout(limit: float) -> aiohttp.ClientTimeout:
    """Return the limits of one attempt."""
    return aiohttp.ClientTimeout(total=limit, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
