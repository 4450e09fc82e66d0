# ruff: noqa: F401, F811 - fixtures come by import
"""What tasks read and write reaches OpenLineage, by its own provider where that is installed; else nothing of it.

A DAG runs in an Airflow of its own process, with the provider's listener and the client's file transport.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_db import airflow_db, first, new_dag, pai, run_dag, task

from airflow_provider_pai.api import Metric, Run
from airflow_provider_pai.lineage.notes import MOST, Lineage, file_dataset
from airflow_provider_pai.operators import (
    PaiCreateRunOperator,
    PaiListRunsOperator,
    PaiLogRunMetricsOperator,
    PaiPromoteRunOperator,
    PaiRegisterModelVersionOperator,
    PaiRunGateOperator,
    PaiSetModelVersionApprovalOperator,
    PaiUpdateRunOperator,
)
from airflow_provider_pai.sensors import PaiRunSensor

INSTALLED = importlib.util.find_spec("openlineage") is not None
EVENTS, ROLE = "PAI_TEST_EVENTS", "PAI_TEST_ROLE"
URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/model.onnx"
IN_A_PROCESS_OF_ITS_OWN = pytest.mark.skipif(ROLE not in os.environ, reason="runs in a process of its own")


def pipeline(folder: Path) -> Any:
    """A DAG with every operator that reads or writes."""
    with new_dag() as dag:

        @task.pai_run(experiment="digits")
        def train(pai_run=None):
            pai_run.set_labels({"trained": "yes"})

        wait = PaiRunSensor(task_id="wait", labels="is_evaluation:true", poke_interval=0.1)
        listed = PaiListRunsOperator(task_id="list", labels="is_evaluation:true")
        written = PaiListRunsOperator(task_id="write", labels="a:b", output_path=(folder / "runs").as_uri())
        gate = PaiRunGateOperator(
            task_id="gate",
            runs=wait.output,
            baseline_labels="champion:true",
            metrics={"accuracy": ">= baseline + 0.01"},
        )
        register = PaiRegisterModelVersionOperator(
            task_id="register", model_name="digits", uri=URI, verdict=gate.output
        )
        approve = PaiSetModelVersionApprovalOperator(
            task_id="approve",
            model_id="{{ ti.xcom_pull('register').model_id }}",
            version_name="{{ ti.xcom_pull('register').version_name }}",
            approval="Approved",
        )
        run_id = "{{ ti.xcom_pull('gate').run.run_id }}"
        update = PaiUpdateRunOperator(task_id="update", run_id=run_id, labels={"stage": "late"})
        log = PaiLogRunMetricsOperator(task_id="log", run_id=run_id, metrics={"latency": 3})
        promote = PaiPromoteRunOperator(task_id="promote", run_id=run_id, labels="champion:true")
        create = PaiCreateRunOperator(task_id="create", experiment_id="{{ params.experiment }}", name="new")
        failing = PaiRunGateOperator(
            task_id="failing", runs=wait.output, metrics={"accuracy": "> 2"}, on_fail="fail"
        )
        train() >> wait >> listed >> written >> gate >> register >> approve >> update >> log >> promote
        promote >> create >> failing
    return dag


@IN_A_PROCESS_OF_ITS_OWN
def test_the_pipeline_runs(pai: Any, tmp_path: Path) -> None:
    pai.add_run("champion", labels={"champion": "true"}, metrics={"accuracy": 0.9})
    pai.add_run(
        "night",
        labels={"is_evaluation": "true", "a": "b"},
        metrics={"accuracy": 0.95, "odd": float("nan")},
        source_type="DLC",
        source_id="dlc1",
    )
    experiment = pai.add_experiment("other")
    ran = run_dag(pipeline(tmp_path), conf={"experiment": experiment})
    wrong = {name: state for name, state in ran.states.items() if state != "success"}
    assert wrong == {"failing": "failed"}, ran.errors
    loaded = [name for name in sys.modules if name.split(".")[0] == "openlineage"]
    assert bool(loaded) == (os.environ[ROLE] == "with")


def in_a_process_of_its_own(role: str, folder: Path, settings: dict[str, str]) -> list[dict[str, Any]]:
    """Run the pipeline, and return the events that came of it."""
    events = folder / "events"
    events.mkdir()
    settings = {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(events / "event")}),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", __file__]
        + ["-k", "test_the_pipeline_runs"],
        env={**os.environ, ROLE: role, "SETTINGS_OF_THE_TESTS": json.dumps(settings)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout + done.stderr)
    return [json.loads(line) for file in sorted(events.iterdir()) for line in file.read_text().splitlines()]
