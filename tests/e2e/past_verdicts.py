"""Verdicts of days gone by: copies of a real one, in the metadata database of an Airflow that runs."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any


class Past:
    """The rows of a DAG run whose only task is a gate, and copies of them under other dates."""

    def __init__(self, home: Path, dag_id: str, run_id: str) -> None:
        self._path = home / "airflow.db"
        self._where = (dag_id, run_id)

    def copy(self, run_id: str, day: str, change: Callable[[str, Any], Any]) -> None:
        """Copy the DAG run, its task instance and its XComs; ``change`` gets each XCom's key and value."""
        with closing(sqlite3.connect(self._path, timeout=60)) as database, database:
            new: dict[str, Any] = {"run_id": run_id, "run_after": day, "logical_date": day, "timestamp": day}
            (dag_run,) = self._rows(database, "dag_run")
            number = self._insert(database, "dag_run", {**self._kept(dag_run, new), "id": None})
            for row in self._rows(database, "task_instance"):
                self._insert(database, "task_instance", {**self._kept(row, new), "id": uuid.uuid4().hex})
            for row in self._rows(database, "xcom"):
                value = json.dumps(change(row["key"], json.loads(row["value"])))
                self._insert(database, "xcom", {**self._kept(row, new), "dag_run_id": number, "value": value})

    def move(self, day: str) -> None:
        """Let the DAG run have been of another day."""
        with closing(sqlite3.connect(self._path, timeout=60)) as database, database:
            database.execute(
                "UPDATE dag_run SET run_after = ?, logical_date = ? WHERE dag_id = ? AND run_id = ?",
                [day, day, *self._where],
            )

    def _rows(self, database: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
        found = database.execute(f"SELECT * FROM {table} WHERE dag_id = ? AND run_id = ?", self._where)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    @staticmethod
    def _kept(row: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {name: new.get(name, value) for name, value in row.items()}

    @staticmethod
    def _insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> int | None:
        places = ", ".join("?" * len(row))
        statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"
        return database.execute(statement, list(row.values())).lastrowid
