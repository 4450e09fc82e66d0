"""Start a DAG when runs newly match: a trigger for Airflow's AssetWatcher (Airflow 3.0 and later).

**What is not announced.** The newest :data:`REMEMBERED` matching runs are remembered, as announced or as
known from the start. A run that is older than all of those and gets its label only now is not announced:
PAI does not say when a label was set, so a run that was never read cannot be told from one that has carried
its label for long.

**What a restart of the triggerer may repeat or miss.** On Airflow 3.3 the runs that were announced are kept
in the asset's state store. A run that comes to match while the triggerer is down is announced when it is
back; nothing is lost. They are stored :data:`SETTLE_SECONDS` after they were announced, when Airflow has the
event in its database, so a triggerer that is killed in between announces them again. On Airflow 3.0 to 3.2
there is no such store: what matches when the trigger starts counts as known, so that a restart repeats
nothing and misses what came to match while it was down.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_pai._compat import BaseEventTrigger, asset_stores, trigger_event
from airflow_provider_pai._xcom import batches, fits_event
from airflow_provider_pai.api import Run, RunQuery
from airflow_provider_pai.api.query import parse_labels
from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.waiting.condition import RunCondition, interval_seconds
from airflow_provider_pai.waiting.listing import NEWEST_FIRST
from airflow_provider_pai.waiting.trigger import PollingTrigger

__all__ = ["REMEMBERED", "SETTLE_SECONDS", "PaiRunEventTrigger", "pai_run_asset"]

if BaseEventTrigger is None:
    raise ImportError(
        "PaiRunEventTrigger and pai_run_asset need asset watchers, which came with Airflow 3.0. Before it, "
        "let a DAG with a schedule wait: PaiRunSensor(deferrable=True)."
    )

REMEMBERED = 1000
"""How many runs are remembered as announced: 40 KB in the state store, whose values should stay below 64."""
SETTLE_SECONDS = 3.0
"""How long after an event its runs are stored as announced."""
RUNS_PER_EVENT = 100
PAYLOAD = (
    *("run_id", "name", "experiment_id", "workspace_id", "source_type", "source_id"),
    *("gmt_create_time", "labels", "metrics"),
)
_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Announced:
    """The newest runs that were announced, or were there before; older ones count as announced."""

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        self._created: dict[str, int] = dict(stored["runs"]) if stored else {}
        self._floor: int | None = stored["floor"] if stored else None

    def news(self, runs: Iterable[Run]) -> list[Run]:
        """Return those of the runs that were not announced."""
        return [
            run
            for run in runs
            if run.run_id not in self._created and (self._floor is None or _ms(run) > self._floor)
        ]

    def add(self, runs: Iterable[Run]) -> None:
        """Remember runs, and forget the oldest where there are too many."""
        self._created.update({run.run_id: _ms(run) for run in runs})
        newest = sorted(self._created.items(), key=lambda item: item[1], reverse=True)
        self._created = dict(newest[:REMEMBERED])
        if len(newest) > REMEMBERED:
            self._floor = newest[REMEMBERED][1]

    def stored(self) -> dict[str, Any]:
        """Return this as plain JSON."""
        return {"floor": self._floor, "runs": self._created}


def _ms(run: Run) -> int:
    return int((run.gmt_create_time or _EPOCH).timestamp() * 1000)


class PaiRunEventTrigger(PollingTrigger, BaseEventTrigger):
    """Fire whenever runs newly match: for ``AssetWatcher(name=…, trigger=PaiRunEventTrigger(…))``.

    One event for all that newly match at a poll, with the payload ``{"runs": [{run_id, name, labels,
    metrics, …}, …]}``, or several where it would hold more than 100 runs or 1 MB; or one for each run, with
    ``{"run": {…}}``. It never ends by itself: a poll that fails is logged and followed by the next one an
    interval later. What a restart may repeat or miss: :mod:`airflow_provider_pai.waiting.events`.

    :param labels: labels every run must carry, as a dict or as ``"key:value,key:value"``.
    :param metrics: only runs count whose last values meet these rules: ``{"accuracy": ">= 0.9"}``.
    :param poke_interval: time between polls, in seconds or as a timedelta; all triggers and sensors with the
        same labels share them.
    :param per_run: fire once for each run.
    :raises PaiUsageError: what cannot be asked, when the DAG is parsed.
    """

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

    async def run(self) -> AsyncIterator[Any]:
        """Fire whenever runs newly match."""
        condition = self.condition()
        announced: Announced | None = None
        unmet: set[str] = set()
        async with aclosing(self.updates(condition.query, REMEMBERED, news_only=True)) as updates:
            async for update, subscription in updates:
                if update.error is not None:
                    self.log.warning("Poll failed, the next one follows: %s", update.error)
                if update.runs is None:
                    continue
                matching = condition.matching(update.runs)
                unmet = set() if update.complete else unmet
                unmet |= {run.run_id for run in update.runs}
                unmet -= {run.run_id for run in matching}
                subscription.pending = unmet
                while announced is None:
                    announced = await self._recall(matching)
                news = announced.news(matching)
                if not news:
                    continue
                for payload in self._payloads(news):
                    yield trigger_event(payload)
                announced.add(news)
                await asyncio.sleep(SETTLE_SECONDS)
                await self._remember(announced)

    def _payloads(self, runs: list[Run]) -> list[dict[str, Any]]:
        records = [self._record(run) for run in runs]
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

    @property
    def _key(self) -> str:
        """Name what is stored after what is asked: watchers with other filters may share an asset."""
        kwargs = self.serialize()[1]
        asked = {name: kwargs[name] for name in kwargs.keys() - {"poke_interval", "per_run"}}
        asked["labels"] = parse_labels(self.labels)
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"pai_announced_{digest[:16]}"

    async def _recall(self, present: list[Run]) -> Announced | None:
        """Return what was announced before; where nothing is stored, what is there now counts as known.

        ``None``, after an interval, while Airflow does not tell.
        """
        try:
            for store in asset_stores(self):
                stored = await store.aget(self._key)
                if stored is not None:
                    return Announced(stored)
        except (
            Exception
        ) as error:  # raised, it would end the watcher, and Airflow would start it over at once
            self.log.warning("What was announced cannot be read yet: %s: %s", type(error).__name__, error)
            await asyncio.sleep(self.poke_interval)
            return None
        announced = Announced()
        announced.add(present)
        await self._remember(announced)
        return announced

    async def _remember(self, announced: Announced) -> None:
        for store in asset_stores(self):
            try:
                await store.aset(self._key, announced.stored())
            except Exception:  # the next event stores it again; until then a restart repeats
                self.log.exception("The announced runs could not be stored.")


def pai_run_asset(name: str, **watched: Any) -> Any:
    """Return an asset that is updated whenever runs newly match, for ``schedule=[pai_run_asset(…)]``.

    :param name: the asset's name.
    :param watched: the arguments of :class:`PaiRunEventTrigger`.
    """
    from airflow.sdk import Asset, AssetWatcher

    trigger = PaiRunEventTrigger(**watched)
    return Asset(name=name, watchers=[AssetWatcher(name=f"{name}_watcher", trigger=trigger)])
