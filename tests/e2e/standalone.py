"""A real Airflow and a local PAI, each in processes of its own, as a test sees them from outside."""

from __future__ import annotations

import json
import os
import shutil
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
from demo.standalone import LOOPBACK, PASSWORD, USER, check, end, free_port, standalone

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 180
"""How long anything here may take before the test fails."""
MARK = "PAI_WAITING_TEST"

T = TypeVar("T")


def until(found: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.3)
    return answer


def family(mark: str) -> list[psutil.Process]:
    """Return the living processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def session() -> requests.Session:
    """Return an HTTP session that no proxy stands in the way of."""
    made = requests.Session()
    made.trust_env = False
    return made


class LocalPai:
    """The emulator in another process, which knows one STS key."""

    def __init__(self, url: str, key: dict[str, str]) -> None:
        self.url = url
        self._session = session()
        self._control("PATCH", "credentials", {"accept": [key]})
        self.client = api.PaiClient(url, api.StaticCredential(api.Credential(**key)))
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

    def polls(self, labels: str) -> list[dict[str, Any]]:
        """Return the last requests of ListRuns for these labels, oldest first."""
        listed = self._control("GET", "requests")["requests"]
        return [r for r in listed if r["action"] == "ListRuns" and r["query"].get("Labels") == labels]


class Airflow:
    """A running `airflow standalone`, over its REST API and its processes."""

    api = "/api/v2"
    health = "/api/v2/monitor/health"
    moment: ClassVar = {"logical_date": None}  # of a DAG run that is started by hand

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.process = process
        self.url = f"http://{LOOPBACK}:{port}"
        self.password = PASSWORD
        self._session = session()
        self._restarted: subprocess.Popen[bytes] | None = None

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
        check(self.process)
        with suppress(requests.RequestException, AssertionError):
            health = self.call("GET", self.health)
            # Airflow 2 says None of a dag processor that is part of the scheduler.
            return all(component["status"] in ("healthy", None) for component in health.values())
        return False

    def log_in(self) -> None:
        """Take on the administrator's rights."""
        token = self.call("POST", "/auth/token", {"username": USER, "password": PASSWORD})["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def command(self, *arguments: str) -> tuple[bool, str]:
        """Run an `airflow` command in this home: whether it succeeded, and what it said."""
        environment = psutil.Process(self.process.pid).environ()
        program = shutil.which("airflow", path=environment["PATH"]) or "airflow"
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        return done.returncode == 0, done.stdout + done.stderr

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

    def state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a DAG run that has ended, or ``None``."""
        state: str = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
        return state if state in ("success", "failed") else None

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path)["value"]

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

    def kill_triggerer(self) -> dict[str, str]:
        """Kill the triggerer and its children with -9, and return the environment they had."""
        leader = self._restarted or self.process
        triggerer = next(
            process
            for process in [psutil.Process(leader.pid), *psutil.Process(leader.pid).children(recursive=True)]
            if any("triggerer" in argument for argument in process.cmdline())
        )
        environment = triggerer.environ()
        victims = [triggerer, *triggerer.children(recursive=True)]
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        _, alive = psutil.wait_procs(victims, timeout=30)
        assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
        return environment

    def start_triggerer(self, environment: dict[str, str]) -> None:
        """Start another triggerer in the place of the killed one."""
        with (self.home / "logs" / "triggerer.log").open("w") as log:
            self._restarted = subprocess.Popen(
                ["airflow", "triggerer"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self) -> None:
        """End the restarted triggerer; the rest ends with :func:`running`."""
        if self._restarted is not None:
            end(self._restarted)


class Airflow2(Airflow):
    """The same of Airflow 2, which makes up the administrator's password itself."""

    api = "/api/v1"
    health = "/api/v1/health"
    moment: ClassVar = {}

    def log_in(self) -> None:
        """Take on the administrator's rights."""
        self.password = (self.home / "standalone_admin_password.txt").read_text()
        self._session.auth = (USER, self.password)


@contextmanager
def local_pai(mark: str, key: dict[str, str]) -> Iterator[LocalPai]:
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
        pai = LocalPai(process.stdout.readline().split()[-1], key)
        with pai.client:
            yield pai
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


@contextmanager
def running(
    home: Path,
    mark: str,
    settings: dict[str, str],
    programs: Path = Path(sys.executable).parent,
    kind: type[Airflow] = Airflow,
    seconds: float = SECONDS,
) -> Iterator[Airflow]:
    """Run `airflow standalone` with DAGs of its own home, and end all that it started.

    ``programs`` is the folder with the `airflow` to run; it may take ``seconds`` to start.
    """
    inherited = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
    environment = {
        **inherited,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(CHECKOUT),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "SCARF_ANALYTICS": "false",
        MARK: mark,
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }
    port = free_port()
    with standalone(home, environment, port) as process:
        airflow = kind(home, port, process)
        try:
            until(airflow.is_healthy, f"a healthy Airflow; its log is {json.dumps(str(home))}", seconds)
            airflow.log_in()
            yield airflow
        finally:
            airflow.end()
