"""The emulator in this process: an account, its API on a loopback port, and methods to disturb it."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from aiohttp import web

from . import control
from .account import Account
from .errors import RefusedError
from .faults import Fault, FaultPlan, Quirks
from .origin import foreign
from .routes import Service
from .signature import Key, Verifier
from .wire import RecordedRequest, Wire

HOST = "127.0.0.1"
REGION = "cn-hangzhou"
_GRACE = 0.05  # seconds for pending answers when the emulator stops


class PaiEmulator(Account):
    """A local PAI. Use it as a context manager, or call `start` and `stop`.

    Besides its own methods it has those of `Account`, which arrange what is stored. Any thread may call all
    of them.

    :param port: 0 picks a free port.
    :param db: the path of an SQLite file, or `:memory:`.
    """

    def __init__(
        self,
        port: int = 0,
        db: str | Path = ":memory:",
        access_key_id: str = "emulator",
        access_key_secret: str = "emulator-secret",
        quirks: Quirks | None = None,
    ) -> None:
        super().__init__(db)
        self.port = port
        self.access_key_id = access_key_id
        self.access_key_secret = access_key_secret
        self.quirks = quirks or Quirks()
        self._verifier = Verifier()
        self._faults = FaultPlan()
        self._wire = Wire(Service(self, self.quirks), self._verifier, self._faults)
        self._control = control.Control(self._wire, self._verifier, self._faults)
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errors: list[BaseException] = []
        self.accept(access_key_id, access_key_secret)

    def __enter__(self) -> PaiEmulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> PaiEmulator:
        """Serve in a thread, and return once the server answers requests.

        :raises OSError: the port is in use.
        """
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="pai-emulator", daemon=True
        )
        self._thread.start()
        try:
            self.port = started.result(timeout=30)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop at once, pending answers included, and close the database. A second call does nothing.

        :raises BaseException: what a callback of `later` or `before_request` has raised. Of several the first
            is raised, and the others are printed.
        """
        self._stop()
        if self._thread is not None:
            self._thread.join(timeout=30)
        self._stop, self._thread, self._loop = (lambda: None), None, None
        self.state.close()
        errors, self._errors = self._errors, []
        for error in errors[1:]:
            traceback.print_exception(error)
        if errors:
            raise errors[0]

    async def _serve(self, started: Future[int]) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=_GRACE)
        try:
            await runner.setup()
            await web.TCPSite(runner, HOST, self.port, backlog=1024).start()
        except BaseException as error:
            await runner.cleanup()
            started.set_exception(error)
            return
        self._loop, self._stop = loop, lambda: loop.call_soon_threadsafe(stopped.set)
        started.set_result(runner.addresses[0][1])
        await stopped.wait()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        reason = foreign(request.raw_headers, HOST)
        if reason:  # in a form that both the control endpoints' clients and PAI's read
            refusal = {"error": reason, "Code": "Forbidden.Origin", "Message": reason}
            return web.json_response(refusal, status=403)
        if request.raw_path.startswith(control.PREFIX):
            return await self._control.handle(request)
        return await self._wire.handle(request)

    @property
    def host_port(self) -> str:
        """`127.0.0.1:PORT`, an endpoint as the official SDK takes it (with protocol http)."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{self.host_port}"

    @property
    def connection_uri(self) -> str:
        """An Airflow connection URI. Its second scheme makes Airflow read the host as a URL."""
        login, password = quote(self.access_key_id, safe=""), quote(self.access_key_secret, safe="")
        return (
            f"pai://http://{login}:{password}@{self.host_port}/"
            f"?region={REGION}&workspace_id={self.workspace_id}"
        )

    def accept(
        self,
        access_key_id: str,
        access_key_secret: str = "",
        *,
        security_token: str | None = None,
        expires_at: float | None = None,
        bearer_token: str | None = None,
    ) -> None:
        """Accept one more credential: an access key, an STS triple, or a bearer token.

        :param expires_at: unix time after which the security or bearer token is refused.
        """
        self._verifier.accept(Key(access_key_id, access_key_secret, security_token, expires_at, bearer_token))

    def revoke(self, access_key_id: str) -> None:
        """Stop accepting `access_key_id`."""
        self._verifier.revoke(access_key_id)

    @property
    def clock_offset(self) -> float:
        """Seconds by which the emulator's clock is ahead: Date header, skew check, creation times."""
        return self.clock.offset

    @clock_offset.setter
    def clock_offset(self, seconds: float) -> None:
        self.clock.offset = seconds

    def inject(self, *faults: Fault | str, **fields: Any) -> None:
        """Add faults; `inject("throttle", times=2)` is short for `inject(Fault("throttle", times=2))`."""
        self._faults.add(Fault(fault, **fields) if isinstance(fault, str) else fault for fault in faults)

    def clear_faults(self) -> None:
        """Remove all faults that have not happened yet."""
        self._faults.clear()

    def before_request(self, callback: Callable[[str, int], object] | None) -> None:
        """Call `callback(action, count)` before each answer. None ends this.

        `count` is the number of requests of that action, this one included. The request waits for the
        callback, which runs in a thread and may use the emulator as a test does. What it raises is treated as
        by `later`.
        """
        self._wire.before_request = None if callback is None else partial(self._call, callback)

    def later(self, seconds: float, change: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call `change(*args, **kwargs)` so many seconds from now, while the emulator runs.

        A wait then ends as it does in production, by what happens meanwhile::

            pai_emulator.later(1, pai_emulator.label_run, run_id, {"is_evaluation": "true"})

        The call runs in a thread. Where it raises, the emulator refuses every request from then on, so that
        nobody waits for what does not come, and `stop` raises the exception: with the fixture the test fails.
        A change that is not due yet when the emulator stops does not happen.

        :raises ValueError: a time before now.
        :raises RuntimeError: the emulator does not run.
        """
        if not seconds >= 0:
            raise ValueError(f"later takes seconds from now, 0 or more, not {seconds!r}")
        if self._loop is None:
            raise RuntimeError("later needs a running emulator: use it as a context manager, or call start")
        asyncio.run_coroutine_threadsafe(
            self._later(seconds, partial(self._call, change, *args, **kwargs)), self._loop
        )

    @staticmethod
    async def _later(seconds: float, call: Callable[[], object]) -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(call)

    def _call(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        try:
            callback(*args, **kwargs)
        except BaseException as error:  # pytest.fail raises no Exception
            self._errors.append(error)
            self._wire.broken = RefusedError(
                400, "CallbackFailed", f"The test's own callback failed: {type(error).__name__}: {error}"
            )

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last 1000 requests, oldest first."""
        return list(self._wire.requests)

    @property
    def request_counts(self) -> dict[str, int]:
        """How many requests of each action there were, with no limit."""
        return dict(self._wire.counts)

    @property
    def busiest(self) -> dict[str, int]:
        """The largest number of requests of each action in any 3 seconds, over which PAI counts its quota."""
        return dict(self._wire.busiest)

    def clear_requests(self) -> None:
        """Clear the record of requests."""
        self._wire.forget_requests()
