"""The sync transport's connections: those of requests and urllib3, with limits that these do not have.

requests limits only the silence between two reads. These connections read until the attempt's deadline,
whatever is read: headers, bodies, and a proxy's answer. They also note when the request begins to leave.
"""

from __future__ import annotations

import io
import socket
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from airflow_provider_pai.api.network import Proxy
from airflow_provider_pai.api.wire import READ_SECONDS, current

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


class _Noted(HTTPConnection):
    response_class = _Response

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        current.get().sent = True
        super().endheaders(*args, **kwargs)


class _NotedHttps(_Noted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Noted


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _NotedHttps


_POOLS = {"http": _Pool, "https": _HttpsPool}


class Connections(HTTPAdapter):
    """The kept connections to an endpoint. They send nothing twice, follow no redirect and keep no cookie."""

    def __init__(self, proxy: Proxy | None) -> None:
        super().__init__(max_retries=0)
        self.proxies = {} if proxy is None else {"all": proxy.url}
        self._proxy = proxy

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make what holds the connections that use no proxy."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Return what holds the connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def proxy_headers(self, proxy: Any) -> dict[str, str]:
        """Return the headers of a CONNECT."""
        return {} if self._proxy is None else dict(self._proxy.headers)
