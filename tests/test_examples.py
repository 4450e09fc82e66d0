# ruff: noqa: F401, F811 - fixtures come by import
"""The example DAGs load, say what they show, and run to success as they stand."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pendulum
import pytest
from airflow_db import EXAMPLES, VERSION, Ran, airflow_db, load_dags, pai, run_dag

pytestmark = pytest.mark.usefixtures("airflow_db")
ONLY_LOADED = {"pai_start_on_evaluation", "pai_gate_on_event", "pai_approve_in_airflow"}
"""What a triggerer starts or a person answers, which `dag.test()` does not: tests/e2e has them."""


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""


def needs(file: Path) -> tuple[int, ...]:
    """The Airflow that an example needs."""
    found = re.search(r"Needs Airflow (\d+)\.(\d+)", docstring(file))
    return tuple(map(int, found.groups())) if found else (2, 10)


FILES = [file for file in sorted(EXAMPLES.glob("*.py")) if needs(file) <= VERSION]


@pytest.fixture(scope="module")
def bag() -> Any:
    return load_dags(EXAMPLES)


def run_example(bag: Any, dag_id: str, conf: dict[str, Any] | None = None) -> Ran:
    """Run an example as ``airflow dags trigger`` starts it: on Airflow 3 without a logical date."""
    return run_dag(bag.dags[dag_id], None, conf)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_says_what_it_shows(file: Path) -> None:
    assert len(docstring(file).splitlines()) > 2
    assert "pai_default" in docstring(file)


def test_every_example_loads_without_errors_and_holds_one_dag(bag: Any) -> None:
    assert {file: error for file, error in bag.import_errors.items() if Path(file) in FILES} == {}
    files = {Path(dag.fileloc).name for dag in bag.dags.values()}
    assert files == {file.name for file in FILES}
    assert len(bag.dags) == len(FILES)
    assert all(dag.doc_md for dag in bag.dags.values())


def test_every_example_is_run_here(bag: Any) -> None:
    text = Path(__file__).read_text("utf-8")
    unrun = {dag_id for dag_id in bag.dags if f'run_example(bag, "{dag_id}"' not in text}
    assert unrun <= ONLY_LOADED


def test_list_runs_maps_over_the_evaluated_runs_of_the_last_days(bag: Any, pai: Any) -> None:
    for name in ("one", "two"):
        pai.add_run(name, labels={"is_evaluation": "true"}, metrics={"accuracy": 0.9})
    pai.add_run("not evaluated")
    pai.add_run("old", labels={"is_evaluation": "true"}, gmt_create_time="2020-01-01T00:00:00Z")
    ran = run_example(bag, "pai_list_runs")
    assert ran.state == "success"
    assert {run["name"] for run in ran.xcom("list_evaluations")} == {"one", "two"}
    summaries = [ran.xcom("describe", map_index=index) for index in (0, 1)]
    assert {summary.partition(" ")[0] for summary in summaries} == {"one", "two"}
    assert "accuracy 0.9" in summaries[0]


def test_wait_for_evaluation_ends_when_the_label_comes(bag: Any, pai: Any) -> None:
    late = pai.add_run("late", metrics={"accuracy": 0.9})
    pai.add_run("before", labels={"is_evaluation": "true"}, gmt_create_time="2020-01-01T00:00:00Z")
    pai.before_request(lambda action, count: count == 3 and pai.label_run(late, {"is_evaluation": "true"}))
    bag.dags["pai_wait_for_evaluation"].get_task("wait_for_evaluation").poke_interval = 0.1
    ran = run_example(bag, "pai_wait_for_evaluation")
    assert ran.state == "success"
    assert [run["name"] for run in ran.xcom("wait_for_evaluation")] == ["late"]


@pytest.mark.parametrize("day", [19, 20, 21])
def test_wait_for_evaluation_takes_the_runs_of_its_own_day(bag: Any, pai: Any, day: int) -> None:
    for created in range(18, 23):
        pai.add_run(
            f"of {created}",
            labels={"is_evaluation": "true"},
            gmt_create_time=f"2025-10-{created}T09:00:00Z",
        )
    ran = run_dag(bag.dags["pai_wait_for_evaluation"], pendulum.datetime(2025, 10, day))
    assert [run["name"] for run in ran.xcom("wait_for_evaluation")] == [f"of {day}"]


def test_train_and_evaluate_leaves_three_evaluated_runs(bag: Any, pai: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    ran = run_example(bag, "pai_train_and_evaluate", {"artifacts": tmp_path.as_uri()})
    assert ran.state == "success"
    assert {run["RunId"] for run in pai.runs()} == {run["run_id"] for run in ran.xcom("wait_for_evaluations")}
    assert [experiment["Name"] for experiment in pai.state.experiments(pai.workspace_id)] == ["digits"]
    assert sorted(run["Params"]["rate"] for run in pai.runs()) == ["0.001", "0.01", "0.1"]
    accuracies = [run["Metrics"]["accuracy"] for run in pai.runs()]
    assert len(accuracies) == 3
    assert all(0.5 < accuracy < 1 for accuracy in accuracies)
    assert ran.xcom("report") == max(pai.runs(), key=lambda run: run["Metrics"]["accuracy"])["RunId"]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("accuracy", "way"), [(0.95, "deploy"), (0.5, "report")])
def test_gate_and_deploy_goes_the_way_of_the_best_run(bag: Any, pai: Any, accuracy: float, way: str) -> None:
    metrics = {"accuracy": accuracy, "log_loss": 0.2}
    pai.add_run("best", labels={"is_evaluation": "true"}, metrics=metrics)
    pai.add_run("newer", labels={"is_evaluation": "true"}, metrics={**metrics, "accuracy": 0.4})
    pai.add_run(
        "old",
        labels={"is_evaluation": "true"},
        metrics={"accuracy": 1.0},
        gmt_create_time="2020-01-01T00:00:00Z",
    )
    ran = run_example(bag, "pai_gate_and_deploy")
    assert ran.states == {"gate": "success", "deploy": "skipped", "report": "skipped", way: "success"}
    assert ran.xcom("gate")["run"]["name"] == "best"


def test_the_docs_show_the_gate_for_each_run_as_it_runs_here() -> None:
    page = (EXAMPLES.parent / "docs" / "gating.md").read_text("utf-8")
    shown = (
        page.partition("## Gating each of several runs")[2].partition("```python\n")[2].partition("```")[0]
    )
    example = (EXAMPLES / "gate_each.py").read_text("utf-8")
    parts = [textwrap.indent(part.strip("\n"), "    ") for part in shown.split("\n\n")]
    assert len(parts) == 3
    assert [part for part in parts if part not in example] == []


def test_gate_each_deploys_the_runs_that_passed(bag: Any, pai: Any) -> None:
    for name, accuracy in (("good", 0.95), ("bad", 0.5), ("better", 0.97)):
        pai.add_run(name, labels={"is_evaluation": "true"}, metrics={"accuracy": accuracy})
    ran = run_example(bag, "pai_gate_each")
    assert ran.state == "success"
    assert sorted(ran.states["gate", index] for index in range(3)) == ["failed", "success", "success"]
    good = {run["RunId"] for run in pai.runs() if run["Name"] != "bad"}
    assert {ran.xcom("deploy", map_index=index) for index in range(2)} == good
    assert ("deploy", 2) not in ran.states


@pytest.mark.parametrize("accuracies", [[], [0.5, 0.6]])
def test_gate_each_deploys_nothing_if_no_run_passed(bag: Any, pai: Any, accuracies: list[float]) -> None:
    for accuracy in accuracies:
        pai.add_run(labels={"is_evaluation": "true"}, metrics={"accuracy": accuracy})
    ran = run_example(bag, "pai_gate_each")
    assert (ran.state, ran.states["passed"], ran.states["deploy"]) == ("success", "success", "skipped")


@pytest.mark.parametrize(("action", "failed"), [("ListRuns", "list_evaluations"), ("ListRunMetrics", "gate")])
def test_gate_each_deploys_nothing_if_a_run_could_not_be_judged(
    bag: Any, pai: Any, action: str, failed: str
) -> None:
    pai.add_run(labels={"is_evaluation": "true"}, metrics={"accuracy": 0.95})
    pai.add_run(labels={"is_evaluation": "true"})  # the gate asks for the history of its metric
    pai.inject("server_error", times=None, action=action)
    ran = run_example(bag, "pai_gate_each")
    assert failed in ran.errors
    assert (ran.state, ran.states["passed"], ran.states["deploy"]) == ("failed", "failed", "upstream_failed")


def test_champion_challenger_promotes_the_better_and_refuses_the_worse(
    bag: Any, pai: Any, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    passed = []
    for samples in (120, 600, 898):
        conf = {"samples": samples, "artifacts": tmp_path.as_uri()}
        ran = run_example(bag, "pai_champion_challenger", conf=conf)
        assert ran.state == "success"
        passed.append(ran.xcom("gate")["passed"])
        assert ran.states["promote"] == ran.states["register"] == ("success" if passed[-1] else "skipped")
        assert ran.states["write_verdict"] == "success"
    assert passed == [True, True, False]
    assert [run["Name"] for run in pai.runs() if "champion" in run["Labels"]] == ["learnt-from-600"]
    assert "accuracy >= baseline + 0.005: 0.938" in pai.runs()[2]["Params"]["verdict"]
    (model,) = pai.models()
    versions = pai.model_versions(model["ModelId"])
    assert [version["ApprovalStatus"] for version in versions] == ["Pending", "Pending"]
    assert versions[1]["Uri"] == f"https://models.example.com/{pai.runs()[1]['RunId']}.pickle"


@pytest.mark.parametrize(("status", "state"), [("Approved", "success"), ("Rejected", "skipped")])
def test_deploy_approved_deploys_the_newest_version_once_it_is_approved(
    bag: Any, pai: Any, status: str, state: str
) -> None:
    model_id = pai.add_model("digits")
    for approval in ("Approved", "Pending"):
        pai.add_model_version(model_id, approval_status=approval)
    pai.before_request(
        lambda action, count: (
            (action, count) == ("ListModelVersions", 4)
            and pai.approve_model_version(model_id, "0.2.0", status=status)
        )
    )
    bag.dags["pai_deploy_approved"].get_task("wait_for_approval").poke_interval = 0.1
    ran = run_example(bag, "pai_deploy_approved")
    assert (ran.state, ran.states["deploy"]) == ("success", state)
    assert ran.xcom("deploy") == ("0.2.0" if state == "success" else None)
