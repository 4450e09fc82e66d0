"""What the demo asks of Airflow's REST API."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import requests

from airflow_provider_pai.connection_form import FIELDS
from demo.local import CHECKOUT, KEY
from demo.standalone import LOOPBACK, PASSWORD, USER


class Airflow:
    """The REST API of the Airflow that is being started."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy leads to this machine

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return its JSON."""
        answer = self._session.request(method, f"{self.url}{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def is_healthy(self) -> bool:
        """Tell whether the web server answers and every component reports for work."""
        with suppress(requests.RequestException):
            health = self.call("GET", "/api/v2/monitor/health")
            return all(component["status"] == "healthy" for component in health.values())
        return False

    def set_up(self, pai_url: str) -> None:
        """Log in, and save a connection: unlike one in the environment, the browser shows it."""
        login = {"username": USER, "password": PASSWORD}
        token = self.call("POST", "/auth/token", login)["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"
        connection = {
            "connection_id": "pai_default",
            "conn_type": "pai",
            "description": "The local PAI of this demo",
            "host": pai_url,
            "login": KEY["access_key_id"],
            "password": KEY["access_key_secret"],
            # Airflow 3.3.2's form shows only the extras that are there, and its test button takes no port for
            # a changed one (apache/airflow PR 73298).
            "extra": json.dumps({**dict.fromkeys(FIELDS), "region": "cn-hangzhou", "workspace_id": "145883"}),
            "port": 0,
        }
        self.call("POST", "/api/v2/connections", connection)

    def import_errors(self) -> list[str]:
        """Return what is wrong with the example DAGs."""
        errors = self.call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in errors]

    def has_dags(self) -> bool:
        """Tell whether every example has been read."""
        files = {path.name for path in (CHECKOUT / "dags_examples").glob("*.py")}
        dags = self.call("GET", "/api/v2/dags")["dags"]
        return files <= {dag["relative_fileloc"] for dag in dags} or bool(self.import_errors())

    def unpause(self) -> None:
        """Let the DAGs run that wait to be triggered; one with a schedule would start by itself."""
        for dag in self.call("GET", "/api/v2/dags")["dags"]:
            if dag["timetable_summary"] is None:
                self.call("PATCH", f"/api/v2/dags/{dag['dag_id']}", {"is_paused": False})

    def start(self, dag_id: str) -> None:
        """Start a DAG run."""
        self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})
