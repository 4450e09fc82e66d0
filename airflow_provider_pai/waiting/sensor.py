"""A sensor that means the same in every mode: in a worker, between two workers, and in the triggerer."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_pai._base import PaiOperator
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

__all__ = ["WaitingSensor"]


class WaitingSensor(PaiOperator, BaseSensorOperator):
    """Wait until PAI shows what a condition asks for, and push it to XCom.

    Takes the arguments of Airflow's sensors (``poke_interval``, ``timeout``, ``mode``, ``soft_fail``, …) and:

    :param fault_tolerance: how many failed polls in a row fail the task, in every mode: 1 means the first
        one does. A poll fails if PAI throttles, answers 5xx, sends no JSON or does not answer, each after
        several attempts. A failed poll says nothing about what is awaited.
    :param deferrable: ask once, then wait in the triggerer, without a worker, where all waits for the same
        share one poll. Default: ``[operators] default_deferrable``.
    :param end_from_trigger: let the triggerer end the task too, with ``deferrable``. What only a worker can
        do still goes through one: a failure, so that ``retries``, ``soft_fail`` and callbacks work as they
        always do; and the success of a task that has ``outlets``, or over which another task is mapped.
    :param start_from_trigger: let the triggerer start the task too, with ``deferrable``, where it is not
        mapped. Needs Airflow 3.3; without templates it works on 2.10, 2.11 and 3.0 too. Cannot take another
        task's output.
    :raises PaiUsageError: when the DAG is parsed: arguments that make no sense or contradict each other, or
        a ``start_from_trigger`` that this Airflow lacks.

    **In every mode the same.** A timeout is an ``AirflowSensorTimeout``, or a skip with ``soft_fail``.
    ``execution_timeout`` bounds a deferred wait as it bounds one in poke mode, with Airflow's retries. What
    a retry cannot fix fails the task at once, or skips it with ``soft_fail`` or ``never_fail``. Too
    many failed polls in a row fail this try. With ``never_fail`` they skip the task, and with ``silent_fail``
    the wait continues. In reschedule mode the worker is free between polls, but not between failed polls: the
    task has to count them, and a rescheduled task starts anew.
    """

    start_trigger_args: Any = StartTrigger()
    question: ClassVar[tuple[str, ...]]
    """The arguments that say what the wait is for."""
    result: ClassVar[str]
    """The key in the trigger's event for what was found."""
    trigger_class: ClassVar[str]
    """Where the trigger is."""

    def __init__(
        self,
        *,
        poke_interval: float | timedelta = 60.0,
        fault_tolerance: int = 10,
        deferrable: bool | None = None,
        end_from_trigger: bool = False,
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        from airflow_provider_pai.waiting.condition import interval_seconds

        with self.refusing():
            seconds = interval_seconds(poke_interval)
        super().__init__(poke_interval=seconds, **kwargs)
        self.fault_tolerance = fault_tolerance
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.end_from_trigger = end_from_trigger
        self._start_from_trigger = start_from_trigger
        self._deadline: float | None = None
        self._progress = ""

    def check_parsed(self) -> None:
        """Refuse, when the DAG is parsed, what makes no sense: the last line of every constructor."""
        # Airflow reads the trigger's arguments as soon as this is set, so everything else is set before.
        self.start_from_trigger = self._start_from_trigger
        super().check_parsed()

    def _check_parameters(self) -> None:
        from airflow_provider_pai.api.errors import PaiUsageError
        from airflow_provider_pai.api.parameters import whole_number

        whole_number("fault_tolerance", self.fault_tolerance)
        for name in ("end_from_trigger", "start_from_trigger"):
            if getattr(self, name) and not self.deferrable:
                raise PaiUsageError(f"{name}=True needs deferrable=True: without it there is no trigger.")
        if self.deferrable and self.exponential_backoff:
            raise PaiUsageError(
                "exponential_backoff does not go with deferrable=True, where many waits share one poll. "
                "Leave it out, or write deferrable=False where [operators] default_deferrable is on."
            )
        if self.start_from_trigger:
            check_start_from_trigger(self)

    @cached_property
    @abstractmethod
    def condition(self) -> Any:
        """What ends the wait; fixed when the task starts."""

    @abstractmethod
    def find(self) -> Any:
        """Ask PAI over :attr:`hook`, and return what the condition judges.

        :raises PaiError: this poll failed, or the wait cannot succeed.
        """

    @abstractmethod
    def summary(self, met: Any) -> str:
        """Return what was found, for people."""

    def tell(self, context: Context, met: Any) -> None:
        """Let the task's button lead to what was found, and note it for OpenLineage."""
        self.push_link(context, self.condition.runs_in(met))

    def met_by(self, found: Any) -> Any:
        """Return what goes to XCom once it is enough, or ``None``."""
        return self.condition.met_by(found)

    def failed(self, event: Mapping[str, Any]) -> Exception:
        """Return what ends this task, as the trigger's event says."""
        return self._failure(event["error"], permanent=event["permanent"])

    def make_trigger(self, **arguments: Any) -> Any:
        """Return the trigger that continues the wait."""
        module, _, name = self.trigger_class.rpartition(".")
        return getattr(import_module(module), name)(**arguments)

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
            self.log.warning("The first poll failed; the wait continues in the triggerer: %s", error)
        self.defer(
            trigger=self.make_trigger(**trigger_arguments(self), failed_polls=failed_polls),
            method_name="execute_complete",
            timeout=longest_deferral(self),
        )

    def execute_complete(self, context: Context, event: Any) -> Any:
        """Return what the trigger found, or fail as its event says."""
        if not isinstance(event, dict):  # `dag.test()` resumes even a task that its trigger has ended
            return self._look(context)
        if event["status"] != "met":
            raise self.failed(event)
        met = event[self.result]
        self.tell(context, met)
        self.log.info("The wait is over with %s.", self.summary(met))
        return met

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Continue after the triggerer. A timeout has the same effect as in the other modes."""
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

    def _look(self, context: Context) -> Any:
        """Ask once, over the connection as it is now; return what goes to XCom once it is enough.

        :raises AirflowFailException: asking again cannot help.
        :raises PaiError: this poll failed.
        :raises AirflowNotFoundException: there is no such connection, or a secrets backend does not answer.
        """
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            self._read_connection()
            try:
                found = self.find()
            finally:
                self.hook.close()
            progress, self._progress = self._progress, self.condition.progress(found)
            if self._progress != progress:
                self.log.info("%s.", self._progress)
            met = self.met_by(found)
        if met is not None:
            self.tell(context, met)
        return met

    def _read_connection(self) -> None:
        """Read the connection again; while it cannot be read, keep the last one."""
        from airflow_provider_pai.api import PaiError

        at_hand = self.__dict__.pop("hook", None)
        try:
            self.hook.settings  # noqa: B018
        except PaiError:
            raise
        except Exception as error:  # Airflow reports a secrets backend that does not answer as "not found"
            if at_hand is None:
                raise
            self.log.warning("%s: %s; the last connection stays in use.", type(error).__name__, error)
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
