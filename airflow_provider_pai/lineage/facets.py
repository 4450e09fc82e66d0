"""What a task noted, as the parts of OpenLineage's events. Needs ``apache-airflow-providers-openlineage``.

The client's base classes of facets fill in ``_producer`` and ``_schemaURL``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attr
from airflow.providers.openlineage.extractors import ExtractorManager, OperatorLineage
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import DatasetFacet, RunFacet

from airflow_provider_pai.lineage import notes

__all__ = ["PaiModelVersionDatasetFacet", "PaiRunDatasetFacet", "PaiVerdictRunFacet", "operator_lineage"]


@attr.define(kw_only=True)
class PaiRunDatasetFacet(DatasetFacet):  # type: ignore[misc]  # the client need not be installed
    """A run of PAI, as in XCom: times are ISO 8601, and a number that is not finite is a text."""

    run_id: str
    name: str | None
    experiment_id: str | None
    workspace_id: str | None
    source_type: str | None
    source_id: str | None
    gmt_create_time: str | None
    labels: dict[str, str] | None
    metrics: dict[str, float | str] | None


@attr.define(kw_only=True)
class PaiModelVersionDatasetFacet(DatasetFacet):  # type: ignore[misc]
    """A version of a model in PAI's registry."""

    model_name: str | None
    model_id: str
    version_name: str
    approval_status: str | None
    run_id: str | None
    metrics: dict[str, float] | None


@attr.define(kw_only=True)
class PaiVerdictRunFacet(RunFacet):  # type: ignore[misc]
    """What a gate decided, and why."""

    passed: bool
    reason: str
    select: str
    run_id: str | None
    baseline_run_ids: list[str]
    checks: list[dict[str, Any]]
    checks_total: int


FACETS = {"pai_run": PaiRunDatasetFacet, "pai_model_version": PaiModelVersionDatasetFacet}


def operator_lineage(lineage: notes.Lineage, task: Any) -> Any:
    """Return the ``OperatorLineage`` of what a task noted, and of what its author declares.

    OpenLineage's provider itself reads inlets and outlets only if a task reports no dataset.
    """
    verdict = lineage.verdict_facet()
    return OperatorLineage(
        inputs=[*map(_dataset, lineage.inputs()), *_declared(task.inlets)],
        outputs=[*map(_dataset, lineage.outputs()), *_declared(task.outlets)],
        run_facets={"pai_verdict": PaiVerdictRunFacet(**verdict)} if verdict else {},
    )


def _declared(assets: Iterable[Any]) -> Iterator[Any]:
    return filter(None, map(ExtractorManager.convert_to_ol_dataset, assets))


def _dataset(one: notes.Dataset) -> Any:
    facets = {name: FACETS[name](**content) for name, content in one.facets.items()}
    return Dataset(namespace=one.namespace, name=one.name, facets=facets)
