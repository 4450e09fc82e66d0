"""What the triggers share: their arguments, and the poll behind them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

from airflow_provider_pai.api import PaiError
from airflow_provider_pai.api.query import parse_labels
from airflow_provider_pai.waiting.client import SharedClient, shared_client
from airflow_provider_pai.waiting.listing import newest_runs
from airflow_provider_pai.waiting.poller import Snapshot, Watch, shared_watch

__all__ = ["WatchingTrigger", "open_watch"]


class WatchingTrigger:
    """A trigger that looks at the snapshots of a shared poll; its arguments are its attributes."""

    labels: Mapping[str, str] | str

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes an equal trigger in another process: plain JSON, and no secret."""
        kwargs = {name: getattr(self, name) for name in _parameters(cast("Any", type(self)))}
        for name, value in kwargs.items():
            if isinstance(value, Mapping):
                kwargs[name] = dict(sorted(value.items()))  # Airflow compares their text
            elif isinstance(value, datetime):
                kwargs[name] = value.isoformat()
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatchingTrigger) and self.serialize() == other.serialize()

    def __hash__(self) -> int:
        return hash(str(self.serialize()))

    def shared_stream_key(self) -> Hashable | None:
        """Name the poll that this trigger shares with all that differ in other filters only."""
        try:
            return stream_key(self.serialize()[1])
        except PaiError:
            return None  # run() says what is wrong

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Snapshot]:
        """Poll for all triggers with the same key, for as long as there are any."""
        async with open_watch(kwargs) as (_, watch):
            async for snapshot in watch.snapshots():
                yield snapshot


@functools.cache
def _parameters(trigger: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(trigger).parameters)


def stream_key(kwargs: dict[str, Any]) -> Hashable:
    """Return what the waits that share a poll have in common."""
    labels = tuple(parse_labels(kwargs["labels"]).items())
    return ("airflow_provider_pai", kwargs["pai_conn_id"], kwargs["region"], kwargs["workspace_id"], labels)


@asynccontextmanager
async def open_watch(
    kwargs: dict[str, Any], owner: object = None
) -> AsyncIterator[tuple[SharedClient, Watch]]:
    """Open the client and the watch for a trigger's arguments; with an ``owner`` it is theirs alone."""
    query = newest_runs(kwargs["workspace_id"], kwargs["labels"])
    async with shared_client(kwargs["pai_conn_id"], kwargs["region"]) as client:
        with shared_watch((stream_key(kwargs), owner and id(owner)), client, query) as watch:
            yield client, watch
