"""A person approves a verdict in Airflow, and only one that they have seen: in real Airflows.

The DAG is the example. The person answers over the REST API, as the page *Required Actions* does. Then a
run's metrics change, or another run is judged, and the tasks are cleared: Airflow shows what it asked before,
and the answer to that releases nothing. A second DAG gives the arguments in every way that they can come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from outside import CHECKOUT, SECONDS, LocalPai, until
from standalone import Airflow

from airflow_provider_pai import api

pytestmark = pytest.mark.timeout(3 * SECONDS)

VERSIONS = ("3.1.0", "3.3.2")
EXAMPLE = CHECKOUT / "dags_examples" / "approve_in_airflow.py"
DAG, MODEL, WAYS = "pai_approve_in_airflow", "digits", "ways"
EACH_WAY = """
from datetime import datetime, timezone

from airflow.sdk import DAG, TaskGroup, task

from airflow_provider_pai.operators import PaiApprovalOperator as Ask

RUN = {"run_id": "run-20251020", "metrics": {"accuracy": 0.95}}
VERDICT = {"passed": True, "reason": "10", "select": "newest", "run": RUN}
VERDICT |= {"baseline_run_ids": [], "checks": []}
GIVEN = {"subject": "20251020", "body": "1e-3", "verdict": VERDICT}


def templates(value, param):
    if isinstance(value, dict):
        return {key: templates(each, f"{param}['{key}']") for key, each in value.items()}
    return f"{{{{ {param} }}}}" if isinstance(value, str) else value


with DAG("ways", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc), params=GIVEN):
    @task(multiple_outputs=True)
    def bring():
        return GIVEN

    brought = bring()
    Ask(task_id="constant", **GIVEN)
    Ask(task_id="template", **templates(GIVEN, "params"))
    Ask(task_id="XComArg", **{name: brought[name] for name in GIVEN})
    Ask.partial(task_id="mapped").expand_kwargs([GIVEN])
    with TaskGroup("group", prefix_group_id=False, default_args=GIVEN):
        Ask(task_id="default_args")
"""
EVERY_WAY = {"constant": -1, "template": -1, "XComArg": -1, "mapped": 0, "default_args": -1}
"""The tasks of that DAG which ask, with their map indices."""


@dataclass
class Answered:
    """A question to a person, and what came of the answer."""

    dag_run_id: str
    question: dict[str, Any]
    states: dict[str, str | None]
    outcome: Any
    """What the approval returned."""
    released: list[str | None]
    """The runs whose versions are approved afterwards."""


@dataclass
class Story:
    """What is left of the decisions about some runs."""

    first: str = ""
    second: str = ""
    answers: dict[str, Answered] = field(default_factory=dict)
    versions: list[api.ModelVersion] = field(default_factory=list)
    ways: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is asked, by how the arguments came."""


