"""The index from which ListRuns is answered.

It has a row for each run and label, and one for each run under the empty label. A row holds every column that
can be filtered or sorted by, so that the runs of a label, in order, are one range of the index.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .records import StoredRun

SCHEMA = """
CREATE TABLE IF NOT EXISTS listing (
    workspace_id TEXT, label TEXT, created TEXT, seq INTEGER,
    name TEXT, experiment_id TEXT, source_type TEXT, source_id TEXT,
    PRIMARY KEY (workspace_id, label, created, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS listing_by_experiment ON listing (experiment_id, created, seq) WHERE label = '';
"""
_COMPARISONS = {
    "equals": "{} = ?",
    "since": "{} >= ?",
    "begins": "instr({}, ?) = 1",
    "contains": "instr({}, ?) > 0",
    "never": "{} = ? AND FALSE",
}
_ANSWERS = 16  # whole answers kept until the next write


class Order(NamedTuple):
    """One field to sort by: `created` or `name`."""

    column: str
    descending: bool


class Condition(NamedTuple):
    """A comparison with a column of `listing`; `comparison` is a key of `_COMPARISONS`."""

    column: str
    comparison: str
    value: str


class RunSearch(NamedTuple):
    """A ListRuns query without its page. Labels are `(key, value)`, and a run must carry all of them."""

    workspace_id: str
    order: tuple[Order, ...]
    labels: tuple[tuple[str, str], ...] = ()
    conditions: tuple[Condition, ...] = ()


Row = tuple[str, str, str, int, str, str, str, str]
"""A run under one of its labels: the columns of the index, in their order."""


def rows(seq: int, run: StoredRun) -> list[Row]:
    """The index rows of the run stored as `seq`."""
    labels = ["", *(_label((key, label.value)) for key, label in run.labels.items())]
    rest = (run.created, seq, run.name, run.experiment_id, run.source_type, run.source_id)
    return [(run.workspace_id, label, *rest) for label in labels]


class Listing:
    """The index in `db`. The caller holds the lock and the transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._sizes: dict[tuple[str, str], int] = {}
        self._answers: dict[RunSearch, array[int]] = {}

    def add(self, new: Iterable[Row]) -> None:
        """Add rows to the index, sorted: that is twice as fast."""
        ordered = sorted(new)
        self._db.executemany("INSERT INTO listing VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ordered)
        self._changed(ordered, 1)

    def remove(self, gone: Iterable[Row]) -> None:
        """Remove rows from the index."""
        ordered = sorted(gone)
        self._db.executemany(
            "DELETE FROM listing WHERE workspace_id = ? AND label = ? AND created = ? AND seq = ?",
            [row[:4] for row in ordered],
        )
        self._changed(ordered, -1)

    def forget(self) -> None:
        """Drop all cached sizes and answers, as after a rollback."""
        self._sizes.clear()
        self._answers.clear()

    def page(self, search: RunSearch, offset: int, limit: int) -> tuple[list[int], int]:
        """A page of the runs that `search` finds, as their `seq`, and how many runs it finds."""
        by_time = len(search.order) == 1 and search.order[0].column == "created"
        if len(search.labels) > 1 or search.conditions or not by_time:
            # No single index range holds this answer, so every page of it costs the same.
            answer = self._answer(search)
            return answer[offset : offset + limit].tolist(), len(answer)
        total = self._size(search.workspace_id, _label(*search.labels))
        if offset <= total // 2:
            return self._slice(search, offset, limit), total
        # SQLite steps to an offset row by row, so the far half is read from the other end.
        end = max(total - offset, 0)
        length = min(limit, end)
        backwards = search._replace(order=(Order("created", not search.order[0].descending),))
        return self._slice(backwards, end - length, length)[::-1], total

    def _slice(self, search: RunSearch, offset: int, limit: int) -> list[int]:
        sql, values = self._select(search)
        found = self._db.execute(f"{sql} LIMIT ? OFFSET ?", (*values, limit, offset))
        return [seq for (seq,) in found]

    def _answer(self, search: RunSearch) -> array[int]:
        if search not in self._answers:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            self._answers[search] = array("q", (seq for (seq,) in self._db.execute(*self._select(search))))
        return self._answers[search]

    def _select(self, search: RunSearch) -> tuple[str, list[str]]:
        workspace_id = search.workspace_id
        # The rarest label comes first; the others are looked up only for its rows.
        labels = sorted(map(_label, search.labels), key=lambda label: self._size(workspace_id, label))
        values = [workspace_id, labels[0] if labels else ""]
        clauses = ["workspace_id = ? AND label = ?"]
        for label in labels[1:]:
            clauses.append(
                "EXISTS (SELECT 1 FROM listing AS other WHERE other.workspace_id = listing.workspace_id"
                " AND other.label = ? AND other.created = listing.created AND other.seq = listing.seq)"
            )
            values.append(label)
        for condition in search.conditions:
            clauses.append(_COMPARISONS[condition.comparison].format(condition.column))
            values.append(condition.value)
        # Insertion order breaks ties, in the direction of the first field, so that the order is total.
        terms = [*search.order, Order("seq", search.order[0].descending)]
        order = ", ".join(f"{column} {'DESC' if descending else 'ASC'}" for column, descending in terms)
        return f"SELECT seq FROM listing WHERE {' AND '.join(clauses)} ORDER BY {order}", values

    def _size(self, workspace_id: str, label: str) -> int:
        # Counted once, then kept up to date: counting 100,000 rows takes longer than reading a page.
        key = workspace_id, label
        if key not in self._sizes:
            sql = "SELECT COUNT(*) FROM listing WHERE workspace_id = ? AND label = ?"
            (self._sizes[key],) = self._db.execute(sql, key).fetchone()
        return self._sizes[key]

    def _changed(self, changed: Iterable[Row], sign: int) -> None:
        self._answers.clear()
        for key, count in Counter(row[:2] for row in changed).items():
            if key in self._sizes:
                self._sizes[key] += sign * count


def _label(*pair: tuple[str, str]) -> str:
    # Key and value as one text, with a separator that no label holds; without a label, the empty text.
    return "\x1f".join(pair[0]) if pair else ""
