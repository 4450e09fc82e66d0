"""Sensor over PAI's runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import FILTERS, RunFilterOperator, is_later
from airflow_provider_pai._compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    default_deferrable,
    first_reschedule,
    starts_in_triggerer,
)

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api import PaiClient, Run
    from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.waiting.condition import RunCondition

__all__ = ["PaiRunSensor"]

PINNING_TASKS = 20
"""How many tasks of a mapped sensor ask for a baseline, and how many others share one after that."""


class PaiRunSensor(RunFilterOperator, BaseSensorOperator):
    """Wait until runs with given labels are there, and push them to XCom.

    Takes the other filters of :class:`~airflow_provider_pai._base.RunFilterOperator`, those of Airflow's
    sensors (``poke_interval``, ``timeout``, ``mode``, ``soft_fail``, …), and:

    :param labels: labels every awaited run must carry; a run may be labelled long after it was created.
    :param min_runs: how many such runs to wait for.
    :param max_runs: at most so many are pushed, the first in ``order_by``; 100, or ``min_runs`` where that
        is more.
    :param metrics: only runs count whose last values meet these rules: ``{"accuracy": ">= 0.9"}``.
    :param fault_tolerance: how many polls in a row may fail in passing (throttled, 5xx, no answer, no JSON;
        each has been tried again already) before the task fails. A poll that failed says neither yes nor no.
    :param deferrable: ask once, then wait in the triggerer, without a worker. On Airflow 3.3 all waits for
        the same labels share one poll. Default: ``[operators] default_deferrable``.
    :param end_from_trigger: let the triggerer end the task too; a failure still goes through a worker, so
        that ``retries``, ``soft_fail`` and callbacks mean what they always do.
    :param start_from_trigger: let the triggerer start the task too, where it is not mapped. Needs Airflow
        3.3; without templates 2.10, 2.11 and 3.0 will do. Takes no other task's output.
    :return: ``[run.to_dict(), …]``, the runs that were there when the wait ended.
    :raises PaiUsageError: when the DAG is parsed: ``metrics`` that are no rules, or a ``start_from_trigger``
        that this Airflow lacks.

    **Example.** A daily DAG run for 2025-10-20 waits with ``labels="is_evaluation:true"``,
    ``created_after="{{ data_interval_start }}"``, ``poke_interval=60`` and ``timeout=3600``. The task starts
    at 14:00:00 and asks at once. A run created at 09:00 that day is labelled at 14:30:20: the poll at
    14:31:00 or before finds it. A run of the 19th that is labelled on the 20th never counts, since it was
    created before the window. Without any, the task times out at 15:00:00.

    **In every mode the same.** A timeout is an ``AirflowSensorTimeout``, or a skip with ``soft_fail``. What
    asking again cannot mend fails the task at once, or skips it with ``soft_fail`` or ``never_fail``. Too
    many failed polls in a row fail this try, skip the task with ``never_fail``, and are waited through with
    ``silent_fail``. In reschedule mode the worker is given back between polls, but not between polls that
    failed: their number in a row has to be remembered, and rescheduling forgets.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str,
        min_runs: int = 1,
        max_runs: int | None = None,
        metrics: MetricRules | None = None,
        fault_tolerance: int = 10,
        deferrable: bool | None = None,
        end_from_trigger: bool = False,
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels=labels, **kwargs)
        self.min_runs = min_runs
        self.max_runs = max(100, min_runs) if max_runs is None else max_runs
        self.metrics = metrics
        self.fault_tolerance = fault_tolerance
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.end_from_trigger = end_from_trigger
        if metrics is not None:
            from airflow_provider_pai.gating.rules import wait_rules

            wait_rules(metrics)  # a mistake shows when the DAG is parsed
        self._deadline: float | None = None
        if self.deferrable and start_from_trigger:
            from airflow_provider_pai._compat import StartTriggerArgs

            self._check_start_from_trigger()
            self.start_from_trigger = True
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls="airflow_provider_pai.triggers.PaiRunTrigger",
                trigger_kwargs=self._trigger_arguments(),
                next_method="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )

    def _check_start_from_trigger(self) -> None:
        from airflow_provider_pai.api.errors import PaiUsageError

        templated = [name for name in self.template_fields if is_later(getattr(self, name))]
        if not starts_in_triggerer(templates=bool(templated)):
            given = f" Templates are in {', '.join(templated)}." if templated else ""
            raise PaiUsageError(
                "start_from_trigger needs Airflow 3.3; without templates 2.10, 2.11 and 3.0 will do."
                f"{given} Leave it out, and the wait starts in a worker."
            )
        for name, value in self._trigger_arguments().items():
            try:
                json.dumps(value)
            except TypeError:  # what another task hands on
                raise PaiUsageError(
                    f"start_from_trigger: {name}={value!r} cannot go to the triggerer, which takes "
                    "plain values and templates. Leave it out, and the wait starts in a worker."
                ) from None

    @cached_property
    def condition(self) -> RunCondition:
        """What ends the wait; fixed when the task starts."""
        from airflow_provider_pai.waiting.condition import RunCondition

        return RunCondition(
            query=self.hook.query(**self.filters()),
            min_runs=self.min_runs,
            max_runs=self.max_runs,
            metrics=dict(self.metrics) if self.metrics is not None else None,
        )

    def execute(self, context: Context) -> Any:
        """Wait: in this worker, or after one look in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        import msgspec

        from airflow_provider_pai.api import PaiError
        from airflow_provider_pai.triggers import PaiRunTrigger
        from airflow_provider_pai.waiting.listing import pin_baseline

        arguments = self._trigger_arguments()
        try:
            with self._connected() as client:
                # Before the look: what changes from here on, the triggerer can tell from what it was.
                baseline = client.run(pin_baseline(self.condition.query)) if self._pins(context) else None
                runs, met, asked = self._look(client, context)
        except AirflowFailException as error:
            raise self._failure(str(error), lasting=True) from error
        except PaiError as error:
            self.log.warning("The first look failed, the triggerer will look again: %s", error)
        else:
            if met is not None:
                return met
            arguments["baseline"] = msgspec.to_builtins(baseline)
            if not (runs and self.metrics):  # to which values may be logged, which shows in no count of runs
                arguments["asked"] = msgspec.to_builtins(asked)
        arguments["workspace_id"] = self.condition.query.workspace_id
        self.defer(
            trigger=PaiRunTrigger(**arguments),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Context, event: Any) -> list[dict[str, Any]] | None:
        """Return the runs that the trigger found, or fail as its event says."""
        from airflow_provider_pai.api import Run

        if not isinstance(event, dict):  # `dag.test()` resumes even a task that its trigger has ended
            with self._connected() as client:
                return self._look(client, context)[1]
        if event["status"] != "met":
            raise self._failure(event["error"], lasting=event["lasting"])
        runs: list[dict[str, Any]] = event["runs"]
        self.push_link(context, [Run.from_dict(runs[0])])
        self.log.info("%d awaited runs are there.", len(runs))
        return runs

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> list[dict[str, Any]] | None:
        """Come back from the triggerer; a timeout means here what it means in the other modes."""
        # Airflow's own differs by version in what soft_fail and never_fail do to a deferred timeout.
        if next_method == "execute_complete":
            return self.execute_complete(context, **(next_kwargs or {}))
        error = str((next_kwargs or {}).get("error", "unknown"))
        if "timeout" not in error.lower():
            raise self._failure(f"The trigger failed: {error}", lasting=False)
        message = f"No {self.min_runs} awaited runs within {self.timeout:g} seconds."
        raise AirflowSkipException(message) if self.soft_fail else AirflowSensorTimeout(message)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask; while PAI cannot be reached ask again, up to ``fault_tolerance`` times in a row."""
        from airflow_provider_pai.api import PaiError

        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds_left(context)
        faults = 0
        while True:
            try:
                with self._connected() as client:
                    _, met, _ = self._look(client, context)
                return PokeReturnValue(is_done=met is not None, xcom_value=met)
            except PaiError as error:
                faults += 1
                if faults >= self.fault_tolerance:
                    raise
                pause = min(self.poke_interval, self._deadline - time.monotonic())
                if pause <= 0:
                    return PokeReturnValue(is_done=False)  # Airflow's own check of the timeout comes next
                self.log.warning("Poll failed, %d of %d in a row: %s", faults, self.fault_tolerance, error)
                time.sleep(pause)

    @staticmethod
    def _pins(context: Context) -> bool:
        """Tell whether to ask for a baseline. Mapped tasks start in bursts, of which some ask for all."""
        from airflow_provider_pai._compat import SHARES_POLLS

        index = (context["ti"].map_index if "ti" in context else None) or 0
        return SHARES_POLLS and (index < PINNING_TASKS or index % PINNING_TASKS == 0)

    @contextmanager
    def _connected(self) -> Iterator[PaiClient]:
        """Ask over the connection as it is now, so that a rotated key or a deleted connection is noticed.

        :raises AirflowFailException: asking again cannot help.
        :raises PaiError: this poll failed in passing.
        """
        from airflow_provider_pai.hooks import lasting_errors_fail_the_task

        self.__dict__.pop("hook", None)
        try:
            with lasting_errors_fail_the_task():
                yield self.hook.client()
        finally:
            self.hook.close()

    def _look(
        self, client: PaiClient, context: Context
    ) -> tuple[list[Run], list[dict[str, Any]] | None, datetime | None]:
        """Ask once; return what was found, what goes to XCom once it is enough, and since when it holds."""
        from airflow_provider_pai.api import Run, list_runs
        from airflow_provider_pai.waiting.listing import asked_at

        flow = list_runs(self.condition.query, max_runs=self.condition.enough)
        runs, asked = client.run(asked_at(flow))
        met = self.condition.met_by(runs)
        self.log.info("%d of %d awaited runs are there.", len(met or runs), self.min_runs)
        if met is not None:
            self.push_link(context, [Run.from_dict(met[0])])
        return runs, met, asked

    def _failure(self, message: str, *, lasting: bool) -> Exception:
        """Return what ends this task, as Airflow's own poke mode would."""
        from airflow_provider_pai.api import PaiError

        if self.never_fail or (lasting and self.soft_fail):
            return AirflowSkipException(message)
        return AirflowFailException(message) if lasting else PaiError(message)

    def _trigger_arguments(self) -> dict[str, Any]:
        arguments = {name: getattr(self, name) for name in ("pai_conn_id", "region", *FILTERS)}
        for name in ("created_after", "created_before"):
            if isinstance(arguments[name], datetime):
                arguments[name] = arguments[name].isoformat()
        return {
            **arguments,
            "min_runs": self.min_runs,
            "max_runs": self.max_runs,
            "metrics": self.metrics,
            "poke_interval": float(self.poke_interval),
            "fault_tolerance": None if self.silent_fail else self.fault_tolerance,
            "end_task": self.end_from_trigger,
        }

    def _seconds_left(self, context: Context) -> float:
        started = first_reschedule(context, self.retries or 0) if self.reschedule else None
        waited = (datetime.now(timezone.utc) - started).total_seconds() if started else 0.0
        return float(self.timeout) - waited
