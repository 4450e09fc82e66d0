"""Signals end the command, but not its clean-up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Signals"]


class Interrupted(BaseException):
    """A signal asked to stop. Not an Exception, so that no ``except Exception`` catches it."""


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into :class:`Interrupted`, only inside :meth:`raising`.

    Outside, a signal is counted, and raised as soon as a block of :meth:`raising` begins. So no signal can
    strike between the end of the checks and the start of the clean-up.
    """

    def __init__(self) -> None:
        self.last = 0
        """The number of the last signal, or 0."""
        self._count = 0
        self._enough: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raising(self, *, at: int) -> Iterator[None]:
        """Raise :class:`Interrupted` within this block once ``at`` signals have come in total."""
        self._enough = at
        try:
            self._raise_if_enough()
            yield
        finally:
            self._enough = None

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.last = number
        self._count += 1
        self._raise_if_enough()

    def _raise_if_enough(self) -> None:
        if self._enough is not None and self._count >= self._enough:
            self._enough = None  # the next signal must not interrupt the handling of this one
            raise Interrupted
