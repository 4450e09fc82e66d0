"""What a test does from outside: with a local PAI of its own, Airflow's REST API, and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
import requests

from airflow_provider_pai import api
from demo.standalone import LOOPBACK, PASSWORD, USER

CHECKOUT = Path(__file__).resolve().parents[1]
SECONDS = 180
"""How long anything here may take before the test fails."""
MARK = "PAI_WAITING_TEST"
KEY = {
    "access_key_id": "STS.KeyOfTheWaitingTest",
    "access_key_secret": "SecretThatMustNotBeFoundAnywhere0123456789",
    "security_token": "TokenThatMustNotBeFoundAnywhere0123456789",
}

T = TypeVar("T")


def airflow_environment(
    home: Path, mark: str, settings: dict[str, str], programs: Path = Path(sys.executable).parent
) -> dict[str, str]:
    """Return the environment of an Airflow in its own home, with settings such as `CORE__PARALLELISM`.

    ``programs`` is the folder with the `airflow` to run.
    """
    inherited = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
    return {
        **inherited,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(CHECKOUT),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # Airflow 2 runs one task at a time over SQLite, unless it is told not to look.
        "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
        "SCARF_ANALYTICS": "false",
        MARK: mark,
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }


def until(found: Callable[[], T | None], what: str, seconds: float = SECONDS, *, every: float = 0.3) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(every)
    return answer


def family(mark: str) -> list[psutil.Process]:
    """Return the living processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def files_with(folder: Path, text: str) -> list[Path]:
    """Return the files that contain a text, in a folder and all those in it."""
    wanted = text.encode()
    return [path for path in folder.rglob("*") if path.is_file() and wanted in path.read_bytes()]


def session() -> requests.Session:
    """Return an HTTP session that uses no proxy."""
    made = requests.Session()
    made.trust_env = False
    return made


class LocalPai:
    """The emulator in another process, which knows one STS key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = session()
        self._control("PATCH", "credentials", {"accept": [KEY]})
        self.client = api.PaiClient(url, api.StaticCredential(api.Credential(**KEY)))
        self.workspace_id = self.client.run(api.get_default_workspace()).workspace_id

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, f"{self.url}/_emulator/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def experiment(self, name: str) -> str:
        """Make an experiment and return its id."""
        made: str = self.client.run(api.create_experiment(name, workspace_id=self.workspace_id))
        return made

    def run(self, experiment_id: str, name: str, **labels: str) -> str:
        """Make a run and return its id."""
        made: str = self.client.run(api.create_run(experiment_id, name=name, labels=labels))
        return made

    def label(self, run_id: str, **labels: str) -> None:
        """Label a run from outside Airflow."""
        self.client.run(api.set_run_labels(run_id, labels))

    def connection(
        self, conn_id: str, secret: str = KEY["access_key_secret"], **extras: str
    ) -> dict[str, Any]:
        """Return a connection to here as the Connections page saves it."""
        extras = {"region": "cn-hangzhou", "security_token": KEY["security_token"], **extras}
        return {
            "connection_id": conn_id,
            "conn_type": "pai",
            "host": self.url,
            "login": KEY["access_key_id"],
            "password": secret,
            "extra": json.dumps(extras),
        }

    def measure(self, run_id: str, **metrics: float) -> None:
        """Log values of metrics to a run."""
        self.client.run(api.log_run_metrics(run_id, metrics))

    def slow(self, action: str, seconds: float) -> None:
        """Let the next request of an action be answered late, once it is carried out."""
        self._control("POST", "faults", [{"kind": "slow", "action": action, "delay": seconds}])

    def approve(self, model_id: str, version_name: str) -> None:
        """Approve a version, as a person does in PAI's console."""
        self._control("PATCH", "versions", {"model_id": model_id, "version_name": version_name})

    def forget(self) -> None:
        """Count requests from here on."""
        self._control("DELETE", "requests")

    def record(self) -> dict[str, Any]:
        """Return what was asked, as `/_emulator/requests` has it."""
        recorded: dict[str, Any] = self._control("GET", "requests")
        return recorded

    def polls(self, labels: str) -> list[dict[str, Any]]:
        """Return the last requests of ListRuns for these labels, oldest first."""
        listed = self.record()["requests"]
        return [r for r in listed if r["action"] == "ListRuns" and r["query"].get("Labels") == labels]


