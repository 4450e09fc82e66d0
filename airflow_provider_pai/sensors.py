"""Sensor over PAI's runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._compat import BaseSensorOperator, PokeReturnValue, first_reschedule
from airflow_provider_pai.filters import RunFilterOperator
from airflow_provider_pai.links import PaiRunLink

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api import Run
    from airflow_provider_pai.rules import RunCondition

__all__ = ["PaiRunLink", "PaiRunSensor"]


class PaiRunSensor(RunFilterOperator, BaseSensorOperator):
    """Wait until runs with given labels are there, and push them to XCom.

    Takes the other filters of :class:`~airflow_provider_pai.filters.RunFilterOperator`, those of Airflow's
    sensors (``poke_interval``, ``timeout``, ``mode``, ``soft_fail``, …), and:

    :param labels: labels every awaited run must carry; a run may be labelled long after it was created.
    :param min_runs: how many such runs to wait for.
    :param max_runs: at most so many are pushed, the first in ``order_by``.
    :param fault_tolerance: how many polls in a row may fail in passing (throttled, 5xx, no answer, no JSON;
        each has been tried again already) before the task fails. A poll that failed says neither yes nor no.
    :return: ``[run.to_dict(), …]``, the runs that were there when the wait ended.

    **Example.** A daily DAG run for 2025-10-20 waits with ``labels="is_evaluation:true"``,
    ``created_after="{{ data_interval_start }}"`` and ``poke_interval=60``. A run created at 09:00 that day
    does not count; labelled at 14:30:20 it does, and the poll at 14:31 or before ends the wait. A run of
    the 19th that is labelled on the 20th never counts: it was created before the window.

    In reschedule mode the worker is given back between polls, but not between polls that failed: their
    number in a row has to be remembered, and rescheduling forgets.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str,
        min_runs: int = 1,
        max_runs: int = 100,
        fault_tolerance: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels=labels, **kwargs)
        self.min_runs = min_runs
        self.max_runs = max_runs
        self.fault_tolerance = fault_tolerance
        self._deadline: float | None = None

    @cached_property
    def condition(self) -> RunCondition:
        """What ends the wait; fixed when the task starts."""
        from airflow_provider_pai.rules import RunCondition

        query = self.hook.query(**self.filters())
        return RunCondition(query=query, min_runs=self.min_runs, max_runs=self.max_runs)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once; while PAI cannot be reached ask again, up to ``fault_tolerance`` times in a row."""
        from airflow_provider_pai.hooks import lasting_errors_fail_the_task

        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds_left(context)
        with lasting_errors_fail_the_task():
            runs = self._ask()
            found = self.condition.met_by(runs)
            if found is None:
                self.log.info("%d of %d awaited runs are there.", len(runs), self.min_runs)
                return PokeReturnValue(is_done=False)
            self.push_link(context, runs)
            return PokeReturnValue(is_done=True, xcom_value=found)

    def _ask(self) -> list[Run]:
        from airflow_provider_pai.api import PaiError, list_runs

        condition = self.condition
        faults = 0
        while True:
            try:
                return self.hook.client().run(list_runs(condition.query, max_runs=condition.max_runs))
            except PaiError as error:
                faults += 1
                pause = min(self.poke_interval, (self._deadline or 0.0) - time.monotonic())
                if not error.transient or faults >= self.fault_tolerance:
                    raise
                if pause <= 0:
                    return []  # Airflow's own check of the timeout comes next
                self.log.warning("Poll failed, %d of %d in a row: %s", faults, self.fault_tolerance, error)
                time.sleep(pause)

    def _seconds_left(self, context: Context) -> float:
        started = first_reschedule(context, self.retries or 0) if self.reschedule else None
        waited = (datetime.now(timezone.utc) - started).total_seconds() if started else 0.0
        return float(self.timeout) - waited
