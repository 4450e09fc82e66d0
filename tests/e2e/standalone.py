"""A real Airflow, `airflow standalone`, as a test sees it from outside."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
import pytest
from outside import CHECKOUT, SECONDS, AirflowApi, airflow_environment, family, until

from demo.standalone import LOOPBACK, USER, check, end, free_port, members, standalone

T = TypeVar("T")

FOR_AIRFLOW_2 = {
    "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "WEBSERVER__WORKERS": "1",
    "API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
}
"""Settings of an Airflow 2 that these tests can talk to; Airflow 3 does not mind them."""


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


def running_version(
    version: str, home: Path, mark: str, settings: dict[str, str]
) -> AbstractContextManager[Airflow]:
    """Run `airflow standalone` of a version, as :func:`running` does."""
    programs = CHECKOUT / ".venvs" / version / "bin"
    return running(home, mark, settings, programs, Airflow2 if version.startswith("2.") else Airflow)


@contextmanager
def side_by_side(
    tell: Callable[[str, Path, str], T],
    versions: Iterable[str],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[T]]]:
    """Let something happen in an Airflow of each version, each in a thread, as they mostly wait.

    Only where a test of this session wants the version. ``tell`` takes the version, the home, and the mark
    of all processes that it starts, and ends them.
    """

    def one(version: str) -> T:
        home, mark = homes[version], marks[version]
        (home / "dags").mkdir()
        with closing(sqlite3.connect(home / "airflow.db")) as database:
            # As Airflow 3 has it: who reads does not stop who writes.
            database.execute("PRAGMA journal_mode=WAL")
        try:
            told = tell(version, home, mark)
            assert family(mark) == []
        finally:
            kill_sessions(mark)
        return told

    wanted = [v for v in versions if any(f"[{v}" in item.name for item in request.session.items)]
    homes = {version: tmp_path_factory.mktemp(f"airflow-{version}") for version in wanted}
    marks = {version: uuid.uuid4().hex for version in homes}
    pool = ThreadPoolExecutor(max(1, len(homes)))
    try:
        yield {version: pool.submit(one, version) for version in homes}
    finally:
        for mark in marks.values():  # none is left, unless the tests were interrupted
            kill_sessions(mark)
        pool.shutdown()


def told(tell: Callable[[str, Path, str], T], versions: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the fixtures ``telling`` and ``story`` of a module, which needs both by these names.

    ``story`` is what :func:`side_by_side` brings of each version.
    """

    @pytest.fixture(scope="module")
    def telling(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[dict[str, Future[T]]]:
        with side_by_side(tell, versions, request, tmp_path_factory) as stories:
            yield stories

    @pytest.fixture(scope="module", params=versions)
    def story(request: pytest.FixtureRequest, telling: dict[str, Future[T]]) -> T:
        return telling[request.param].result()

    return telling, story


def kill_sessions(mark: str) -> None:
    """Kill all that is marked, and its sessions: some of Airflow's processes overwrite their environment."""
    for process in family(mark):
        with suppress(psutil.Error, ProcessLookupError):
            for pid in members(os.getsid(process.pid)):
                psutil.Process(pid).kill()
