"""Sensors over PAI's runs, and over the versions of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import QUESTION, RunFilterOperator
from airflow_provider_pai.registry.sensor import PaiModelVersionSensor
from airflow_provider_pai.waiting.sensor import WaitingSensor

if TYPE_CHECKING:
    from airflow_provider_pai.api import Run, RunQuery
    from airflow_provider_pai.gating.rules import MetricRules
    from airflow_provider_pai.waiting.condition import RunCondition

__all__ = ["PaiModelVersionSensor", "PaiRunSensor"]


class PaiRunSensor(RunFilterOperator, WaitingSensor):
    """Wait until runs with given labels are there, and push them to XCom.

    Takes the other filters of :class:`~airflow_provider_pai._base.RunFilterOperator`, the arguments of
    :class:`~airflow_provider_pai.waiting.sensor.WaitingSensor` (``poke_interval``, ``timeout``, ``mode``,
    ``deferrable``, ``fault_tolerance``, …), and:

    :param labels: labels every awaited run must carry; a run may be labelled long after it was created. Give
        them, or ``run_id`` with ``metrics`` or labels: ``PaiRunSensor(run_id=train.output, labels=…)``.
    :param min_runs: how many such runs to wait for; templated. 1, or all that ``run_id`` names.
    :param max_runs: how many runs to push at most, the first in ``order_by``; templated. 100, or
        ``min_runs`` if that is more.
    :param metrics: only runs count whose last values meet these rules, ``{"accuracy": ">= 0.9"}``; templated.
    :return: ``[run.to_dict(), …]``, the runs that were there when the wait ended.
    :raises PaiUsageError: when the DAG is parsed: filters, bounds or rules that make no sense, or parameters
        that contradict each other.

    **Example.** A DAG run of 2025-10-20 waits with ``labels="is_evaluation:true"``,
    ``created_after=midnight()`` (:mod:`airflow_provider_pai.windows`), ``poke_interval=60`` and
    ``timeout=3600``. The task starts at 14:00:00 and asks at once. A run created at 09:00 that day is
    labelled at 14:30:20: the poll at 14:31:00 or before finds it. A run of the 19th that is labelled on the
    20th never counts, since it was created before the window. If no run matches, it times out at 15:00:00.
    """

    question = QUESTION
    result = "runs"
    trigger_class = "airflow_provider_pai.triggers.PaiRunTrigger"
    template_fields: Sequence[str] = (*RunFilterOperator.template_fields, "min_runs", "max_runs", "metrics")
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own way
        **RunFilterOperator.template_fields_renderers,
        "metrics": "json",
    }

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str | None = None,
        min_runs: int | str | None = None,
        max_runs: int | str | None = None,
        metrics: MetricRules | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels=labels, **kwargs)
        self.min_runs = min_runs
        self.max_runs = max_runs
        self.metrics = metrics
        self.check_parsed()

    def _check_parameters(self) -> None:
        from airflow_provider_pai.waiting.condition import RunCondition, check_narrow

        check_narrow(self.labels, self.run_id)
        RunCondition.of(**self.known(QUESTION))
        WaitingSensor._check_parameters(self)

    @cached_property
    def condition(self) -> RunCondition:
        """What ends the wait; fixed when the task starts."""
        from airflow_provider_pai.waiting.condition import RunCondition

        return RunCondition.of(**self.given(QUESTION))

    def find(self) -> list[Run]:
        """Return the runs that match."""
        from airflow_provider_pai.api import list_runs

        query = self.hook.query(**self.filters())
        self.workspace_id = query.workspace_id  # from the first poll on
        if query.run_ids:
            return self._named_runs(query)
        return self.hook.client().run(list_runs(query, max_runs=self.condition.enough))

    def summary(self, met: Any) -> str:
        """Return what was found, for people."""
        return f"{len(met)} run{'' if len(met) == 1 else 's'}"

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
