"""Start a DAG when something new is there: what the triggers of Airflow's asset watchers share.

**What is not announced.** The trigger remembers the newest :data:`REMEMBERED` runs or versions that matched,
as announced or as known from the start. One that is older than all of those, and matches only now, is not
announced: PAI does not say when a label was set, so it may have matched for a long time.

**What a restart of the triggerer may repeat or miss.** On Airflow 3.3 the record of what was announced is
kept in the asset's state store. What newly matches while the triggerer is down is announced when it is back;
nothing is lost. The record is stored :data:`SETTLE_SECONDS` after an event, when Airflow has the event in its
database, so a triggerer that is killed in between announces it again. On Airflow 3.0 to 3.2 there is no such
store: what matches when the trigger starts counts as known. So a restart repeats nothing, and misses what
newly matched while the triggerer was down.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any, NamedTuple

from airflow_provider_pai._compat import BaseEventTrigger, asset_stores, trigger_event
from airflow_provider_pai.api.query import Labels, parse_labels
from airflow_provider_pai.waiting.trigger import PollingTrigger

__all__ = ["REMEMBERED", "SETTLE_SECONDS", "AnnouncingTrigger", "Match", "watched_asset"]

if BaseEventTrigger is None:
    raise ImportError(
        "The event triggers and assets of this provider need asset watchers, which came with Airflow 3.0. "
        "Before it, let a DAG with a schedule wait: PaiRunSensor(deferrable=True)."
    )

REMEMBERED = 1000
"""How many are remembered as announced: 40 KB in the state store, whose values should stay below 64."""
SETTLE_SECONDS = 3.0
"""Seconds after an event until the record of what was announced is stored."""
_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Match(NamedTuple):
    """Something that may be announced, once."""

    id: str
    created: datetime | None
    record: Any


class Announced:
    """The newest that were announced, or were there before; older ones count as announced."""

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        self._created: dict[str, int] = dict(stored["announced"]) if stored else {}
        self._floor: int | None = stored["floor"] if stored else None

    def news(self, matches: Iterable[Match]) -> list[Match]:
        """Return those that were not announced."""
        return [
            each
            for each in matches
            if each.id not in self._created and (self._floor is None or _ms(each) > self._floor)
        ]

    def add(self, matches: Iterable[Match]) -> None:
        """Remember some, and forget the oldest where there are too many."""
        self._created.update({each.id: _ms(each) for each in matches})
        newest = sorted(self._created.items(), key=lambda item: item[1], reverse=True)
        self._created = dict(newest[:REMEMBERED])
        if len(newest) > REMEMBERED:
            self._floor = newest[REMEMBERED][1]

    def stored(self) -> dict[str, Any]:
        """Return this as plain JSON."""
        return {"floor": self._floor, "announced": self._created}


def _ms(match: Match) -> int:
    return int((match.created or _EPOCH).timestamp() * 1000)


class AnnouncingTrigger(PollingTrigger, BaseEventTrigger):
    """Fire for everything that newly matches. It never ends by itself.

    A poll that fails is logged and followed by the next one an interval later. What a restart may repeat or
    miss: :mod:`airflow_provider_pai.waiting.announcing`.
    """

    labels: Labels | None

    @abstractmethod
    def matches(self) -> AsyncGenerator[list[Match], None]:
        """Yield all that matches at first, and then all or what newly matches, for ever."""

    @abstractmethod
    def payloads(self, news: list[Any]) -> list[dict[str, Any]]:
        """Return the payloads of the events that announce these records."""

    async def run(self) -> AsyncIterator[Any]:
        """Fire whenever something newly matches."""
        announced: Announced | None = None
        async with aclosing(self.matches()) as found:
            async for matches in found:
                while announced is None:
                    announced = await self._recall(matches)
                news = announced.news(matches)
                if not news:
                    continue
                for payload in self.payloads([each.record for each in news]):
                    yield trigger_event(payload)
                announced.add(news)
                await asyncio.sleep(SETTLE_SECONDS)
                await self._remember(announced)

    @property
    def _key(self) -> str:
        """Name the record by a digest of the question: watchers with other filters may share an asset."""
        kwargs = self.serialize()[1]
        asked = {name: kwargs[name] for name in kwargs.keys() & {"pai_conn_id", "region", *self.question}}
        if self.labels is not None:
            asked["labels"] = parse_labels(self.labels)
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"pai_announced_{digest[:16]}"

    async def _recall(self, present: list[Match]) -> Announced | None:
        """Return what was announced before; where nothing is stored, what is there now counts as known.

        ``None``, after an interval, while Airflow does not answer.
        """
        try:
            for store in asset_stores(self):
                stored = await store.aget(self._key)
                if isinstance(stored, Mapping) and {"announced", "floor"} <= stored.keys():
                    return Announced(stored)  # else an earlier version may have stored it
        except (
            Exception
        ) as error:  # raised, it would end the watcher, and Airflow would start it over at once
            self.log.warning(
                "The record of what was announced cannot be read yet: %s: %s", type(error).__name__, error
            )
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
                self.log.exception("The record of what was announced could not be stored.")


def watched_asset(name: str, trigger: AnnouncingTrigger) -> Any:
    """Return an asset that is updated whenever a trigger fires."""
    from airflow.sdk import Asset, AssetWatcher

    return Asset(name=name, watchers=[AssetWatcher(name=f"{name}_watcher", trigger=trigger)])
