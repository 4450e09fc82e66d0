"""Airflow over many machines, all played by this one: each has a name, and dies as machines do."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import machine
import psycopg2
from outside import CHECKOUT, AirflowApi, airflow_environment, until
from servers import program

from demo.standalone import LOOPBACK, PASSWORD, USER, end, free_port, members

HERE = Path(__file__).resolve().parent
MACHINES = {
    "api-server": ["airflow", "api-server"],
    "dag-processor": ["airflow", "dag-processor"],
    **{f"scheduler-{number}": ["airflow", "scheduler"] for number in (1, 2)},
    **{f"triggerer-{number}": ["airflow", "triggerer"] for number in (1, 2)},
    **{f"worker-{number}": ["airflow", "celery", "worker", "-H", f"worker-{number}"] for number in (1, 2)},
}
SETTINGS = {
    "CORE__EXECUTOR": "CeleryExecutor",
    "CORE__HOSTNAME_CALLABLE": "machine.name",
    "CORE__DAGS_FOLDER": str(HERE / "dags"),
    "CELERY__WORKER_CONCURRENCY": "4",
    # A machine that died is noticed within seconds. What its worker had taken and not begun goes to another
    # one after visibility_timeout; that is the longest, as Celery would also take it from one that lives.
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "40",
    # Redis may hand a task to a worker just as it dies; nobody has it then, until it is queued again.
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "90",
    "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": "5",  # so that both get their share
}


class Cluster(AirflowApi):
    """A running Airflow, over its REST API, its database and its machines."""

    def __init__(self, home: Path, port: int, database: str) -> None:
        super().__init__(port)
        self.home = home
        self.machines: dict[str, subprocess.Popen[bytes]] = {}
        self.database = database
        self._database = psycopg2.connect(database)
        self._database.autocommit = True

    def ask(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what the database answers."""
        with self._database.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchall()

    def dump(self) -> Path:
        """Write all that is in the database to a file."""
        dump = self.home / "dump.sql"
        subprocess.run([program("pg_dump", "postgresql"), f"--file={dump}", self.database], check=True)
        return dump

    def boot(self, name: str, environment: dict[str, str]) -> None:
        """Start the process of a machine."""
        ports = ("WORKER_LOG_SERVER_PORT", "TRIGGER_LOG_SERVER_PORT")
        own = {f"AIRFLOW__LOGGING__{port}": str(free_port()) for port in ports}
        with self.log(name).open("w") as log:
            self.machines[name] = subprocess.Popen(
                MACHINES[name],
                env={**environment, **own, machine.VARIABLE: name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Return the file with what a machine's process prints."""
        return self.home / f"{name}.log"

    def is_healthy(self) -> bool:
        """Tell whether every machine takes part."""
        for name, process in self.machines.items():
            assert process.poll() is None, (
                f"{name} ended with status {process.returncode}; see {self.log(name)}"
            )
        alive = "SELECT DISTINCT hostname FROM job WHERE state = 'running' AND latest_heartbeat IS NOT NULL"
        present = {name for (name,) in self.ask(alive)}
        present |= {name for name in self.machines if f"@{name} ready" in self.log(name).read_text()}
        return super().is_healthy() and present >= self.machines.keys() - {"api-server"}

    def freeze(self, name: str) -> None:
        """Stop all that runs on a machine."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        self._signal(name, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """Kill all that runs on a machine with -9."""
        until(lambda: not self._signal(name, signal.SIGKILL), f"{name} dead")
        self.machines.pop(name).wait(timeout=30)

    def _signal(self, name: str, number: signal.Signals) -> list[int]:
        alive = members(self.machines[name].pid)
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return alive

    def end(self) -> None:
        """End all machines that are still there, the last one first."""
        self._database.close()
        while self.machines:
            _, process = self.machines.popitem()
            end(process)


@contextmanager
def cluster(home: Path, mark: str, database: str, broker: str) -> Iterator[Cluster]:
    """Run Airflow over PostgreSQL and Redis; its machines have been started, but may not be up yet."""
    home.mkdir()
    port = free_port()
    (home / "passwords.json").write_text(json.dumps({USER: PASSWORD}))
    shared = {
        "DATABASE__SQL_ALCHEMY_CONN": database,
        "CELERY__BROKER_URL": broker,
        "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{port}/execution/",
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "API__SECRET_KEY": secrets.token_hex(32),
        "API__HOST": LOOPBACK,
        "API__PORT": str(port),
        "API__BASE_URL": f"http://{LOOPBACK}:{port}",
    }
    environment = airflow_environment(home, mark, {**SETTINGS, **shared})
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (CHECKOUT, HERE)))
    with (home / "migrate.log").open("w") as log:
        subprocess.run(
            ["airflow", "db", "migrate"],
            env={**environment, machine.VARIABLE: "migrate"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=300,
        )
    airflow = Cluster(home, port, database)
    try:
        for name in MACHINES:
            airflow.boot(name, environment)
        yield airflow
    finally:
        airflow.end()
