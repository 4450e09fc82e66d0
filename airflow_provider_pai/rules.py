"""Data that decides: are the awaited runs there?

A condition is plain data. It decides over runs that somebody else fetched, so it means the same wherever
it is asked: in a worker that pokes, in one that was rescheduled, and in a triggerer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.query import RunQuery

__all__ = ["RunCondition"]


class RunCondition(msgspec.Struct, frozen=True, kw_only=True):
    """Wait until ``min_runs`` runs match ``query``; hand on the first ``max_runs`` of them.

    :raises PaiUsageError: bounds that no listing can meet.
    """

    query: RunQuery
    min_runs: int = 1
    max_runs: int = 100

    def __post_init__(self) -> None:
        if self.min_runs < 1:
            raise PaiUsageError(
                f"min_runs={self.min_runs} would be met by nothing at all; wait for at least 1."
            )
        if self.max_runs < self.min_runs:
            raise PaiUsageError(
                f"max_runs={self.max_runs} is less than min_runs={self.min_runs}; raise it, or leave it out."
            )

    def met_by(self, runs: Iterable[Run]) -> list[dict[str, Any]] | None:
        """Return the compact form of the awaited runs, or ``None`` while there are too few.

        ``runs`` come in the query's order and may hold others, which do not count.
        """
        matching = [run for run in runs if self.query.matches(run)]
        if len(matching) < self.min_runs:
            return None
        return [run.to_dict() for run in matching[: self.max_runs]]
