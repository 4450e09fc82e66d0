"""Act on SIGTERM, with which Airflow ends tasks, before the process ends.

Airflow 2 then raises an exception in the task, and kills it a minute later. Airflow 3 raises none: the task
continues, and is killed after 5 seconds. So what has to be sent must be sent at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Termination"]


class Termination:
    """Call ``begin`` on each SIGTERM, then the handler that was there before, then ``wait``.

    So the earlier handler, such as an operator's ``on_kill``, need not wait. If there is none, so that the
    process would end, ``wait`` comes first.

    This works in Python's main thread only, and not in a process that ignores SIGTERM. A forked child calls
    the earlier handler alone.

    :param begin: begins what is to be done, and waits for nothing.
    :param wait: waits for it, and not for long: all else in the main thread waits for this.
    """

    def __init__(self, begin: Callable[[], None], wait: Callable[[], None]) -> None:
        self._calls: tuple[Callable[[], None], Callable[[], None]] | None = begin, wait
        self._process = os.getpid()
        self._before: Any = signal.SIG_IGN
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            if self._before not in (None, signal.SIG_IGN):
                signal.signal(signal.SIGTERM, self._handle)

    def release(self) -> None:
        """Stop calling both. A handler that was set later stays, and this one then passes SIGTERM on."""
        self._calls = None
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._handle
        ):
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        calls = self._calls if os.getpid() == self._process else None
        if calls is not None:
            calls[0]()
        try:
            if callable(self._before):
                self._before(number, frame)
        finally:
            if calls is not None:
                calls[1]()
        if not callable(self._before):
            signal.signal(number, self._before)
            os.kill(os.getpid(), number)
