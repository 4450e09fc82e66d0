"""The sync transport's connections: those of requests and urllib3, with limits that these do not have.

requests limits only the silence between two reads. These connections read until the attempt's deadline,
whatever is read: headers, bodies, and a proxy's answer. They also note when the request begins to leave.
"""

from __future__ import annotations

import io
import math
import socket
import ssl
import time
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    ProxyManager,
    Timeout,
)
from urllib3.connection import HTTPConnection, HTTPSConnection

from airflow_provider_pai.api import wire
from airflow_provider_pai.api.network import Proxy
from airflow_provider_pai.api.wire import CONNECT_SECONDS, READ_SECONDS, Attempt, current

__all__ = ["Connections"]


class _Reader(io.RawIOBase):
    """Reads a connection until the deadline of the attempt that reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = current.get().left
        if left <= 0:
            raise TimeoutError("the whole answer did not arrive within the time limit")
        self._connection.settimeout(min(READ_SECONDS, left))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, **kwargs: Any) -> None:
        reading = SimpleNamespace(makefile=lambda mode: io.BufferedReader(_Reader(connection)))
        super().__init__(reading, *args, **kwargs)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:  # such as 103 Early Hints: the answer is still to come
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class _Noted(HTTPConnection):
    response_class = _Response
    _used_at = -math.inf

    @property
    def is_connected(self) -> bool:
        """Whether the pool may use this connection again: not after so long that a gateway forgot it."""
        return time.monotonic() - self._used_at < wire.IDLE_SECONDS and super().is_connected

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        current.get().sent = True
        self._used_at = time.monotonic()
        super().endheaders(*args, **kwargs)


class _NotedHttps(_Noted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Noted


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _NotedHttps


class Connections(HTTPAdapter):
    """The kept connections to an endpoint. They send nothing twice, follow no redirect and keep no cookie.

    :param tls: whom they trust; ``None`` where nothing is encrypted.
    """

    _pool: HTTPConnectionPool

    def __init__(self, endpoint: str, proxy: Proxy | None, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._endpoint = endpoint
        self._proxy = proxy
        super().__init__(max_retries=0)

    def exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes, attempt: Attempt
    ) -> BaseHTTPResponse:
        """Send a request to the endpoint, and return the answer with its body unread.

        This does without requests' ``send``, which would parse the URL again, look for cookies and for an
        encoding, and wrap every error once more.
        """
        limits = Timeout(min(CONNECT_SECONDS, attempt.limit), min(READ_SECONDS, attempt.limit))
        if self._proxy is None or not url.startswith("http:"):
            url = url.removeprefix(self._endpoint)  # a proxy that passes plain HTTP on needs all of it
        return self._pool.urlopen(
            method,
            url,
            body or None,
            headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=limits,
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        """Close the kept connections; others are opened if there is another request.

        At once, since urllib3 closes them when it is collected, where Python drops an Airflow timeout that
        comes just then.
        """
        self._pool.close()
        super().close()
        self._pool = self.poolmanager.connection_from_url(self._endpoint)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **_: Any) -> None:
        """Make the one pool that there is."""
        options: dict[str, Any] = {"maxsize": maxsize, "block": block, "ssl_context": self.tls}
        if self._proxy is not None:
            login = self._proxy.headers
            self.poolmanager = ProxyManager(
                self._proxy.url, proxy_headers=login, proxy_ssl_context=self.tls, **options
            )
        else:
            self.poolmanager = PoolManager(**options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _HttpsPool}
        self._pool = self.poolmanager.connection_from_url(self._endpoint)
