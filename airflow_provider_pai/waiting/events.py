"""Start a DAG when runs newly match: a trigger for Airflow's AssetWatcher (Airflow 3.0 and later).

What a restart may repeat or miss: :mod:`airflow_provider_pai.waiting.announcing`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from airflow_provider_pai._base import QUESTION
from airflow_provider_pai._xcom import batches, fits_event
from airflow_provider_pai.api import Run, RunQuery
from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.waiting.announcing import REMEMBERED, AnnouncingTrigger, Match, watched_asset
from airflow_provider_pai.waiting.condition import RunCondition, interval_seconds
from airflow_provider_pai.waiting.listing import NEWEST_FIRST
from airflow_provider_pai.waiting.run_poller import run_updates

__all__ = ["PaiRunEventTrigger", "pai_run_asset"]

RUNS_PER_EVENT = 100
PAYLOAD = (
    *("run_id", "name", "experiment_id", "workspace_id", "source_type", "source_id"),
    *("gmt_create_time", "labels", "metrics"),
)


class PaiRunEventTrigger(AnnouncingTrigger):
    """Fire whenever runs newly match: for ``AssetWatcher(name=…, trigger=PaiRunEventTrigger(…))``.

    One event for all runs that newly match at a poll, with the payload ``{"runs": [{run_id, name, labels,
    metrics, …}, …]}``. More than 100 runs or 1 MB go into several events. With ``per_run`` one event for each
    run, with the payload ``{"run": {…}}``. The trigger never ends by itself: a poll that fails is logged, and
    the next one follows an interval later. What a restart may repeat or miss:
    :mod:`airflow_provider_pai.waiting.announcing`.

    :param labels: labels every run must carry, as a dict or as ``"key:value,key:value"``.
    :param metrics: only runs count whose last values meet these rules: ``{"accuracy": ">= 0.9"}``.
    :param poke_interval: time between polls, in seconds or as a timedelta; all triggers and sensors with the
        same labels share them.
    :param per_run: fire once for each run.
    :raises PaiUsageError: when the DAG is parsed: arguments that make no sense.
    """

    question = QUESTION

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str,
        pai_conn_id: str = "pai_default",
        region: str | None = None,
        workspace_id: str | None = None,
        experiment_id: str | None = None,
        name: str | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        metrics: MetricRules | None = None,
        poke_interval: float | timedelta = 60.0,
        per_run: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels
        self.pai_conn_id = pai_conn_id
        self.region = region
        self.workspace_id = workspace_id
        self.experiment_id = experiment_id
        self.name = name
        self.source_type = source_type
        self.source_id = source_id
        self.metrics = metrics
        self.poke_interval = interval_seconds(poke_interval)
        self.per_run = per_run
        self.condition()  # a mistake shows when the DAG is parsed

    def condition(self) -> RunCondition:
        """Return which runs to announce."""
        self.check_rendered()
        return RunCondition(
            query=RunQuery(
                workspace_id=self.workspace_id,
                experiment_id=self.experiment_id,
                name=self.name,
                source_type=self.source_type,
                source_id=self.source_id,
                labels=dict(self.labels) if isinstance(self.labels, Mapping) else self.labels,
                order_by=NEWEST_FIRST,
            ),
            max_runs=REMEMBERED,
            metrics=dict(self.metrics) if self.metrics is not None else None,
        )

    async def matches(self) -> AsyncGenerator[list[Match], None]:
        """Yield the runs that match, and then those that newly do."""
        condition = self.condition()
        unmet: set[str] = set()
        async with aclosing(run_updates(self, condition.query, REMEMBERED, news_only=True)) as updates:
            async for update, subscription in updates:
                if update.error is not None:
                    self.log.warning("Poll failed, the next one follows: %s", update.error)
                if update.found is None:
                    continue
                matching = condition.matching(update.found)
                unmet = set() if update.complete else unmet
                unmet |= {run.run_id for run in update.found}
                unmet -= {run.run_id for run in matching}
                subscription.pending = unmet
                yield [Match(run.run_id, run.gmt_create_time, run) for run in matching]

    def payloads(self, news: list[Run]) -> list[dict[str, Any]]:
        """Return the payloads of the events that announce these runs."""
        records = [self._record(run) for run in news]
        if self.per_run:
            return [{"run": record} for record in records]
        return [{"runs": batch} for batch in batches(records, RUNS_PER_EVENT)]

    def _record(self, run: Run) -> dict[str, Any]:
        known = run.to_dict()
        record = {name: known[name] for name in PAYLOAD}
        if not fits_event(record):
            self.log.warning("An event leaves out labels and metrics of the run %s: too large.", run.run_id)
            del record["labels"], record["metrics"]
        return record


def pai_run_asset(name: str, **watched: Any) -> Any:
    """Return an asset that is updated whenever runs newly match, for ``schedule=[pai_run_asset(…)]``.

    :param name: the asset's name.
    :param watched: the arguments of :class:`PaiRunEventTrigger`.
    """
    return watched_asset(name, PaiRunEventTrigger(**watched))
