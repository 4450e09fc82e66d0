"""The SQLite state, in a file or in memory. Only this module and `listing` use SQL.

A run is stored as its rendered JSON; `listing` indexes it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from .listing import SCHEMA, Listing, RunSearch, rows
from .records import StoredMetric, StoredRun, dumps

_SCHEMA = """
CREATE TABLE IF NOT EXISTS workspace (
    workspace_id TEXT PRIMARY KEY, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS experiment (
    seq INTEGER PRIMARY KEY, experiment_id TEXT UNIQUE, workspace_id TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS model (
    seq INTEGER PRIMARY KEY, model_id TEXT UNIQUE, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS version (
    seq INTEGER PRIMARY KEY, model_id TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
    UNIQUE (model_id, name)
);
CREATE TABLE IF NOT EXISTS run (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT UNIQUE, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS metric (
    run INTEGER, key TEXT, position INTEGER, value, step INTEGER, timestamp INTEGER,
    PRIMARY KEY (run, key, position)
) WITHOUT ROWID;
"""
_CHUNK = 5000  # runs whose index rows are sorted together, which makes inserting them twice as fast


class State:
    """Everything that is stored. Any thread may call every method."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        # A killed process loses nothing. Only a power cut could, which an emulator may ignore.
        self._db.executescript(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
            "PRAGMA cache_size=-131072; BEGIN IMMEDIATE;" + _SCHEMA + SCHEMA + "COMMIT;"
        )
        self._listing = Listing(self._db)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                self._listing.forget()
                raise
            self._db.execute("COMMIT")

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # Workspaces and experiments are few: their JSON bodies are read whole and filtered by the caller.

    def put_workspace(self, body: dict[str, Any]) -> None:
        """Store a workspace, in place of one with the same id."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO workspace VALUES (?, ?)", (body["WorkspaceId"], dumps(body)))

    def workspaces(self) -> list[dict[str, Any]]:
        """All workspaces, in the order of their insertion."""
        return [json.loads(body) for (body,) in self._read("SELECT body FROM workspace ORDER BY rowid")]

    def add_experiment(self, body: dict[str, Any]) -> None:
        """Store a new experiment."""
        with self._write() as db:
            db.execute(
                "INSERT INTO experiment (experiment_id, workspace_id, body) VALUES (?, ?, ?)",
                (body["ExperimentId"], body["WorkspaceId"], dumps(body)),
            )

    def edit_experiment(self, experiment_id: str, edit: Callable[[dict[str, Any]], None]) -> bool:
        """Let `edit` change an experiment's body. Return whether it exists."""
        with self._write() as db:
            body = self.experiment(experiment_id)
            if body is None:
                return False
            edit(body)
            db.execute("UPDATE experiment SET body = ? WHERE experiment_id = ?", (dumps(body), experiment_id))
            return True

    def experiment(self, experiment_id: str) -> dict[str, Any] | None:
        """The experiment's body, or None."""
        found = self._read("SELECT body FROM experiment WHERE experiment_id = ?", experiment_id)
        return json.loads(found[0][0]) if found else None

    def experiments(self, workspace_id: str) -> list[dict[str, Any]]:
        """The experiments of a workspace, in the order of their insertion."""
        found = self._read("SELECT body FROM experiment WHERE workspace_id = ? ORDER BY seq", workspace_id)
        return [json.loads(body) for (body,) in found]

    def delete_experiment(self, experiment_id: str) -> bool:
        """Delete an experiment and its runs. Return whether it existed."""
        with self._write() as db:
            for (run_id,) in self._read(
                "SELECT run_id FROM run WHERE seq IN"
                " (SELECT seq FROM listing WHERE label = '' AND experiment_id = ?)",
                experiment_id,
            ):
                self._delete(db, run_id)
            deleted = db.execute("DELETE FROM experiment WHERE experiment_id = ?", (experiment_id,))
            return deleted.rowcount > 0

    def latest_run(self, experiment_id: str) -> str | None:
        """The experiment's newest run, rendered, or None."""
        found = self._read(
            "SELECT body FROM run WHERE seq ="
            " (SELECT seq FROM listing WHERE label = '' AND experiment_id = ?"
            " ORDER BY created DESC, seq DESC LIMIT 1)",
            experiment_id,
        )
        return str(found[0][0]) if found else None

    # Models and their versions are few too.

    def add_model(self, body: dict[str, Any]) -> None:
        """Store a new model."""
        with self._write() as db:
            db.execute("INSERT INTO model (model_id, body) VALUES (?, ?)", (body["ModelId"], dumps(body)))

    def edit_model(self, model_id: str, edit: Callable[[dict[str, Any]], None]) -> bool:
        """Let `edit` change a model's body. Return whether it exists."""
        with self._write() as db:
            for body in self.models(model_id):
                edit(body)
                db.execute("UPDATE model SET body = ? WHERE model_id = ?", (dumps(body), model_id))
                return True
            return False

    def models(self, model_id: str | None = None) -> list[dict[str, Any]]:
        """All models, or the one with this id, in the order of their insertion."""
        found = self._read("SELECT body FROM model WHERE ?1 IS NULL OR model_id = ?1 ORDER BY seq", model_id)
        return [json.loads(body) for (body,) in found]

    def delete_model(self, model_id: str) -> bool:
        """Delete a model and its versions. Return whether it existed."""
        with self._write() as db:
            db.execute("DELETE FROM version WHERE model_id = ?", (model_id,))
            return db.execute("DELETE FROM model WHERE model_id = ?", (model_id,)).rowcount > 0

    def add_version(self, model_id: str, make: Callable[[list[str]], dict[str, Any]]) -> dict[str, Any]:
        """Store a version that `make` returns the body of, told the names of those that exist."""
        with self._write() as db:
            body = make([version["VersionName"] for version in self.versions(model_id)])
            db.execute(
                "INSERT INTO version (model_id, name, body) VALUES (?, ?, ?)",
                (model_id, body["VersionName"], dumps(body)),
            )
            return body

    def edit_version(self, model_id: str, name: str, edit: Callable[[dict[str, Any]], None]) -> bool:
        """Let `edit` change a version's body. Return whether it exists."""
        with self._write() as db:
            for body in self.versions(model_id):
                if body["VersionName"] == name:
                    edit(body)
                    values = dumps(body), model_id, name
                    db.execute("UPDATE version SET body = ? WHERE model_id = ? AND name = ?", values)
                    return True
            return False

    def versions(self, model_id: str) -> list[dict[str, Any]]:
        """The versions of a model, in the order of their insertion."""
        found = self._read("SELECT body FROM version WHERE model_id = ? ORDER BY seq", model_id)
        return [json.loads(body) for (body,) in found]

    def delete_version(self, model_id: str, name: str) -> bool:
        """Delete a version. Return whether it existed."""
        with self._write() as db:
            values = model_id, name
            return db.execute("DELETE FROM version WHERE model_id = ? AND name = ?", values).rowcount > 0

    # Runs

    def add_runs(self, runs: Iterable[StoredRun]) -> None:
        """Store new runs in one transaction; their metrics become their history."""
        stream = iter(runs)
        with self._write() as db:
            while chunk := list(islice(stream, _CHUNK)):
                first = db.execute("SELECT IFNULL(MAX(seq), 0) + 1 FROM sqlite_sequence").fetchone()[0]
                db.executemany(
                    "INSERT INTO run VALUES (?, ?, ?)",
                    ((seq, run.run_id, run.render()) for seq, run in enumerate(chunk, first)),
                )
                self._listing.add([row for seq, run in enumerate(chunk, first) for row in rows(seq, run)])
                db.executemany(
                    "INSERT INTO metric VALUES (?, ?, 0, ?, ?, ?)",
                    (
                        (seq, metric.key, _storable(metric.value), metric.step, metric.timestamp)
                        for seq, run in enumerate(chunk, first)
                        for metric in run.metrics.values()
                    ),
                )

    def edit_run(
        self, run_id: str, edit: Callable[[StoredRun], None], logged: Iterable[StoredMetric] = ()
    ) -> bool:
        """Let `edit` change a run, and add `logged` to its history. Return whether the run exists."""
        with self._write() as db:
            found = self._find(run_id)
            if found is None:
                return False
            seq, run = found
            before = set(rows(seq, run))
            edit(run)
            after = set(rows(seq, run))
            db.execute("UPDATE run SET body = ? WHERE seq = ?", (run.render(), seq))
            self._listing.remove(before - after)
            self._listing.add(after - before)
            db.executemany(
                "INSERT INTO metric SELECT ?1, ?2, IFNULL(MAX(position), -1) + 1, ?3, ?4, ?5 FROM metric"
                " WHERE run = ?1 AND key = ?2",
                ((seq, m.key, _storable(m.value), m.step, m.timestamp) for m in logged),
            )
            return True

    def delete_run(self, run_id: str) -> bool:
        """Delete a run. Return whether it existed."""
        with self._write() as db:
            return self._delete(db, run_id)

    def run(self, run_id: str) -> str | None:
        """The rendered run, or None."""
        found = self._read("SELECT body FROM run WHERE run_id = ?", run_id)
        return str(found[0][0]) if found else None

    def runs(self) -> list[str]:
        """All runs, rendered, in the order of their insertion."""
        found = self._read("SELECT body FROM run ORDER BY seq")
        return [body for (body,) in found]

    def metric_history(
        self, run_id: str, key: str, offset: int, limit: int
    ) -> tuple[list[StoredMetric], int]:
        """A page of the values logged under `key`, oldest first, and how many there are."""
        with self._lock:
            where = "FROM metric WHERE key = ? AND run = (SELECT seq FROM run WHERE run_id = ?)"
            ((total,),) = self._read(f"SELECT COUNT(*) {where}", key, run_id)
            found = self._read(
                f"SELECT value, step, timestamp {where} ORDER BY position LIMIT ? OFFSET ?",
                key, run_id, limit, offset,
            )  # fmt: skip
        return [StoredMetric(key, float(value), step, timestamp) for value, step, timestamp in found], total

    def search(self, search: RunSearch, offset: int, limit: int) -> tuple[list[str], int]:
        """A page of the runs that `search` finds, rendered, and how many runs it finds."""
        with self._lock:
            seqs, total = self._listing.page(search, offset, limit)
            found = self._read(
                "SELECT seq, body FROM run WHERE seq IN (SELECT value FROM json_each(?))",
                dumps(seqs),
            )
        bodies = dict(found)
        return [bodies[seq] for seq in seqs], total

    def _find(self, run_id: str) -> tuple[int, StoredRun] | None:
        found = self._read("SELECT seq, body FROM run WHERE run_id = ?", run_id)
        return (found[0][0], StoredRun.parse(found[0][1])) if found else None

    def _delete(self, db: sqlite3.Connection, run_id: str) -> bool:
        found = self._find(run_id)
        if found is None:
            return False
        seq, run = found
        self._listing.remove(rows(seq, run))
        db.execute("DELETE FROM metric WHERE run = ?", (seq,))
        db.execute("DELETE FROM run WHERE seq = ?", (seq,))
        return True


def _storable(value: float) -> float | str:
    # SQLite stores NaN as NULL. As a word, float() reads it back.
    return value if value == value else "NaN"
