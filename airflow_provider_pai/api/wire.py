"""One attempt under way, the same for both transports: its deadline, whether it was sent, and its answer.

The transports find the attempt in a context variable, because the connections that they use are made deep in
libraries which pass nothing on.
"""

from __future__ import annotations

import functools
import platform
import time
import zlib
from contextlib import suppress
from contextvars import ContextVar
from importlib import metadata

from airflow_provider_pai import __version__
from airflow_provider_pai.api.errors import PaiResponseError

__all__ = [
    "ACCEPTED_ENCODINGS",
    "CONNECT_SECONDS",
    "IDLE_SECONDS",
    "MAX_BODY_BYTES",
    "READ_SECONDS",
    "Attempt",
    "Body",
    "current",
    "user_agent",
]

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
"""How long PAI may be silent before or within an answer."""
IDLE_SECONDS = 15.0
"""How long an unused connection is kept. Gateways forget one after a minute or less, without a word."""
MAX_BODY_BYTES = 8 * 1024 * 1024
"""How large an answer may be, uncompressed: decoding this much takes at most a second."""
ACCEPTED_ENCODINGS = "gzip, deflate"


class Attempt:
    """What is known of the attempt that runs now.

    :param limit: the seconds that it may take.
    """

    def __init__(self, limit: float) -> None:
        self.started = time.monotonic()
        self.limit = limit
        self.sent = False
        """Whether the first byte of the request may have left. A proxy's refusal comes before it."""

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.started + self.limit - time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self.started


@functools.cache
def user_agent() -> str:
    """Return who asks, for PAI's audit log: this provider, Airflow if it is installed, and Python."""
    versions = {"airflow-provider-pai": __version__}
    with suppress(metadata.PackageNotFoundError):  # read from its metadata: nothing here imports Airflow
        versions["apache-airflow"] = metadata.version("apache-airflow")
    versions["python"] = platform.python_version()
    return " ".join(f"{name}/{version}" for name, version in versions.items())


current: ContextVar[Attempt] = ContextVar("current")


class Body:
    """Collects an answer's body and unpacks it, within :data:`MAX_BODY_BYTES`.

    :param encoding: the answer's Content-Encoding. An unknown one leaves the bytes as they are.
    """

    def __init__(self, status: int, encoding: str) -> None:
        self._status = status
        self._encoding = encoding.strip().lower()
        self._chunks: list[bytes] = []
        self._size = 0
        self._packed = self._encoding in ("gzip", "x-gzip", "deflate")
        self._unpacking: zlib._Decompress | None = None  # from the first byte on

    def add(self, chunk: bytes) -> None:
        """Take what was received.

        :raises PaiResponseError: the answer is larger than it may be.
        :raises ValueError: it is not packed as it says.
        """
        if self._packed and chunk:
            chunk = self._unpacked(chunk)
        self._size += len(chunk)
        if self._size > MAX_BODY_BYTES:
            raise PaiResponseError(
                f"The answer is larger than {MAX_BODY_BYTES} bytes. Ask for smaller pages",
                status=self._status,
            )
        self._chunks.append(chunk)

    def whole(self) -> bytes:
        """Return the body.

        :raises ValueError: a part of it is missing.
        """
        if self._unpacking is not None and not self._unpacking.eof:
            raise ValueError("the packed answer is not complete")
        return b"".join(self._chunks)

    def _unpacked(self, chunk: bytes) -> bytes:
        if self._unpacking is None:
            self._unpacking = zlib.decompressobj(self._window(chunk[0]))
        try:
            # One byte more than is allowed, and no more: a megabyte can unpack to a gigabyte.
            return self._unpacking.decompress(chunk, MAX_BODY_BYTES - self._size + 1)
        except zlib.error as error:
            raise ValueError(f"the answer is not {self._encoding}: {error}") from None

    def _window(self, first: int) -> int:
        if self._encoding != "deflate":
            return 16 + zlib.MAX_WBITS
        return zlib.MAX_WBITS if first & 0xF == 8 else -zlib.MAX_WBITS  # some servers leave zlib's head out
