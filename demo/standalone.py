"""`airflow standalone` as a process that can be watched, and ended without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"
USER = PASSWORD = "admin"  # it listens on this machine alone
LOG = "standalone.log"


class AirflowDiedError(Exception):
    """Airflow did not start, or did not stay."""


def free_port(wanted: int = 0) -> int:
    """Return the port, or any free one for 0.

    :raises OSError: something listens on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed just now is free
        probe.bind((LOOPBACK, wanted))
        return int(probe.getsockname()[1])


@contextmanager
def standalone(home: Path, environment: dict[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `airflow standalone` on this port; afterwards end it and all that it started."""
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({USER: PASSWORD}))
    settings = {
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        # May be under a path.
        "AIRFLOW__API__BASE_URL": environment.get("AIRFLOW__API__BASE_URL", f"http://{LOOPBACK}:{port}"),
        # The same in Airflow 2.
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": LOOPBACK,
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
        "AIRFLOW__WEBSERVER__BASE_URL": f"http://{LOOPBACK}:{port}",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        # Each worker is a process of some 200 MB, and Airflow 3.0 would start four for its API.
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": environment.get("AIRFLOW__CORE__PARALLELISM", "4"),
        # The usual ports of these may be another Airflow's.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }
    with (home / LOG).open("w") as log:
        process = subprocess.Popen(
            ["airflow", "standalone"],
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C does not reach it, and its descendants are known by the session
        )
    try:
        yield process
    finally:
        end(process)


def check(process: subprocess.Popen[bytes]) -> None:
    """See that standalone runs, and its components, whose death it does not notice.

    :raises AirflowDiedError: with what died.
    """
    if process.poll() is not None:
        raise AirflowDiedError(f"airflow standalone ended with status {process.returncode}")
    with suppress(psutil.NoSuchProcess):  # then the next check sees it
        if any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process(process.pid).children()):
            raise AirflowDiedError("a component of airflow standalone died")


def members(session: int) -> list[int]:
    """Return the living processes of a session; Airflow's tasks leave its process group, but not this."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def end(leader: subprocess.Popen[bytes]) -> None:
    """End a whole session: asked once each, and killed where that does not help."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        told: set[int] = set()
        deadline = time.monotonic() + 10
        while (alive := set(members(leader.pid))) and time.monotonic() < deadline:
            for pid in alive - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= alive
            time.sleep(0.2)
            leader.poll()
    leader.wait(timeout=5)
