# ruff: noqa: F401 - fixtures come by import
"""What a DAG file imports is paid for at every parse: it brings nothing that only tasks need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from airflow_db import AIRFLOW_BASE, AIRFLOW_BRANCH, airflow_db

COSTLY = ("aiohttp", "alibabacloud_credentials", "alibabacloud_tea_openapi", "pandas", "requests", "Tea")


def loaded(code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after ``code``."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}\nimport sys\nprint('loaded', *sys.modules)"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded ")[2].split())


@pytest.fixture(scope="module")
def airflows() -> set[str]:
    """What Airflow loads by itself for any operator and sensor."""
    return loaded(AIRFLOW_BASE)


@pytest.fixture(scope="module")
def ours(airflows: set[str]) -> set[str]:
    """What our operators and sensors add to that."""
    names = "airflow_provider_pai.operators, airflow_provider_pai.sensors"
    return loaded(f"{AIRFLOW_BASE}\nimport {names}") - airflows


def test_operators_and_sensors_load_no_http_library_and_no_sdk(ours: set[str]) -> None:
    assert "airflow_provider_pai.sensors" in ours
    assert not {name for name in ours if name.split(".")[0] in COSTLY}


@pytest.mark.parametrize("module", ["api.client", "hooks", "emulator", "testing"])
def test_operators_and_sensors_do_not_load(ours: set[str], module: str) -> None:
    assert f"airflow_provider_pai.{module}" not in ours


def test_a_gate_adds_nothing_costly_to_what_airflow_loads_for_any_branch() -> None:
    branch = f"{AIRFLOW_BASE}\n{AIRFLOW_BRANCH}"
    added = loaded(f"{branch}\nfrom airflow_provider_pai.operators import PaiRunGateOperator") - loaded(
        branch
    )
    assert "airflow_provider_pai.gating.gate" in added
    assert not {name for name in added if name.split(".")[0] in COSTLY}


@pytest.mark.parametrize(
    "module", ["", ".api", ".api.client", ".connection", ".gating.rules", ".emulator", ".testing"]
)
def test_without_airflow_can_be_used(module: str) -> None:
    assert not {
        name for name in loaded(f"import airflow_provider_pai{module}") if name.split(".")[0] == "airflow"
    }


def test_the_metadata_is_read_without_airflow_and_without_http() -> None:
    names = loaded("import airflow_provider_pai\nairflow_provider_pai.get_provider_info()")
    assert not {name for name in names if name.split(".")[0] in ("airflow", *COSTLY)}


def test_the_emulator_shares_nothing_with_the_client() -> None:
    names = loaded("import airflow_provider_pai.emulator.__main__")
    ours = {name for name in names if name.startswith("airflow_provider_pai.")}
    assert not {name for name in ours if not name.startswith("airflow_provider_pai.emulator")}
