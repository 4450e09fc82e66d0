"""A run that is written while something trains: values are gathered, and a thread sends them in batches.

Imports no Airflow. How a repeated task finds its run again: :mod:`airflow_provider_pai.tracking.identity`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from math import inf, isfinite
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_provider_pai.api.errors import PaiApiError, PaiError, PaiTransportError, PaiUsageError
from airflow_provider_pai.api.flow import begun
from airflow_provider_pai.api.metrics import MetricEntry, log_metric_entries, metric_entry
from airflow_provider_pai.api.operations import set_run_labels
from airflow_provider_pai.api.query import Labels
from airflow_provider_pai.tracking.termination import Termination

if TYPE_CHECKING:
    from airflow_provider_pai.api.client import PaiClient

__all__ = ["STATE", "TrackedRun"]

log = logging.getLogger(__name__)

STATE = "airflow_state"
"""The label that says how it ended: ``running``, ``success``, ``failed`` or ``skipped``."""
BATCH = 2000
"""How many values one request carries."""
MOST_REFUSALS = 50
"""How many refused requests in a row look for the values that PAI refuses."""
MORE_AFTER = 10
"""After so many accepted requests the next one may carry twice as many values."""
SEND_SECONDS = 5.0
"""How long a value waits for others."""
RETRY_SECONDS = 2.0
MOST_WAITING = 100_000
"""How many values are kept for a PAI that does not answer; the log counts those that are left out."""
DELIVERY_SECONDS = 120.0
"""How long the end waits until the rest is delivered."""
TERMINATED_SECONDS = 30.0
"""The same after a SIGTERM, and then for the label too: Airflow 2 kills a task 60 seconds after it."""
NOTICE_SECONDS = 4.0
"""How long a SIGTERM waits for the label ``failed`` and the rest: Airflow 3 kills a task 5 seconds later."""


class TrackedRun:
    """A run of PAI's, to log values to: as a context manager it also says how it ended.

    :param client: a client of its own, which the end closes.
    :param run_id: the run.
    :param strict: whether values that could not be delivered fail the task.
    :param ended: is called when it has ended.
    """

    def __init__(
        self,
        client: PaiClient,
        run_id: str,
        experiment_id: str,
        *,
        strict: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._client = client
        self._strict = strict
        self._ended = ended
        self._waiting: list[MetricEntry] = []
        self._checked: set[str] = set()
        self._most = BATCH
        """How many values a request carries at most."""
        self._refused_keys: set[str] = set()
        self._refusals = self._accepted = 0
        """How many requests PAI refused, or accepted, one after another."""
        self._done = 0
        """How many values wait no longer."""
        self._hurry_to = 0.0
        """How many of all values must not wait for others."""
        self._lost = 0
        self._error = ""
        self._lock = threading.RLock()
        """Taken without the condition where a training logs: entering that is a call in Python."""
        self._wake = threading.Condition(self._lock)
        self._deadline: float | None = None
        self._writer: threading.Thread | None = None
        self._process = os.getpid()
        self._over = False
        self._until: float | None = None
        """After a SIGTERM: when all must be over."""
        self._notice: threading.Thread | None = None
        self._said = ""
        self._termination = Termination(self._terminated, self._wait_terminated)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one value for each metric, at one step. Never waits for PAI.

        :raises PaiUsageError: a value that is not a finite number, or a step that is not a whole number; or a
            call in a forked process, where no thread would send it.
        """
        if self._process != os.getpid():
            raise PaiUsageError(
                f"the run {self.run_id} was opened by the process {self._process}, and this is another, "
                f"{os.getpid()}: hand the values to that one, for example through a multiprocessing.Queue, "
                "and log them there."
            )
        now = int(time.time() * 1000)
        right = step is None or (type(step) is int and step >= 0)
        entries = [
            # A training logs in each of its steps, so what is plainly right costs little.
            MetricEntry(key, value, step, now)
            if right and key in self._checked and type(value) is float and isfinite(value)
            else metric_entry(key, value, step, now)
            for key, value in metrics.items()
        ]
        self._checked.update(metrics)
        if self._refused_keys:
            entries = [each for each in entries if each.key not in self._refused_keys]
        with self._lock:
            if self._deadline is not None:
                raise PaiUsageError(f"the run {self.run_id} has ended; log to it inside of its with block.")
            self._lost += len(metrics) - len(entries)
            self._waiting += entries
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="pai-run", daemon=True)
                self._writer.start()
            if len(self._waiting) >= self._most:
                self._lost += max(0, len(self._waiting) - MOST_WAITING)
                del self._waiting[MOST_WAITING:]
                self._wake.notify_all()

    def set_labels(self, labels: Labels) -> None:
        """Add or change labels; all others stay.

        Values that were logged before are delivered first, so that whoever waits for a label finds them.

        :raises PaiTransportError: it was not delivered in two minutes, and the labels are not set.
        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        if self._process == os.getpid() and not self._delivered():
            text = f"the labels are not set, because values logged before are not delivered: {self._error}"
            raise PaiTransportError(text, sent=False)
        self._client.run(set_run_labels(self.run_id, labels))

    def _delivered(self) -> bool:
        """Wait, for ``DELIVERY_SECONDS`` at most, until all values of now are delivered or given up."""
        with self._wake:
            goal = self._done + len(self._waiting)
            self._hurry_to = max(self._hurry_to, goal)
            self._wake.notify_all()
            return self._wake.wait_for(lambda: self._done >= goal, DELIVERY_SECONDS)

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        skipped = kind is not None and kind.__name__ == "AirflowSkipException"
        state = "success" if kind is None else "skipped" if skipped else "failed"
        self.end(state, raising=kind is None)

    def end(self, state: str, *, raising: bool = True) -> None:
        """Deliver what is left, and set the label that says how it ended.

        :param state: ``success``, ``failed`` or ``skipped``.
        :param raising: False where another error is on its way, which must not be hidden.
        :raises PaiTransportError: with ``strict``, values could not be delivered.
        """
        if self._over or self._process != os.getpid():
            return  # a process that was forked leaves the block too, and the run goes on without it
        try:
            self._deliver()
            left = DELIVERY_SECONDS if self._until is None else self._until - time.monotonic()
            self._say(state)
            self._wait_said(max(NOTICE_SECONDS, left))
        finally:
            self._over = True
            self._termination.release()
            self._ended()
            self._client.close()
        if self._lost:
            lost = "1 value" if self._lost == 1 else f"{self._lost} values"
            text = f"{lost} of the run {self.run_id} could not be delivered: {self._error}"
            if self._strict and raising:
                raise PaiTransportError(text, sent=True)
            log.error("%s", text)

    def _deliver(self) -> None:
        with self._wake:
            self._deadline = time.monotonic() + DELIVERY_SECONDS
            if self._until is not None:
                self._deadline = min(self._deadline, self._until)
            self._wake.notify_all()
        writer = self._writer
        while writer is not None and writer.is_alive() and not self._is_over():
            writer.join(0.1)  # a SIGTERM may bring the end forward
        self._give_up()

    def _give_up(self) -> None:
        with self._wake:
            self._lost += len(self._waiting)
            self._take(len(self._waiting))

    def _take(self, number: int) -> None:
        """Remove this many of the first values from those that wait."""
        number = min(number, len(self._waiting))  # none where the end has given them up
        del self._waiting[:number]
        self._done += number
        self._wake.notify_all()

    def _say(self, state: str) -> None:
        """Let a thread set the label that says how it ended.

        It may be wanted in the middle of anything, while this thread holds a lock that a request needs.
        """
        self._notice = threading.Thread(
            target=self._label, args=(state, self._notice), name="pai-run-label", daemon=True
        )
        self._notice.start()

    def _wait_said(self, seconds: float) -> None:
        notice = self._notice
        if notice is None:
            return
        notice.join(seconds)
        if notice.is_alive():
            log.warning("PAI has not yet set the label %s of the run %s.", STATE, self.run_id)

    def _label(self, state: str, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        if state == self._said:
            return
        try:
            self._client.run(set_run_labels(self.run_id, {STATE: state}))
            self._said = state
        except PaiError:
            log.warning("The run %s did not get the label %s:%s.", self.run_id, STATE, state, exc_info=True)

    def _terminated(self) -> None:
        """Say at once that it failed, and send what waits: nobody knows how long this process still has.

        If the process continues in spite of it, the end sets the label again.
        """
        with self._wake:
            self._until = time.monotonic() + TERMINATED_SECONDS
            if self._deadline is not None:
                self._deadline = min(self._deadline, self._until)
            self._hurry_to = inf
            self._wake.notify_all()
        self._say("failed")

    def _wait_terminated(self) -> None:
        limit = time.monotonic() + NOTICE_SECONDS
        self._wait_said(NOTICE_SECONDS)
        while self._waiting and time.monotonic() < limit:
            time.sleep(0.05)  # not on the condition, whose lock this thread may hold

    def _write(self) -> None:
        """Send batches until the end, or until the time for it is over."""
        while True:
            with self._wake:
                self._wake.wait_for(self._is_due, SEND_SECONDS)
                batch = self._waiting[: self._most]
                ending = self._deadline is not None
            if not batch:
                if ending:
                    return
                continue
            if done := self._sent(batch):
                with self._wake:
                    self._take(done)
            elif self._is_over():
                self._give_up()
                return

    def _sent(self, batch: list[MetricEntry]) -> int:
        """Send a batch, and return how many of its values wait no longer.

        A value that is sent twice, since an answer was lost, changes no decision.
        """
        try:
            self._client.run(begun(log_metric_entries(self.run_id, batch)))
        except PaiError as error:
            self._error = f"{type(error).__name__}: {error}"
            if not error.transient:
                return self._refused(batch, error)
            log.warning("Values wait to be sent again: %s", self._error)
            with self._wake:
                self._wake.wait_for(self._is_over, RETRY_SECONDS)
            return 0
        self._refusals, self._accepted = 0, self._accepted + 1
        if self._accepted % MORE_AFTER == 0:
            self._most = min(BATCH, 2 * self._most)
        return len(batch)

    def _refused(self, batch: list[MetricEntry], error: PaiError) -> int:
        """Give up what PAI refuses for good, and return how many values wait no longer.

        PAI does not say how many values a request may carry, nor which one it refuses. So a batch is halved
        until one value is left, whose metric is not sent any more. Where PAI goes on to refuse, which is then
        not about a metric, each batch is given up as a whole.
        """
        self._refusals, self._accepted = self._refusals + 1, 0
        if type(error) is PaiApiError and self._refusals < MOST_REFUSALS:
            if len(batch) > 1:
                self._most = len(batch) // 2
                return 0
            with self._wake:
                self._refused_keys.add(batch[0].key)
                kept = [each for each in self._waiting if each.key != batch[0].key]
                self._lost += len(self._waiting) - len(kept)
                self._done += len(self._waiting) - len(kept)
                self._waiting = kept
                self._wake.notify_all()
            self._most = BATCH
            return 0
        self._lost += len(batch)
        self._most = BATCH
        return len(batch)

    def _is_due(self) -> bool:
        waiting = len(self._waiting)
        return (
            waiting >= self._most
            or self._deadline is not None
            or (waiting > 0 and self._done < self._hurry_to)
        )

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
