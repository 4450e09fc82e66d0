"""The pytest fixture `pai_emulator`, for the tests of DAGs as much as for our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_pai.emulator import PaiEmulator


@pytest.fixture
def pai_emulator() -> Iterator[PaiEmulator]:
    """A local PAI, fresh for each test.

    `AIRFLOW_CONN_PAI_DEFAULT` set to its `connection_uri` makes it Airflow's default PAI::

        def test_my_dag(pai_emulator, monkeypatch):
            monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai_emulator.connection_uri)
            pai_emulator.add_run(labels={"is_evaluation": "true"}, metrics={"accuracy": 0.93})
            assert my_dag.test().state == "success"

    ``pai_emulator.later(1, pai_emulator.add_run, …)`` lets something happen while the DAG waits.
    """
    # Every pytest run of an environment loads this plugin; only a test that uses it pays for the server.
    from airflow_provider_pai.emulator import PaiEmulator

    with PaiEmulator() as emulator:
        yield emulator
