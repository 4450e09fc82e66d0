"""`make ui` in full: it starts a real Airflow, and an interrupt leaves nothing of it behind."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 300
MARK = "PAI_DEMO_UI_TEST"

pytestmark = [
    pytest.mark.timeout(3 * SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes by their environment"),
]


class Ui:
    """The program under test, and all that it started: every process that inherited its mark."""

    def __init__(self, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "demo.ui", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.output.put(line)
        self.output.put("")  # it has ended

    def address(self) -> str:
        """Wait for the line with the address."""
        seen = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", seen)) is None:
            seen += (line := self.output.get(timeout=SECONDS))
            assert line, f"It has ended, and said:\n{seen}"
        return found[0]

    def family(self) -> list[psutil.Process]:
        """Return the living processes that carry the mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """End what a failed test leaves."""
        for process in self.family():
            process.kill()
        self.process.wait(timeout=10)
        self.reader.join(timeout=10)
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Ui]]:
    started: list[Ui] = []

    def run(*arguments: str) -> Ui:
        started.append(Ui(*arguments))
        return started[-1]

    yield run
    for ui in started:
        ui.close()


def test_serves_the_examples_until_it_is_interrupted(start: Callable[..., Ui]) -> None:
    ui = start("--port", "0")
    url = ui.address()
    session = requests.Session()
    session.trust_env = False
    login = session.post(f"{url}/auth/token", json={"username": "admin", "password": "admin"}, timeout=30)
    session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"

    def get(path: str) -> dict:
        answer = session.get(f"{url}/api/v2/{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    assert get("importErrors")["import_errors"] == []
    files = {dag["relative_fileloc"] for dag in get("dags")["dags"]}
    assert files == {path.name for path in (CHECKOUT / "dags_examples").glob("*.py")}
    connection = get("connections/pai_default")
    assert (connection["conn_type"], connection["password"]) == ("pai", "***")
    shown = {**connection, "port": 0, "schema": ""}  # what the Connections page sends
    tested = session.post(f"{url}/api/v2/connections/test", json=shown, timeout=30).json()
    assert tested["status"], tested

    runs = "dags/pai_list_runs/dagRuns"
    session.post(f"{url}/api/v2/{runs}", json={"dag_run_id": "e2e", "logical_date": None}, timeout=30)
    deadline = time.monotonic() + SECONDS
    while (state := get(f"{runs}/e2e")["state"]) not in ("success", "failed") and time.monotonic() < deadline:
        time.sleep(1)
    assert state == "success"
    links = get(f"{runs}/e2e/taskInstances/list_evaluations/links")["extra_links"]
    assert "train00000001" in links["PAI console"]
    assert len(get(f"{runs}/e2e/taskInstances/describe/listMapped")["task_instances"]) == 3

    gates = "dags/pai_gate_and_deploy/dagRuns/~/taskInstances/gate/xcomEntries?xcom_key=return_value"
    while not (listed := get(gates)["xcom_entries"]) and time.monotonic() < deadline:
        time.sleep(1)
    gate = f"dags/pai_gate_and_deploy/dagRuns/{listed[0]['run_id']}"
    verdict = get(f"{gate}/taskInstances/gate/xcomEntries/return_value")["value"]
    assert "0.934 is not >= 0.941" in verdict["reason"]
    assert session.get(f"{url}/pai/gates/", timeout=30).ok

    second = start("--port", "0")
    assert second.process.wait(timeout=60) == 1
    assert "Another" in second.output.get(timeout=10)

    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(timeout=60) == 0
    assert ui.family() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


def test_an_interrupt_while_it_starts_leaves_nothing(start: Callable[..., Ui]) -> None:
    ui = start("--port", "0")
    deadline = time.monotonic() + SECONDS
    while len(ui.family()) < 4 and time.monotonic() < deadline:  # itself, the emulator, standalone and more
        time.sleep(0.1)
    ui.process.send_signal(signal.SIGTERM)
    assert ui.process.wait(timeout=60) == 0
    assert ui.family() == []


def test_a_dead_component_ends_it_with_the_log(start: Callable[..., Ui]) -> None:
    ui = start("--port", "0")
    ui.address()
    scheduler = next(process for process in ui.family() if "scheduler" in process.cmdline())
    scheduler.kill()
    assert ui.process.wait(timeout=60) == 1
    ui.reader.join(timeout=10)
    said = "".join(ui.output.queue)
    log, died, _ = said.partition("a component of airflow standalone died")
    assert died
    assert "api-server |" in log
    assert ui.family() == []


def test_a_port_that_is_taken_is_refused_at_once(start: Callable[..., Ui]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ui = start("--port", str(taken.getsockname()[1]))
        assert ui.process.wait(timeout=60) == 1
    assert "Cannot listen on port" in ui.output.get(timeout=10)
