"""A real Airflow, `airflow standalone`, as a test sees it from outside."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil
from outside import CHECKOUT, SECONDS, AirflowApi, LocalPai, airflow_environment, family, local_pai, until

from demo.standalone import LOOPBACK, USER, check, end, free_port, members, standalone

T = TypeVar("T")

SOON = {  # so that DAGs are found as soon as they are written: in Airflow 3, and in Airflow 2
    "DAG_PROCESSOR__REFRESH_INTERVAL": "2",
    "SCHEDULER__DAG_DIR_LIST_INTERVAL": "2",
}
FOR_AIRFLOW_2 = {
    "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "WEBSERVER__WORKERS": "1",
    "API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
}
"""Settings of an Airflow 2 that these tests can talk to; Airflow 3 does not mind them."""
SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    # So that a dead task is noticed within seconds: in Airflow 3, and in Airflow 2.
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "1",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "SCHEDULER__LOCAL_TASK_JOB_HEARTBEAT_SEC": "1",
    "SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "8",
    "SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "2",
    **FOR_AIRFLOW_2,
}
"""Settings of the Airflow that stories share."""


class Airflow(AirflowApi):
    """A running `airflow standalone`, over its REST API and its processes."""

    of_change: ClassVar[dict[str, bool]] = {}  # what else a change of a task's state wants to be told

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        super().__init__(port)
        self.home = home
        self.process = process
        self._restarted: subprocess.Popen[bytes] | None = None

    def is_healthy(self) -> bool:
        """Tell whether every component runs and reports for work."""
        check(self.process)
        return super().is_healthy()

    def command(self, *arguments: str) -> tuple[bool, str]:
        """Run an `airflow` command in this home: whether it succeeded, and what it said."""
        environment = psutil.Process(self.process.pid).environ()
        program = shutil.which("airflow", path=environment["PATH"]) or "airflow"
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        return done.returncode == 0, done.stdout + done.stderr

    def mark_failed(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Mark a task failed, as a person does; Airflow ends it if it runs."""
        path = f"{self.api}/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path, {"new_state": "failed", **self.of_change})

    def wait_until_asked(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> None:
        """Wait until a task waits for a person's answer, and may be given one.

        Airflow 3.3.2 fails a task that is answered before its scheduler has heard from the executor that the
        worker is free again, which can take some seconds.
        """

        def waits() -> bool:
            state = self.states(dag_id, run_id).get(task_id)
            assert state not in ("success", "failed", "upstream_failed", "skipped"), state
            return state in ("deferred", "awaiting_input")

        until(waits, "a question")
        tried = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}")["try_number"]
        heard = re.compile(
            "Received executor event with state success for task instance TaskInstanceKey"
            rf"\(dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}', try_number={tried}, "
            rf"map_index={map_index}\)"
        )
        log = self.home / "standalone.log"
        until(lambda: heard.search(log.read_text(errors="replace")), "the worker free again")

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
        until(lambda: all(map(_has_ended, victims)), "the triggerer dead", 30)
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


def _has_ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # standalone waits for none of its children
    return True


class Airflow2(Airflow):
    """The same of Airflow 2, which makes up the administrator's password itself."""

    api = "/api/v1"
    health = "/api/v1/health"
    moment: ClassVar = {}
    of_change: ClassVar = {"dry_run": False}

    def log_in(self) -> None:
        """Take on the administrator's rights."""
        self.password = (self.home / "standalone_admin_password.txt").read_text()
        self._session.auth = (USER, self.password)


@contextmanager
def running(
    home: Path,
    mark: str,
    settings: dict[str, str],
    programs: Path = Path(sys.executable).parent,
    kind: type[Airflow] = Airflow,
    seconds: float = SECONDS,
    path: str = "",
) -> Iterator[Airflow]:
    """Run `airflow standalone` with DAGs of its own home, and end all that it started.

    ``programs`` is the folder with the `airflow` to run; it may take ``seconds`` to start. It answers below
    a path, such as ``/data/airflow``.
    """
    port = free_port()
    settings = {**settings, "API__BASE_URL": f"http://{LOOPBACK}:{port}{path}"}
    with standalone(home, airflow_environment(home, mark, settings, programs), port) as process:
        airflow = kind(home, port, process)
        airflow.url += path
        try:
            until(airflow.is_healthy, f"a healthy Airflow; its log is {json.dumps(str(home))}", seconds)
            airflow.log_in()
            yield airflow
        finally:
            airflow.end()


@contextmanager
def whole_airflow(
    version: str, home: Path, settings: dict[str, str]
) -> Iterator[Callable[[Callable[[str, Airflow, LocalPai], T]], T]]:
    """Run an Airflow of a version for some stories, and leave none of its processes behind.

    Yields what plays a story with a local PAI of its own.
    """
    mark = uuid.uuid4().hex
    (home / "dags").mkdir()
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        # As Airflow 3 has it: who reads does not stop who writes.
        database.execute("PRAGMA journal_mode=WAL")
    programs = CHECKOUT / ".venvs" / version / "bin"
    kind = Airflow2 if version.startswith("2.") else Airflow
    try:
        with running(home, mark, {**SOON, **settings}, programs, kind) as airflow:

            def play(tell: Callable[[str, Airflow, LocalPai], T]) -> T:
                with local_pai(mark) as pai:
                    return tell(version, airflow, pai)

            yield play
        assert family(mark) == []
    finally:
        kill_sessions(mark)


def kill_sessions(mark: str) -> None:
    """Kill all that is marked, and its sessions: some of Airflow's processes overwrite their environment."""
    for process in family(mark):
        with suppress(psutil.Error, ProcessLookupError):
            for pid in members(os.getsid(process.pid)):
                psutil.Process(pid).kill()
