"""How a task that runs again finds its run: by labels that are made from what the task is.

PAI keeps labels short and forbids some characters, so that the labels carry a digest. What it was made from
stands in the run's params, for people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec

from airflow_provider_pai.api.errors import PaiError, PaiNotFoundError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.operations import create_run, delete_run, list_runs
from airflow_provider_pai.api.query import RunQuery

__all__ = ["DAG_RUN", "TASK", "Identity", "found_or_created", "labels_of"]

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


def found_or_created(
    identity: Identity, experiment_id: str, *, again: bool, **fields: Any
) -> Flow[tuple[str, bool]]:
    """Return the id of the one run of an identity, and whether it was created now.

    ``again`` says that it may exist. Of two that are created at the same time the older one stays, and who
    made the other deletes it. Where PAI shows a new label late, two runs may stay (docs/fidelity.md).

    :raises PaiError: the run can neither be found nor created.
    """
    found = yield from _runs_of(identity, experiment_id) if again else _none()
    if found:
        return found[0].run_id, False
    labels = {**fields.pop("labels", {}), **identity.labels()}
    try:
        made = yield from create_run(experiment_id, labels=labels, **fields)
    except PaiError as error:
        if not error.transient:
            raise
        found = yield from _runs_of(identity, experiment_id)  # its answer may have been lost
        if not found:
            raise
        return found[0].run_id, True
    found = yield from _runs_of(identity, experiment_id)
    if not found or found[0].run_id == made:
        return made, True
    with suppress(PaiNotFoundError):
        yield from delete_run(made)
    return found[0].run_id, False


def _none() -> Flow[list[Run]]:
    yield from ()
    return []


def _runs_of(identity: Identity, experiment_id: str) -> Flow[list[Run]]:
    """Return the runs of an identity, the oldest first; of equally old ones all agree on the first, too."""
    label = {TASK: identity.labels()[TASK]}
    runs = yield from list_runs(RunQuery(experiment_id=experiment_id, labels=label))
    return sorted(runs, key=lambda run: (str(run.gmt_create_time), run.run_id))
