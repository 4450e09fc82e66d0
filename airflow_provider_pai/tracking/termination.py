"""Be told of SIGTERM, by which Airflow ends tasks, before the process ends.

Airflow 2 raises an exception in the task then, and kills it a minute later. Airflow 3 raises none: the task
goes on, and is killed after 5 seconds. So who has something to say must say it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Termination"]


class Termination:
    """Calls ``act`` on each SIGTERM, then does what was done on it before.

    Only Python's main thread can be told, and a process that ignores SIGTERM is not told. A forked child does
    what was done before, and nothing else.

    :param act: must not wait for long: all else in the main thread waits for it.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act
        self._process = os.getpid()
        self._before: Any = signal.SIG_IGN
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            if self._before not in (None, signal.SIG_IGN):
                signal.signal(signal.SIGTERM, self._handle)

    def release(self) -> None:
        """Tell no longer. Who has asked to be told since stays so, and this passes SIGTERM on."""
        self._act = None
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._handle
        ):
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        if self._act is not None and os.getpid() == self._process:
            self._act()
        if callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(number, self._before)
            os.kill(os.getpid(), number)