class Person:
    """Somebody who reads what Airflow asks, and answers."""

    def __init__(self, airflow: Airflow, pai: LocalPai) -> None:
        self.airflow = airflow
        self.pai = pai

    def asked(self, dag_run_id: str) -> dict[str, Any]:
        """Wait until the task waits for an answer, and return what it asks."""
        self.airflow.wait_until_asked(DAG, dag_run_id, "ask")
        question: dict[str, Any] = self.airflow.get(detail(DAG, dag_run_id, "ask"))
        return question

    def answer(self, dag_run_id: str, number: int = 0) -> dict[str, Any]:
        """Choose an option of those that are shown, and return the question."""
        question = self.asked(dag_run_id)
        body = {"chosen_options": [question["options"][number]], "params_input": {}}
        self.airflow.call("PATCH", f"{self.airflow.api}/{detail(DAG, dag_run_id, 'ask')}", body)
        return question

    def outcome(self, dag_run_id: str, question: dict[str, Any]) -> Answered:
        """Wait for the end, and return what came of the answer."""
        until(lambda: self.airflow.state(DAG, dag_run_id), "the end", every=0.5)
        states = self.airflow.states(DAG, dag_run_id)
        outcome = self.airflow.xcom(DAG, dag_run_id, "ask") if states["ask"] == "success" else None
        approved = [one for one in self.versions() if one.approval_status == "Approved"]
        return Answered(
            dag_run_id, question, states, outcome, [one.labels.get("pai_run_id") for one in approved]
        )

    def clear(self, dag_run_id: str) -> None:
        """Clear the gate and all that follows, as a person does who wants it judged again.

        Airflow 3.1.0 answers before it writes that down.
        """
        body = {
            "dry_run": False,
            "dag_run_id": dag_run_id,
            "task_ids": ["gate"],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        cleared = self.airflow.call("POST", f"{self.airflow.api}/dags/{DAG}/clearTaskInstances", body)
        assert {one["task_id"] for one in cleared["task_instances"]} == {"gate", "ask", "register"}
        until(lambda: self.airflow.states(DAG, dag_run_id)["gate"] != "success", "the gate cleared")

    def versions(self) -> list[api.ModelVersion]:
        """Return the versions that are registered, oldest first."""
        run = self.pai.client.run
        models = run(api.list_models(workspace_id=self.pai.workspace_id, name=MODEL))
        return [version for model in models for version in run(api.list_model_versions(model.model_id))]


def detail(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """Return where the REST API has a question."""
    return f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}/hitlDetails"


def tell(_: str, airflow: Airflow, pai: LocalPai) -> Story:
    """Let a person decide."""

    def evaluated(name: str, accuracy: float) -> str:
        run_id = pai.run(experiment, name)
        pai.measure(run_id, accuracy=accuracy, log_loss=0.2)
        pai.label(run_id, is_evaluation="true")
        return run_id

    airflow.call("POST", f"{airflow.api}/connections", pai.connection("pai_approval"))
    example = EXAMPLE.read_text()
    assert example.count("schedule=None,") == 1
    given = 'schedule=None, default_args={"pai_conn_id": "pai_approval"},'
    (airflow.home / "dags" / "approve.py").write_text(example.replace("schedule=None,", given))
    (airflow.home / "dags" / "ways.py").write_text(EACH_WAY)
    until(lambda: airflow.has_dags(DAG, WAYS), "the DAGs read")
    person = Person(airflow, pai)
    experiment = pai.experiment("digits")
    story = Story(first=evaluated("first", 0.95))
    # One waits for its answer while the run's metrics change and another run is judged.
    waiting, approved = airflow.start(DAG), airflow.start(DAG)
    story.answers["approved"] = person.outcome(approved, person.answer(approved))
    person.asked(waiting)
    pai.measure(story.first, accuracy=0.91)
    person.clear(approved)
    person.asked(approved)
    story.second = evaluated("second", 0.97)
    person.clear(waiting)
    old = {"other metrics": approved, "other run": waiting}
    questions = {what: person.answer(dag_run_id) for what, dag_run_id in old.items()}
    rejected, released = airflow.start(DAG), airflow.start(DAG)
    story.answers |= {what: person.outcome(old[what], question) for what, question in questions.items()}
    story.answers["rejected"] = person.outcome(rejected, person.answer(rejected, 1))
    story.answers["second"] = person.outcome(released, person.answer(released))
    story.versions = person.versions()
    each_way = airflow.start(WAYS)
    for way, index in EVERY_WAY.items():
        airflow.wait_until_asked(WAYS, each_way, way, index)
        story.ways[way] = airflow.get(detail(WAYS, each_way, way, index))
    return story


def test_what_is_approved_is_registered_as_approved(story: Story) -> None:
    answered = story.answers["approved"]
    assert answered.states == dict.fromkeys(("gate", "ask", "register"), "success")
    assert answered.released == [story.first]
    assert answered.outcome["responded_by_user"]["name"] == "admin"
    assert "approved in Airflow by admin" in (story.versions[0].version_description or "")


def test_the_person_sees_the_verdict_and_the_run_that_they_approve(story: Story) -> None:
    answered = story.answers["approved"]
    assert story.first in answered.question["options"][0]
    assert answered.question["subject"] == "Approve first?"
    body = answered.question["body"]
    assert body.startswith("Look at the run before it goes into service.\n")
    assert "| `accuracy` | `>= 0.9` | 0.95 | 0.9 | - | pass |" in body


@pytest.mark.parametrize("changed", ["other metrics", "other run"])
def test_an_answer_to_what_was_asked_before_releases_nothing(story: Story, changed: str) -> None:
    answered = story.answers[changed]
    assert "0.95" in answered.question["body"]  # Airflow shows what it asked at first
    assert story.first in answered.question["options"][0]
    assert answered.states == {"gate": "success", "ask": "failed", "register": "upstream_failed"}
    assert answered.released == [story.first]
    assert [version.metrics for version in story.versions if version.labels["pai_run_id"] == story.first] == [
        {"Results": [{"Metrics": {"accuracy": 0.95, "log_loss": 0.2}}]}
    ]


def test_what_is_rejected_is_not_released(story: Story) -> None:
    answered = story.answers["rejected"]
    assert answered.states == {"gate": "success", "ask": "success", "register": "skipped"}
    assert (answered.outcome["passed"], answered.outcome["chosen_options"]) == (False, ["Reject"])
    assert answered.released == [story.first]


def test_another_dag_run_asks_about_the_other_run(story: Story) -> None:
    answered = story.answers["second"]
    assert story.second in answered.question["options"][0]
    assert answered.states["register"] == "success"
    assert answered.released == [story.first, story.second]


def test_what_is_asked_is_the_same_however_the_arguments_come(story: Story) -> None:
    told = [{name: story.ways[way][name] for name in ("subject", "body", "options")} for way in EVERY_WAY]
    assert told == [told[0]] * len(EVERY_WAY)
    assert told[0]["subject"] == "20251020"
    assert told[0]["body"].startswith("1e-3\n\n**The gate passed:** 10")
    assert told[0]["options"][0].startswith("Approve run-20251020 (verdict ")
