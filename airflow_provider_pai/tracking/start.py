"""Begin a tracked run: find or create its experiment and the run, and write down where it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_provider_pai._compat import current_context, task_url
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.experiments import get_or_create_experiment
from airflow_provider_pai.api.flow import begun
from airflow_provider_pai.api.operations import Params, create_run
from airflow_provider_pai.api.query import Labels, parse_labels
from airflow_provider_pai.tracking.identity import DAG_RUN, TASK, Identity, Place, found_or_created
from airflow_provider_pai.tracking.tracked_run import STATE, TrackedRun

__all__ = ["Origin", "check_labels", "origin_of", "start"]

Hook = Any
"""A :class:`~airflow_provider_pai.hooks.PaiHook`, which imports this room."""
OURS = (TASK, DAG_RUN, STATE)
_open: set[tuple[str, ...]] = set()
"""The identities of the runs that are tracked in this process."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run comes from: its identity, whether it may exist, and what people want to know."""

    identity: Identity
    again: bool
    name: str
    params: dict[str, Any]


def origin_of(context: Mapping[str, Any], scope: str = "task") -> Origin:
    """Return the origin of a run that a task of Airflow makes.

    :param scope: ``task`` for a run of this task, ``dag_run`` for one that all tasks of the DAG run share.
    """
    if scope not in ("task", "dag_run"):
        raise PaiUsageError(f"scope={scope!r} must be 'task' or 'dag_run'.")
    ti = context["ti"]
    dag_run = (ti.dag_id, ti.run_id)
    whole = scope == "dag_run"
    params = {"airflow_dag_id": ti.dag_id, "airflow_dag_run_id": ti.run_id}
    if not whole:
        params |= {"airflow_task_id": ti.task_id, "airflow_map_index": ti.map_index}
        params |= {"airflow_try_number": ti.try_number}
    if url := task_url(ti):
        # That of the DAG run is what it begins with: on Airflow 3 a path, on 2 a query.
        params["airflow_url"] = url.partition("/tasks/")[0].partition("&task_id=")[0] if whole else url
    return Origin(
        identity=Identity(
            parts=dag_run if whole else (*dag_run, ti.task_id, str(ti.map_index)), dag_run=dag_run
        ),
        again=whole or ti.try_number > 1,
        name=_run_name(ti.dag_id if whole else ti.task_id),
        params=params,
    )


def _run_name(text: str) -> str:
    """Return a text as PAI allows it for the name of a run."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", text)[:63]
    return name if name[:1].isalpha() else f"run-{name}"[:63]


def start(
    hook: Hook,
    experiment: str,
    *,
    name: str | None,
    labels: Labels | None,
    params: Params | None,
    scope: str,
    key: str | None,
    strict: bool,
) -> TrackedRun:
    """Find or create the run, and return it open; see :meth:`~airflow_provider_pai.hooks.PaiHook.track`."""
    context = current_context()
    if key is not None:
        origin = Origin(identity=Identity(parts=(key,)), again=True, name="run", params={})
    elif context is not None:
        origin = origin_of(context, scope)
    else:
        raise PaiUsageError("Outside a task, give a key, by which the next call finds this run.")
    fields = _fields(origin, name, labels, params)
    if origin.identity.parts in _open:
        raise PaiUsageError(
            "This run is open already in this process: use that one, or give this one a key of its own."
        )
    from airflow_provider_pai.api.client import PaiClient  # brings an HTTP library, which no parsing needs

    workspace_id = hook.named_workspace() or hook.get_default_workspace().workspace_id
    client = PaiClient(hook.settings.endpoint, hook.settings.credentials)
    experiment_id = client.run(get_or_create_experiment(experiment, workspace_id=workspace_id))
    place = Place(experiment_id=experiment_id, workspace_id=workspace_id)
    run_id, _ = client.run(found_or_created(origin.identity, place, again=origin.again, **fields))
    _open.add(origin.identity.parts)
    if context is not None and key is None:
        context["ti"].xcom_push("pai_run_id", run_id)
    return TrackedRun(
        client, run_id, experiment_id, strict=strict, ended=lambda: _open.discard(origin.identity.parts)
    )


def _fields(origin: Origin, name: str | None, labels: Labels | None, params: Params | None) -> dict[str, Any]:
    """Return what the run is created with.

    :raises PaiUsageError: what PAI would refuse.
    """
    fields: dict[str, Any] = {
        "name": name or origin.name,
        "labels": {**check_labels(labels or {}), STATE: "running"},
        "params": {**(params or {}), **origin.params},
    }
    begun(create_run("any", **fields))
    return fields


def check_labels(labels: Labels) -> dict[str, str]:
    """Return the labels that a user gives a run which is found again.

    :raises PaiUsageError: one is not a label, or is a label of the provider's own.
    """
    wanted = parse_labels(labels)
    if mine := [key for key in wanted if key in OURS]:
        raise PaiUsageError(f"The label {mine[0]!r} is set by the provider itself; name yours differently.")
    return wanted
