"""A real Airflow, `airflow standalone`, as a test sees it from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import psutil
from outside import SECONDS, AirflowApi, airflow_environment, until

from demo.standalone import USER, check, end, free_port, standalone


class Airflow(AirflowApi):
    """A running `airflow standalone`, over its REST API and its processes."""

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
) -> Iterator[Airflow]:
    """Run `airflow standalone` with DAGs of its own home, and end all that it started.

    ``programs`` is the folder with the `airflow` to run; it may take ``seconds`` to start.
    """
    port = free_port()
    with standalone(home, airflow_environment(home, mark, settings, programs), port) as process:
        airflow = kind(home, port, process)
        try:
            until(airflow.is_healthy, f"a healthy Airflow; its log is {json.dumps(str(home))}", seconds)
            airflow.log_in()
            yield airflow
        finally:
            airflow.end()
