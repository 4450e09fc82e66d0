"""How a task that runs again finds its run: by labels that are made from what the task is.

PAI keeps labels short and forbids some characters, so that the labels carry a digest. What it was made from
stands in the run's params, for people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from airflow_provider_pai.api.errors import PaiError, PaiNotFoundError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.operations import (
    Params,
    create_run,
    delete_run,
    get_run,
    list_runs,
    update_run,
)
from airflow_provider_pai.api.query import RunQuery

__all__ = ["DAG_RUN", "TASK", "Identity", "Place", "found_or_created", "labels_of"]

TASK = "airflow_task"
DAG_RUN = "airflow_dag_run"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a tracked run is the run of.

    :param parts: what makes it unique: of a task the ids of DAG, DAG run and task, and the map index; of a
        whole DAG run the first two; outside Airflow any texts.
    :param dag_run: the ids of DAG and DAG run, where there are any.
    """

    parts: tuple[str, ...]
    dag_run: tuple[str, ...] = ()

    def labels(self) -> dict[str, str]:
        """Return the labels by which the run is found again."""
        return {TASK: _digest(self.parts), **(labels_of(self.dag_run) if self.dag_run else {})}


def labels_of(dag_run: tuple[str, ...]) -> dict[str, str]:
    """Return the label that all runs of a DAG run carry."""
    return {DAG_RUN: _digest(dag_run)}


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run of an identity is. PAI looks in its default workspace where none is named."""

    experiment_id: str
    workspace_id: str | None


def found_or_created(
    identity: Identity,
    place: Place,
    *,
    again: bool,
    labels: Mapping[str, str],
    params: Params,
    **others: Any,
) -> Flow[tuple[str, bool]]:
    """Return the id of the one run of an identity, and whether it was created now.

    A run that was there gets the labels and params too, and keeps all of its others. ``again`` says that it
    may be there. Of two that are created at the same time the older one stays, and who made the other deletes
    it. Where PAI shows a new label late, two runs may stay (docs/fidelity.md).

    :raises PaiError: the run can neither be found nor created.
    """
    fields: dict[str, Any] = {"labels": {**labels, **identity.labels()}, "params": params}
    run_id, created = yield from _found_or_created(identity, place, again, {**fields, **others})
    if not created:
        there = yield from get_run(run_id)
        merged: dict[str, Any] = {what: {**getattr(there, what), **given} for what, given in fields.items()}
        yield from update_run(run_id, **merged)
    return run_id, created


def _found_or_created(
    identity: Identity, place: Place, again: bool, fields: dict[str, Any]
) -> Flow[tuple[str, bool]]:
    found = yield from _runs_of(identity, place) if again else _none()
    if found:
        return found[0].run_id, False
    try:
        made = yield from create_run(place.experiment_id, **fields)
    except PaiError as error:
        if not error.transient:
            raise
        found = yield from _runs_of(identity, place)  # its answer may have been lost
        if not found:
            raise
        return found[0].run_id, True
    found = yield from _runs_of(identity, place)
    if not found or found[0].run_id == made:
        return made, True
    with suppress(PaiNotFoundError):
        yield from delete_run(made)
    return found[0].run_id, False


def _none() -> Flow[list[Run]]:
    yield from ()
    return []


def _runs_of(identity: Identity, place: Place) -> Flow[list[Run]]:
    """Return the runs of an identity, the oldest first; of equally old ones all agree on the first, too."""
    label = {TASK: identity.labels()[TASK]}
    query = RunQuery(experiment_id=place.experiment_id, workspace_id=place.workspace_id, labels=label)
    try:
        runs = yield from list_runs(query)
    except PaiNotFoundError:  # the experiment may be too new to be visible; who creates the run is told so
        return []
    return sorted(runs, key=lambda run: (str(run.gmt_create_time), run.run_id))
