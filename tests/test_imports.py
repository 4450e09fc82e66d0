# ruff: noqa: F401 - fixtures come by import
"""What a DAG file imports is paid for at every parse: it brings nothing that only tasks need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow_db import AIRFLOW_BASE, AIRFLOW_BRANCH, airflow_db

COSTLY = ("aiohttp", "alibabacloud_credentials", "alibabacloud_tea_openapi", "pandas", "requests", "Tea")


GATE = "from airflow_provider_pai.operators import PaiRunGateOperator"
OURS = "import airflow_provider_pai.operators, airflow_provider_pai.sensors"


def loaded(*steps: str) -> list[set[str]]:
    """What a fresh interpreter has loaded after each of these steps."""
    code = "\n".join(f"{step}\nprint('loaded', *sys.modules)" for step in ("import sys", *steps))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return [set(names) for names in said[1:]]


def costly(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in COSTLY}


@pytest.fixture(scope="module")
def added() -> dict[str, set[str]]:
    """What is loaded in a DAG file by our operators and sensors, and then by the gate for the first time.

    Airflow's own share is not counted: what it loads for any operator and sensor, and for any branch.
    """
    base, ours, branch, gate = loaded(AIRFLOW_BASE, OURS, AIRFLOW_BRANCH, GATE)
    return {"ours": ours - base, "gate": gate - branch}


def test_operators_and_sensors_load_no_http_library_and_no_sdk(added: dict[str, set[str]]) -> None:
    assert "airflow_provider_pai.sensors" in added["ours"]
    assert not costly(added["ours"])


@pytest.mark.parametrize("module", ["api.client", "hooks", "emulator", "testing"])
def test_operators_and_sensors_do_not_load(added: dict[str, set[str]], module: str) -> None:
    assert f"airflow_provider_pai.{module}" not in added["ours"]


def test_a_gate_adds_nothing_costly_to_what_airflow_loads_for_any_branch(added: dict[str, set[str]]) -> None:
    assert "airflow_provider_pai.gating.gate" in added["gate"]
    assert not costly(added["gate"])


WITHOUT_AIRFLOW = [
    "import airflow_provider_pai",
    "import airflow_provider_pai.api",
    "from airflow_provider_pai.api import *",
    "import airflow_provider_pai.api.client",
    "import airflow_provider_pai.connection",
    "import airflow_provider_pai.gating.rules",
    "import airflow_provider_pai.emulator",
    "import airflow_provider_pai.testing",
]


@pytest.mark.parametrize("code", WITHOUT_AIRFLOW)
def test_without_airflow_can_be_used(code: str) -> None:
    (names,) = loaded(code)
    assert not {name for name in names if name.split(".")[0] == "airflow"}


def test_the_metadata_is_read_without_airflow_and_without_http() -> None:
    (names,) = loaded("import airflow_provider_pai\nairflow_provider_pai.get_provider_info()")
    assert not {name for name in names if name.split(".")[0] == "airflow"} | costly(names)


def test_the_emulator_shares_nothing_with_the_client() -> None:
    (names,) = loaded("import airflow_provider_pai.emulator.__main__")
    ours = {name for name in names if name.startswith("airflow_provider_pai.")}
    assert not {name for name in ours if not name.startswith("airflow_provider_pai.emulator")}
