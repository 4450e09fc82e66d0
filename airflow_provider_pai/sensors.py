"""Sensor over PAI's runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import QUESTION, RunFilterOperator
from airflow_provider_pai._compat import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    default_deferrable,
    execute_sensor,
    first_reschedule,
)
from airflow_provider_pai.waiting.handover import (
    StartTrigger,
    check_start_from_trigger,
    longest_deferral,
    trigger_arguments,
)

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api import Run, RunQuery
    from airflow_provider_pai.gating.rules import MetricRules
    from airflow_provider_pai.waiting.condition import RunCondition

__all__ = ["PaiRunSensor"]


class PaiRunSensor(RunFilterOperator, BaseSensorOperator):
    """Wait until runs with given labels are there, and push them to XCom.

    Takes the other filters of :class:`~airflow_provider_pai._base.RunFilterOperator`, those of Airflow's
    sensors (``poke_interval``, ``timeout``, ``mode``, ``soft_fail``, …), and:

    :param labels: labels every awaited run must carry; a run may be labelled long after it was created. Give
        them, or ``run_id`` with ``metrics`` or labels: ``PaiRunSensor(run_id=train.output, labels=…)``.
    :param min_runs: how many such runs to wait for; templated. 1, or all that ``run_id`` names.
    :param max_runs: how many runs to push at most, the first in ``order_by``; templated. 100, or
        ``min_runs`` if that is more.
    :param metrics: only runs count whose last values meet these rules, ``{"accuracy": ">= 0.9"}``; templated.
    :param fault_tolerance: how many failed polls in a row fail the task, in every mode: 1 means the first
        one does. A poll that failed (throttled, 5xx, no answer, no JSON; each has been tried again already)
        says nothing about the runs.
    :param deferrable: ask once, then wait in the triggerer, without a worker, where all waits for the same
        labels share one poll. Default: ``[operators] default_deferrable``.
    :param end_from_trigger: let the triggerer end the task too, with ``deferrable``. What only a worker can
        do still goes through one: a failure, so that ``retries``, ``soft_fail`` and callbacks mean what they
        always do; and the success of a task that has ``outlets``, or over which another one is mapped.
    :param start_from_trigger: let the triggerer start the task too, with ``deferrable``, where it is not
        mapped. Needs Airflow 3.3; without templates 2.10, 2.11 and 3.0 will do. Takes no other task's output.
    :return: ``[run.to_dict(), …]``, the runs that were there when the wait ended.
    :raises PaiUsageError: when the DAG is parsed: filters, bounds or rules that make no sense, a
        ``start_from_trigger`` that this Airflow lacks, or parameters that contradict each other.

    **Example.** A DAG run of 2025-10-20 waits with ``labels="is_evaluation:true"``,
    ``created_after=midnight()`` (:mod:`airflow_provider_pai.windows`), ``poke_interval=60`` and
    ``timeout=3600``. The task starts at 14:00:00 and asks at once. A run created at 09:00 that day is
    labelled at 14:30:20: the poll at 14:31:00 or before finds it. A run of the 19th that is labelled on the
    20th never counts, since it was created before the window. If no run matches, it times out at 15:00:00.

    **In every mode the same.** A timeout is an ``AirflowSensorTimeout``, or a skip with ``soft_fail``.
    ``execution_timeout`` bounds a deferred wait as it bounds one in poke mode, with Airflow's retries. What
    a retry cannot fix fails the task at once, or skips it with ``soft_fail`` or ``never_fail``. Too
    many failed polls in a row fail this try, skip the task with ``never_fail``, and are waited through with
    ``silent_fail``. In reschedule mode the worker is given back between polls, but not between polls that
    failed: their number in a row has to be remembered, and rescheduling forgets.
    """

    start_trigger_args: Any = StartTrigger()
    template_fields: Sequence[str] = (*RunFilterOperator.template_fields, "min_runs", "max_runs", "metrics")
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own way
        **RunFilterOperator.template_fields_renderers,
        "metrics": "json",
    }

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str | None = None,
        poke_interval: float | timedelta = 60.0,
        min_runs: int | str | None = None,
        max_runs: int | str | None = None,
        metrics: MetricRules | None = None,
        fault_tolerance: int = 10,
        deferrable: bool | None = None,
        end_from_trigger: bool = False,
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        from airflow_provider_pai.waiting.condition import interval_seconds

        with self.refusing():
            seconds = interval_seconds(poke_interval)
        super().__init__(labels=labels, poke_interval=seconds, **kwargs)
        self.min_runs = min_runs
        self.max_runs = max_runs
        self.metrics = metrics
        self.fault_tolerance = fault_tolerance
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.end_from_trigger = end_from_trigger
        self.start_from_trigger = start_from_trigger
        self._deadline: float | None = None
        self._progress = ""
        self.check_parsed()

    def _check_parameters(self) -> None:
        from airflow_provider_pai.api.errors import PaiUsageError
        from airflow_provider_pai.api.parameters import whole_number
        from airflow_provider_pai.waiting.condition import RunCondition, check_narrow

        whole_number("fault_tolerance", self.fault_tolerance)
        for name in ("end_from_trigger", "start_from_trigger"):
            if getattr(self, name) and not self.deferrable:
                raise PaiUsageError(f"{name}=True needs deferrable=True: without it there is no trigger.")
        if self.deferrable and self.exponential_backoff:
            raise PaiUsageError(
                "exponential_backoff does not go with deferrable=True, where many waits share one poll. "
                "Leave it out, or write deferrable=False where [operators] default_deferrable is on."
            )
        check_narrow(self.labels, self.run_id)
        RunCondition.of(**self.known(QUESTION))
        if self.start_from_trigger:
            check_start_from_trigger(self)

    @cached_property
    def condition(self) -> RunCondition:
        """What ends the wait; fixed when the task starts."""
        from airflow_provider_pai.waiting.condition import RunCondition

        return RunCondition.of(**self.given(QUESTION))

    def execute(self, context: Context) -> Any:
        """Wait: in this worker; or ask once, and then wait in the triggerer."""
        from airflow_provider_pai.api import PaiError, PaiUsageError

        try:
            self.log.info("Waiting for %s.", self.condition.describe())
        except PaiUsageError as error:  # what a template rendered
            raise self._failure(f"PaiUsageError: {error}", permanent=True) from error
        if not self.deferrable:
            try:
                return execute_sensor(self, context)
            except (AirflowSensorTimeout, AirflowSkipException) as error:
                if "Sensor has timed out" in str(error):
                    raise self._timed_out() from error
                raise
        from airflow_provider_pai.triggers import PaiRunTrigger

        failed_polls = 0
        try:
            met = self._look(context)
            if met is not None:
                return met
        except AirflowFailException as error:
            raise self._failure(str(error), permanent=True) from error
        except (PaiError, AirflowNotFoundException) as error:
            if not getattr(error, "transient", False) or (self.fault_tolerance == 1 and not self.silent_fail):
                raise self._failure(f"{type(error).__name__}: {error}", permanent=False) from error
            failed_polls = 1
            self.log.warning("The first look failed, the triggerer goes on: %s", error)
        self.defer(
            trigger=PaiRunTrigger(**trigger_arguments(self), failed_polls=failed_polls),
            method_name="execute_complete",
            timeout=longest_deferral(self),
        )

    def execute_complete(self, context: Context, event: Any) -> list[dict[str, Any]] | None:
        """Return the runs that the trigger found, or fail as its event says."""
        from airflow_provider_pai.api import Run

        if not isinstance(event, dict):  # `dag.test()` resumes even a task that its trigger has ended
            return self._look(context)
        if event["status"] != "met":
            raise self._failure(event["error"], permanent=event["permanent"])
        runs: list[dict[str, Any]] = event["runs"]
        self.push_link(context, [Run.from_dict(run) for run in runs[:1]])
        self.log.info("The wait is over with %d run%s.", len(runs), "" if len(runs) == 1 else "s")
        return runs

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> list[dict[str, Any]] | None:
        """Come back from the triggerer; a timeout means here what it means in the other modes."""
        # Airflow's own differs by version in what soft_fail and never_fail do to a deferred timeout.
        given = next_kwargs or {}
        if next_method == "execute_complete":
            return self.execute_complete(context, **given)
        if given.get("traceback"):
            self.log.error("The trigger failed:\n%s", "\n".join(given["traceback"]))
        error = str(given.get("error", "unknown"))
        if "timeout" not in error.lower():
            raise self._failure(f"The trigger failed: {error}", permanent=False)
        if longest_deferral(self).total_seconds() < self.timeout:
            raise AirflowTaskTimeout(f"The execution_timeout is over. Awaited: {self.condition.describe()}.")
        raise self._timed_out()

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask; after a failed poll ask again, up to ``fault_tolerance`` times in a row."""
        from airflow_provider_pai.api import PaiError

        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds_left(context)
        failed_polls = 0
        while True:
            try:
                met = self._look(context)
                return PokeReturnValue(is_done=met is not None, xcom_value=met)
            except PaiError as error:
                failed_polls += 1
                if failed_polls >= self.fault_tolerance or not error.transient:
                    raise
                pause = min(self.poke_interval, self._deadline - time.monotonic())
                if pause <= 0:
                    return PokeReturnValue(is_done=False)  # Airflow's own check of the timeout comes next
                self.log.warning(
                    "Poll failed, %d of %d in a row: %s", failed_polls, self.fault_tolerance, error
                )
                time.sleep(pause)

    def _look(self, context: Context) -> list[dict[str, Any]] | None:
        """Ask once, over the connection as it is now; return what goes to XCom once it is enough.

        :raises AirflowFailException: asking again cannot help.
        :raises PaiError: this poll failed.
        :raises AirflowNotFoundException: there is no such connection, or a secrets backend does not answer.
        """
        from airflow_provider_pai.api import Run, list_runs
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            self._read_connection()
            query = self.hook.query(**self.filters())
            self.workspace_id = query.workspace_id  # from the first look on
            try:
                if query.run_ids:
                    runs = self._named_runs(query)
                else:
                    runs = self.hook.client().run(list_runs(query, max_runs=self.condition.enough))
            finally:
                self.hook.close()
            progress, self._progress = self._progress, self.condition.progress(runs)
            if self._progress != progress:
                self.log.info("%s.", self._progress)
            met = self.condition.met_by(runs)
        if met is not None:
            self.push_link(context, [Run.from_dict(met[0])])
        return met

    def _named_runs(self, query: RunQuery) -> list[Run]:
        """Return those of the named runs that match; when they were created is a window for the triggerer.

        Within it, the poll that all share answers a wait that would otherwise ask for its runs again.
        """
        from airflow_provider_pai.api import RunQuery, list_runs

        named = RunQuery(
            run_id=query.run_ids,
            workspace_id=query.workspace_id,
            experiment_id=query.experiment_id,
            order_by=query.order_by,
        )
        runs = self.hook.client().run(list_runs(named))
        created = [run.gmt_create_time for run in runs if run.gmt_create_time is not None]
        start = query.window[0]
        if len(created) == len(runs) and (start is None or start < min(created)):
            self.created_after = min(created)
        return list(filter(query.check(), runs))

    def _read_connection(self) -> None:
        """Take up a connection that changed; while it cannot be read, go on with the one at hand."""
        from airflow_provider_pai.api import PaiError

        at_hand = self.__dict__.pop("hook", None)
        try:
            self.hook.settings  # noqa: B018
        except PaiError:
            raise
        except Exception as error:  # Airflow reports a secrets backend that does not answer as "not found"
            if at_hand is None:
                raise
            self.log.warning("%s: %s; going on with the connection as it was.", type(error).__name__, error)
            self.hook = at_hand

    def _failure(self, message: str, *, permanent: bool) -> Exception:
        """Return what ends this task, as Airflow's own poke mode would."""
        from airflow_provider_pai.api import PaiError

        if self.never_fail or (permanent and self.soft_fail):
            return AirflowSkipException(message)
        return AirflowFailException(message) if permanent else PaiError(message)

    def _timed_out(self) -> Exception:
        message = f"The timeout of {self.timeout:g} s is over. Awaited: {self.condition.describe()}."
        return AirflowSkipException(message) if self.soft_fail else AirflowSensorTimeout(message)

    def _seconds_left(self, context: Context) -> float:
        started = first_reschedule(context, self.retries or 0) if self.reschedule else None
        waited = (datetime.now(timezone.utc) - started).total_seconds() if started else 0.0
        return float(self.timeout) - waited
