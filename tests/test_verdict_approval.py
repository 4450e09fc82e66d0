# ruff: noqa: F401, F811 - fixtures come by import
"""What a person is asked about a verdict, and what their answer means. tests/e2e asks in whole Airflows."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, pai

from airflow_provider_pai import api
from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.gating.verdict import Verdict
from airflow_provider_pai.operators import PaiRegisterModelVersionOperator, PaiRunGateOperator

if VERSION < (3, 1):
    pytest.skip("Airflow asks people since 3.1", allow_module_level=True)

from airflow_provider_pai.operators import PaiApprovalOperator

ADMIN = {"id": "1", "name": "admin"}
URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/model.onnx"


@pytest.fixture
def verdict(pai: Any) -> dict[str, Any]:
    """What a gate says of a good run, against a champion whose page is known."""
    pai.add_run(
        "champion",
        labels={"champion": "true"},
        metrics={"accuracy": 0.9},
        source_type="DLC",
        source_id="dlc7",
    )
    pai.add_run("night", labels={"is_evaluation": "true"}, metrics={"accuracy": 0.95})
    return judged()


def judged(rule: str = ">= baseline + 0.01", **given: Any) -> dict[str, Any]:
    gate = PaiRunGateOperator(
        task_id="gate",
        labels="is_evaluation:true",
        baseline_labels="champion:true",
        metrics={"accuracy": rule},
        **given,
    )
    found: dict[str, Any] = gate.execute({})
    return found


def asking(verdict: Any, **given: Any) -> Any:
    return PaiApprovalOperator(task_id="ask", verdict=verdict, **given)


def option(verdict: dict[str, Any]) -> str:
    return f"Approve {verdict['run']['run_id']} (verdict {Verdict.of(verdict).digest()})"


def answer(chosen: str, user: Any = ADMIN) -> dict[str, Any]:
    moment = datetime(2026, 11, 27, tzinfo=timezone.utc)
    return {"chosen_options": [chosen], "params_input": {}, "responded_at": moment, "responded_by_user": user}


def asked(operator: Any) -> Any:
    """The operator, once it waits for its answer; nobody records the question outside a running task."""
    with pytest.raises(Exception) as stopped:
        operator.execute({})
    assert not isinstance(stopped.value, (api.PaiError, AirflowFailException)), stopped.value
    return operator


def test_the_question_shows_the_verdict_and_names_the_run(verdict: dict[str, Any]) -> None:
    operator = asked(asking(verdict, body="Have a look."))
    assert operator.options == [option(verdict), "Reject"]
    assert operator.subject == "Approve night?"
    assert operator.body.startswith("Have a look.\n\n**The gate passed:** night ")
    (champion,) = verdict["baseline_run_ids"]
    assert f"[`{champion}`](https://pai.console.aliyun.com/?regionId=cn-hangzhou" in operator.body
    assert "#/dlc/jobs/dlc7/overview)" in operator.body


def test_without_an_answer_of_pai_there_are_no_links(pai: Any, verdict: dict[str, Any]) -> None:
    pai.inject("server_error", times=None, action="GetRun")
    operator = asked(asking(verdict, subject="Release?"))
    assert operator.subject == "Release?"
    assert "| `accuracy` |" in operator.body
    assert "](" not in operator.body


def test_what_is_approved_is_handed_on_as_the_gate_judged_it(pai: Any, verdict: dict[str, Any]) -> None:
    approved = asking(verdict).execute_complete({}, answer(option(verdict)))
    changed = {"reason": f"{verdict['reason']}; approved in Airflow by admin"}
    said = {
        "chosen_options": [option(verdict)],
        "params_input": {},
        "responded_at": "2026-11-27T00:00:00+00:00",
        "responded_by_user": ADMIN,
    }
    assert approved == {**verdict, **changed, **said}
    register = PaiRegisterModelVersionOperator(
        task_id="register", model_name="digits", uri=URI, verdict=approved
    )
    assert register.execute({})["run_id"] == verdict["run"]["run_id"]


def test_what_is_rejected_can_not_be_registered(pai: Any, verdict: dict[str, Any]) -> None:
    rejected = asking(verdict).execute_complete({}, answer("Reject"))
    register = PaiRegisterModelVersionOperator(
        task_id="register", model_name="digits", uri=URI, verdict=rejected
    )
    with pytest.raises(AirflowFailException, match="rejected in Airflow by admin"):
        register.execute({})
    assert pai.models() == []


def test_nobody_who_answers_in_time_rejects_by_default(verdict: dict[str, Any]) -> None:
    rejected = asking(verdict, defaults="Reject").execute_complete({}, answer("Reject", None))
    assert (rejected["passed"], rejected["responded_by_user"]) == (False, None)
    assert rejected["reason"].endswith("rejected in Airflow since nobody answered in time")


def test_an_answer_to_another_verdict_is_refused(pai: Any, verdict: dict[str, Any]) -> None:
    other = judged(">= 0.8")
    with pytest.raises(AirflowFailException, match=r"the verdict is another one now.*start another DAG run"):
        asking(other).execute_complete({}, answer(option(verdict)))
    with pytest.raises(AirflowFailException, match="the verdict is another one now"):
        asking(verdict).execute_complete({}, answer("Approve"))


def test_nobody_is_asked_where_the_gate_did_not_pass(verdict: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match=r"did not pass, so nobody is asked: .*accuracy"):
        asking(judged(">= 2")).execute({})
    with pytest.raises(AirflowFailException, match="not the output of a PaiRunGateOperator"):
        asking({"run_id": "run-1"}).execute({})


@pytest.mark.parametrize("defaults", ["Approve", ["Approve"], "Whatever"])
def test_a_default_that_approves_is_refused_when_the_dag_is_parsed(defaults: Any) -> None:
    with pytest.raises(ValueError, match=r"nobody has seen|should be a subset"):  # the last by Airflow itself
        asking("{{ ti.xcom_pull('gate') }}", defaults=defaults)