class AirflowApi:
    """Airflow's REST API, with an administrator's rights once logged in."""

    api = "/api/v2"
    health = "/api/v2/monitor/health"
    moment: ClassVar[dict[str, None]] = {"logical_date": None}  # of a DAG run that is started by hand

    def __init__(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self.password = PASSWORD
        self._session = session()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request to the REST API and return its JSON."""
        answer = self._session.request(method, f"{self.url}{path}", json=body, timeout=120)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def get(self, path: str) -> Any:
        """Return what a path of the REST API shows.

        Airflow 3.3.2 answers 500 for an asset event whose DAG run is queued; it soon is not any more.
        """
        deadline = time.monotonic() + 60
        while True:
            with suppress(AssertionError):
                return self.call("GET", f"{self.api}/{path}")
            if time.monotonic() > deadline:
                return self.call("GET", f"{self.api}/{path}")
            time.sleep(0.5)

    def is_healthy(self) -> bool:
        """Tell whether every component reports for work."""
        with suppress(requests.RequestException, AssertionError):
            health = self.call("GET", self.health)
            # Airflow 2 says None of a dag processor that is part of the scheduler.
            return all(component["status"] in ("healthy", None) for component in health.values())
        return False

    def log_in(self) -> None:
        """Take on the administrator's rights."""
        token = self.call("POST", "/auth/token", {"username": USER, "password": PASSWORD})["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def has_dags(self, *dag_ids: str) -> bool:
        """Tell whether these DAGs have been read; one that cannot be is an error."""
        errors = self.get("importErrors")["import_errors"]
        assert not errors, errors[0]["stack_trace"]
        return {dag["dag_id"] for dag in self.get("dags")["dags"]} >= set(dag_ids)

    def start(self, dag_id: str, **conf: Any) -> str:
        """Start a DAG run and return its id."""
        body = {"dag_run_id": uuid.uuid4().hex, "conf": conf, **self.moment}
        run_id: str = self.call("POST", f"{self.api}/dags/{dag_id}/dagRuns", body)["dag_run_id"]
        return run_id

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return {ti["task_id"]: ti["state"] for ti in found["task_instances"]}

    def instances(self, dag_id: str, run_id: str) -> dict[tuple[str, int], str | None]:
        """Return the state of each task instance, by its task and its map index, which is -1 for none."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100")
        assert found["total_entries"] <= 100
        return {(ti["task_id"], ti["map_index"]): ti["state"] for ti in found["task_instances"]}

    def state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a DAG run that has ended, or ``None``."""
        state: str = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
        return state if state in ("success", "failed") else None

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path)["value"]

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return the addresses behind a task's buttons."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links")
        links: dict[str, str | None] = found.get("extra_links", found)  # Airflow 2 answers with them alone
        return links

    def dag_runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG that have succeeded."""
        found = self.get(f"dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return [run for run in found if run["state"] == "success"]

    def announced(self, asset: str) -> list[tuple[str, float]]:
        """Return (run id, unix time) of each announcement in the events of an asset, oldest first."""
        listed: list[dict[str, Any]] = []
        while page := self.get(f"assets/events?limit=100&order_by=timestamp&offset={len(listed)}")[
            "asset_events"
        ]:
            listed += page
        said = []
        for event in listed:
            payload = event["extra"].get("payload", {}) if event["name"] == asset else {}
            moment = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp()
            runs = payload.get("runs", [payload["run"]] if "run" in payload else [])
            said += [(run["run_id"], moment) for run in runs]
        return said


@contextmanager
def local_pai(mark: str) -> Iterator[LocalPai]:
    """Run the emulator as `python -m airflow_provider_pai.emulator`, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_pai.emulator", "--port", "0"],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        pai = LocalPai(process.stdout.readline().split()[-1])
        with pai.client:
            yield pai
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
