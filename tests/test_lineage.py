# ruff: noqa: F401, F811 - fixtures come by import
"""What tasks read and write reaches OpenLineage by its own provider; without that, nothing of it is loaded.

A DAG runs in an Airflow of its own process, with the provider's listener and the client's file transport.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, first, new_dag, pai, run_dag, task

from airflow_provider_pai.api import Metric, Run
from airflow_provider_pai.emulator import PaiEmulator
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
URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/model.onnx"


def declared(url: str) -> Any:
    """A file that a DAG's author declares, as this Airflow's OpenLineage knows it."""
    entity = first("File", "airflow.lineage.entities") if VERSION < (3, 0) else first("Asset", "airflow.sdk")
    return entity(url)


def pipeline(folder: Path) -> Any:
    """A DAG with every operator that reads or writes."""
    with new_dag() as dag:

        @task.pai_run(experiment="digits", outlets=[declared("file:///tmp/model.onnx")])
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


SCRIPT = """
import json, sys
from pathlib import Path
from airflow_db import airflow_db, run_dag
from test_lineage import pipeline

prepare = airflow_db.__wrapped__ if hasattr(airflow_db, "__wrapped__") else airflow_db._get_wrapped_function()
prepare()
folder, experiment = sys.argv[1:]
ran = run_dag(pipeline(Path(folder)), conf={"experiment": experiment})
wrong = {name: state for name, state in ran.states.items() if state != "success"}
assert wrong == {"failing": "failed"}, ran.errors
record = {task_id: ran.xcom(task_id) for task_id in ("gate", "register", "create")}
record["train"] = ran.xcom("train", key="pai_run_id")
Path(folder, "record").write_text(json.dumps(record))
"""


class Story:
    """What a pipeline told OpenLineage, and what it did."""

    def __init__(self, folder: Path) -> None:
        with PaiEmulator() as pai:
            pai.add_run("champion", labels={"champion": "true"}, metrics={"accuracy": 0.9})
            night = {"labels": {"is_evaluation": "true", "a": "b"}, "source_type": "DLC", "source_id": "dlc1"}
            pai.add_run("night", metrics={"accuracy": 0.95, "odd": float("nan")}, **night)
            transport = {"type": "file", "log_file_path": str(folder / "event")}
            settings = {
                "AIRFLOW_CONN_PAI_DEFAULT": pai.connection_uri,
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            }
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), pai.add_experiment("other")],
                cwd=Path(__file__).parent,
                env=os.environ | {"SETTINGS_OF_THE_TESTS": json.dumps(settings)},
                capture_output=True,
                text=True,
                timeout=150,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        files = sorted(folder.glob("event*"))
        events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        self.ended = {
            event["job"]["name"].partition(".")[2]: event
            for event in events
            if event["eventType"] in ("COMPLETE", "FAIL")
        }
        self.record = json.loads((folder / "record").read_text())
        self.run_id = self.record["gate"]["run"]["run_id"]
        (self.champion_id,) = self.record["gate"]["baseline_run_ids"]

    def names(self, task_id: str, which: str) -> list[str]:
        """The datasets that a task read or wrote."""
        return [f"{one['namespace']}/{one['name']}" for one in self.ended[task_id][which]]

    def facet(self, task_id: str, which: str, name: str, number: int = 0) -> dict[str, Any]:
        """What a facet of a dataset says, without what every facet has."""
        facet = self.ended[task_id][which][number]["facets"][name]
        return {key: value for key, value in facet.items() if key[0] != "_"}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("lineage"))


WITH_OPENLINEAGE = pytest.mark.skipif(
    not INSTALLED, reason="apache-airflow-providers-openlineage is not installed here"
)
pytestmark = pytest.mark.timeout(180)
PAI = "pai://cn-hangzhou"


@WITH_OPENLINEAGE
def test_every_task_tells_what_it_read_and_wrote(story: Story) -> None:
    run, champion = f"{PAI}/runs/{story.run_id}", f"{PAI}/runs/{story.champion_id}"
    version = f"{PAI}/models/{story.record['register']['model_id']}/versions/0.1.0"
    created = f"{PAI}/runs/{story.record['create']}"
    read = {task_id: story.names(task_id, "inputs") for task_id in story.ended if task_id}
    wrote = {task_id: story.names(task_id, "outputs") for task_id in story.ended if task_id}
    assert {task_id: datasets for task_id, datasets in read.items() if datasets} == {
        "wait": [run],
        "list": [run],
        "write": [run],
        "gate": [champion, run],
        "register": [run, "oss://bucket/digits/model.onnx"],
        "failing": [run],
    }
    (file,) = wrote.pop("write")
    assert file.startswith("file//")
    trained, model = wrote.pop("train")
    assert (trained, model.rpartition("/tmp/")[2]) == (f"{PAI}/runs/{story.record['train']}", "model.onnx")
    assert {task_id: datasets for task_id, datasets in wrote.items() if datasets} == {
        "register": [version],
        "approve": [version],
        "update": [run],
        "log": [run],
        "promote": [run, champion],
        "create": [created],
    }


@WITH_OPENLINEAGE
def test_a_run_comes_with_what_the_task_knows_of_it(story: Story) -> None:
    known = story.facet("wait", "inputs", "pai_run")
    assert known.pop("gmt_create_time")
    assert known.pop("experiment_id")
    assert known == {
        "run_id": story.run_id,
        "name": "night",
        "workspace_id": "145883",
        "source_type": "DLC",
        "source_id": "dlc1",
        "labels": {"is_evaluation": "true", "a": "b"},
        "metrics": {"accuracy": 0.95, "odd": "NaN"},
    }
    assert story.facet("log", "outputs", "pai_run") == {"run_id": story.run_id, "metrics": {"latency": 3.0}}
    assert story.facet("update", "outputs", "pai_run")["labels"]["stage"] == "late"


@WITH_OPENLINEAGE
def test_a_version_comes_with_its_run_and_its_approval(story: Story) -> None:
    model_id = story.record["register"]["model_id"]
    assert story.facet("register", "outputs", "pai_model_version") == {
        "model_name": "digits",
        "model_id": model_id,
        "version_name": "0.1.0",
        "approval_status": "Pending",
        "run_id": story.run_id,
        "metrics": {"accuracy": 0.95},
    }
    assert story.facet("approve", "outputs", "pai_model_version") == {
        "model_id": model_id,
        "version_name": "0.1.0",
        "approval_status": "Approved",
    }


@WITH_OPENLINEAGE
def test_the_verdict_belongs_to_the_task_that_judged_or_used_it(story: Story) -> None:
    facets = {task_id: event["run"]["facets"].get("pai_verdict") for task_id, event in story.ended.items()}
    assert {task_id for task_id, facet in facets.items() if facet} == {"gate", "register", "failing"}
    assert facets["failing"]["passed"] is False
    gate = facets["gate"]
    assert (gate["passed"], gate["run_id"], gate["checks_total"]) == (True, story.run_id, 1)
    assert gate["baseline_run_ids"] == [story.champion_id]
    (check,) = gate["checks"]
    assert (check["metric"], check["value"], check["limit"]) == ("accuracy", 0.95, 0.91)


@WITH_OPENLINEAGE
def test_our_facets_are_as_the_specification_wants_them(story: Story) -> None:
    ours = [
        (name, facet)
        for event in story.ended.values()
        for facets in [event["run"]["facets"], *(one["facets"] for one in event["inputs"] + event["outputs"])]
        for name, facet in facets.items()
        if name.startswith("pai_")
    ]
    assert {name for name, _ in ours} == {"pai_run", "pai_model_version", "pai_verdict"}
    for _, facet in ours:
        assert facet["_producer"].startswith("https://")
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")


# --- what is noted


def test_where_openlineage_is_not_installed_nothing_of_it_is_loaded(
    pai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facets = "airflow_provider_pai.lineage.facets"
    for name in [name for name in sys.modules if name.split(".")[0] == "openlineage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openlineage", None)  # type: ignore[arg-type]  # as if it were not there
    monkeypatch.delitem(sys.modules, facets, raising=False)
    operator = PaiLogRunMetricsOperator(task_id="log", run_id=pai.add_run(), metrics={"accuracy": 0.9})
    assert operator.get_openlineage_facets_on_complete(None) is None  # has not run yet
    operator.execute({})
    assert facets not in sys.modules
    assert operator.get_openlineage_facets_on_complete(None) is None
    assert facets not in sys.modules


@WITH_OPENLINEAGE
@pytest.mark.filterwarnings("ignore:This module is deprecated. Please use `openlineage")  # 2.10: its client
def test_what_cannot_be_described_fails_no_task(pai: Any) -> None:
    operator = PaiLogRunMetricsOperator(task_id="log", run_id=pai.add_run(), metrics={"accuracy": 0.9})
    operator.execute({})
    assert operator.get_openlineage_facets_on_complete(None).outputs
    operator.note(operator.hook, there_is_no_such_field=[1])
    operator.note(operator.hook, files_read=["oss://[not-an-address"])
    assert operator.get_openlineage_facets_on_complete(None) is None


@WITH_OPENLINEAGE
@pytest.mark.skipif(VERSION < (3, 1), reason="Airflow asks people since 3.1")
def test_an_approval_tells_of_the_run_and_who_decided(pai: Any) -> None:
    from airflow_provider_pai.operators import PaiApprovalOperator

    run_id = pai.add_run(labels={"a": "b"}, metrics={"accuracy": 0.9})
    verdict = PaiRunGateOperator(task_id="gate", labels="a:b", metrics={"accuracy": "> 0.5"}).execute({})
    operator = PaiApprovalOperator(task_id="ask", verdict=verdict)
    by = {"id": "1", "name": "admin"}
    moment = datetime(2026, 11, 27, tzinfo=timezone.utc)
    operator.execute_complete(
        {},
        {"chosen_options": ["Reject"], "params_input": {}, "responded_at": moment, "responded_by_user": by},
    )
    told = operator.get_openlineage_facets_on_complete(None)
    assert [one.name for one in told.inputs] == [f"runs/{run_id}"]
    assert told.run_facets["pai_verdict"].reason.endswith("rejected in Airflow by admin")
    assert told.run_facets["pai_verdict"].passed is False


def test_a_task_that_cannot_tell_where_its_runs_are_notes_nothing() -> None:
    operator = PaiLogRunMetricsOperator(
        task_id="log", run_id="run-1", metrics={"a": 1}, pai_conn_id="there_is_no_such_connection"
    )
    operator.note(operator.hook, written=[Run(run_id="run-1")])
    assert operator.get_openlineage_facets_on_complete(None) is None


@pytest.mark.parametrize(
    ("uri", "namespace", "name"),
    [
        ("oss://bucket.oss-cn-hangzhou.aliyuncs.com/a/b.pt", "oss://bucket", "a/b.pt"),
        ("oss://bucket.oss-cn-hangzhou-internal.aliyuncs.com/a/", "oss://bucket", "a"),
        ("oss://my_conn@bucket/a?b#c.pt", "oss://bucket", "a?b#c.pt"),
        ("s3://conn@bucket/key", "s3://bucket", "key"),
        ("https://user:secret@host/a/b?Signature=secret#c", "https://host", "a/b"),
        ("file:///tmp/runs.jsonl", "file", "/tmp/runs.jsonl"),
        ("/tmp/runs.jsonl", "file", "/tmp/runs.jsonl"),
        ("oss://bucket", "oss://bucket", "/"),
    ],
)
def test_a_file_is_the_same_dataset_however_it_is_reached(uri: str, namespace: str, name: str) -> None:
    assert file_dataset(uri)[:2] == (namespace, name)


def test_an_event_is_bounded_and_names_each_run_once() -> None:
    metrics = [Metric(key=f"metric-{number}", value=1.0) for number in range(2 * MOST)]
    runs = [Run(run_id=f"run-{number % (2 * MOST)}", metrics=metrics) for number in range(3 * MOST)]
    inputs = Lineage(namespace=PAI, read=runs).inputs()
    assert [one.name for one in inputs] == [f"runs/run-{number}" for number in range(MOST)]
    assert len(inputs[0].facets["pai_run"]["metrics"]) == MOST
