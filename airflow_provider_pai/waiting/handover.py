"""What a sensor hands over to the triggerer: its trigger, for how long, and whether the task ends there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_pai._base import is_later
from airflow_provider_pai._compat import starts_in_triggerer
from airflow_provider_pai.api.errors import PaiUsageError

Sensor = Any
"""A :class:`~airflow_provider_pai.waiting.sensor.WaitingSensor`, which imports this module."""

__all__ = ["StartTrigger", "check_start_from_trigger", "longest_deferral", "trigger_arguments"]


class StartTrigger:
    """Makes ``start_trigger_args`` when Airflow reads them: only then is the DAG whole."""

    def __get__(self, sensor: Sensor | None, _: type | None = None) -> Any:
        if sensor is None or not sensor.start_from_trigger:
            return None
        from airflow_provider_pai._compat import StartTriggerArgs

        return StartTriggerArgs(
            trigger_cls=sensor.trigger_class,
            trigger_kwargs=trigger_arguments(sensor),
            next_method="execute_complete",
            timeout=longest_deferral(sensor),
        )


def check_start_from_trigger(sensor: Sensor) -> None:
    """Refuse a start in the triggerer that this Airflow, or what the task is given, does not allow.

    :raises PaiUsageError: when the DAG is parsed.
    """
    templated = [name for name in sensor.template_fields if is_later(getattr(sensor, name))]
    if not starts_in_triggerer(templates=bool(templated)):
        given = f" Templates are in {', '.join(templated)}." if templated else ""
        raise PaiUsageError(
            "start_from_trigger needs Airflow 3.3; without templates it works on 2.10, 2.11 and 3.0 too."
            f"{given} Leave it out, and the wait starts in a worker."
        )
    for name, value in trigger_arguments(sensor).items():
        try:
            json.dumps(value)
        except TypeError:  # what another task hands on
            raise PaiUsageError(
                f"start_from_trigger: {name}={value!r} cannot go to the triggerer, which takes "
                "plain values and templates. Leave it out, and the wait starts in a worker."
            ) from None


def trigger_arguments(sensor: Sensor) -> dict[str, Any]:
    """Return the arguments of the trigger, as plain JSON."""
    arguments = sensor.given(("pai_conn_id", "region", *sensor.question))
    return {
        **{name: _plain(value) for name, value in arguments.items()},
        "poke_interval": float(sensor.poke_interval),
        "fault_tolerance": None if sensor.silent_fail else sensor.fault_tolerance,
        "end_task": _ends_in_triggerer(sensor),
        "do_xcom_push": sensor.do_xcom_push,
    }


def longest_deferral(sensor: Sensor) -> timedelta:
    """Return how long the triggerer may wait; Airflow 3 applies ``execution_timeout`` to workers alone."""
    timeout = timedelta(seconds=sensor.timeout)
    return min(timeout, sensor.execution_timeout or timeout)


def _ends_in_triggerer(sensor: Sensor) -> bool:
    """Tell whether a triggerer can do all that a worker does when the task succeeds."""
    if not sensor.end_from_trigger or sensor.outlets:
        return False
    if not sensor.has_dag():
        return True
    # The DAG's own task: in Airflow 2 the instance of a mapped task does not know what is downstream.
    task: Any = sensor.dag.get_task(sensor.task_id)
    return next(iter(task.iter_mapped_dependants()), None) is None


def _plain(value: Any) -> Any:
    """Return a value as plain JSON; the output of a mapped task is a sequence that is read on demand."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (str, Mapping)) or hasattr(value, "resolve") or not isinstance(value, Iterable):
        return value
    return list(value)
