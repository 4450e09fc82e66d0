"""A local PAI and the settings of an Airflow that talks to it, under `.airflow/` in this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
KEY = {"access_key_id": "demo-key", "access_key_secret": "demo-secret-of-the-emulator"}


def fresh_home(name: str) -> Path:
    """Return an empty folder for one Airflow."""
    home = CHECKOUT / ".airflow" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home


@contextmanager
def emulator(home: Path) -> Iterator[str]:
    """Run a local PAI in a process of its own; yields its address and ends it afterwards."""
    command = [
        sys.executable,
        "-m",
        "airflow_provider_pai.emulator",
        "--port",
        "0",
        "--db",
        str(home / "pai.sqlite"),
    ]
    command += ["--access-key-id", KEY["access_key_id"], "--access-key-secret", KEY["access_key_secret"]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "listening on" not in line:
            raise SystemExit("The PAI emulator did not start.")
        yield line.split()[-1]
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def airflow_environment(home: Path, pai_url: str) -> dict[str, str]:
    """Return the environment of an Airflow with the example DAGs and a connection to the local PAI."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    host = pai_url.removeprefix("http://")
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(CHECKOUT),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags_examples"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW_CONN_PAI_DEFAULT": (
            f"pai://http://{KEY['access_key_id']}:{KEY['access_key_secret']}@{host}/?region=cn-hangzhou"
        ),
    }
