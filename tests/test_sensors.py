# ruff: noqa: F401, F811 - fixtures come by import
"""PaiRunSensor in a worker, and what is refused when a DAG is parsed. tests/test_modes.py has all modes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow_db import (
    Ran,
    airflow_db,
    new_dag,
    pai,
    reschedules,
    run_dag,
    task,
)

from airflow_provider_pai.api import PaiError, PaiUsageError
from airflow_provider_pai.sensors import PaiRunSensor

MODES: dict[str, dict[str, Any]] = {"poke": {"mode": "poke"}, "reschedule": {"mode": "reschedule"}}
EVALUATED = {"is_evaluation": "true"}
OLD = "2020-01-01T00:00:00Z"


def evaluated(*names: str, **fields: Any) -> Callable[[Any], None]:
    """Runs that carry the label from the beginning."""

    def arrange(pai: Any) -> None:
        for name in names:
            pai.add_run(name, **{"labels": EVALUATED, **fields})

    return arrange


def labelled_at(poll: int, name: str) -> Callable[[Any], None]:
    """A run that gets its label while the wait is at its poll number ``poll``."""

    def arrange(pai: Any) -> None:
        run_id = pai.add_run(name)
        pai.before_request(lambda _, count: count == poll and pai.label_run(run_id, EVALUATED))

    return arrange


def run_sensor(mode: str, **wait: Any) -> Ran:
    settings = {"labels": "is_evaluation:true", "poke_interval": 0.1, "timeout": 60, **MODES[mode], **wait}
    with new_dag() as dag:
        PaiRunSensor(task_id="wait", **settings)
    return run_dag(dag)


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_hands_on_the_runs_as_the_operator_does(pai: Any, mode: str) -> None:
    run_id = pai.add_run(
        "a", labels=EVALUATED, metrics={"accuracy": 0.93, "loss": float("nan")}, params={"lr": "1"}
    )
    (run,) = run_sensor(mode).xcom("wait")
    assert (run["run_id"], run["labels"], run["params"]) == (run_id, EVALUATED, {"lr": "1"})
    assert run["metrics"] == {"accuracy": 0.93, "loss": "NaN"}


@pytest.mark.parametrize("mode", MODES)
def test_one_look_is_one_request(pai: Any, mode: str) -> None:
    labelled_at(3, "a")(pai)
    run_sensor(mode)
    assert pai.request_counts == {"ListRuns": 3}


@pytest.mark.parametrize("mode", MODES)
def test_only_reschedule_gives_the_worker_back(pai: Any, mode: str) -> None:
    labelled_at(3, "a")(pai)
    assert reschedules(run_sensor(mode), "wait") == (2 if mode == "reschedule" else 0)


def test_another_task_can_bring_what_is_awaited(pai: Any) -> None:
    run_id = pai.add_run("a")
    with new_dag() as dag:
        awaited = PaiRunSensor(
            task_id="wait", labels="is_evaluation:true", mode="reschedule", poke_interval=0.5, timeout=60
        )

        @task
        def evaluate() -> None:
            from airflow_provider_pai.hooks import PaiHook

            PaiHook().set_run_labels(run_id, EVALUATED)

        @task
        def report(runs: list[dict[str, Any]]) -> str:
            return str(runs[0]["name"])

        @task
        def count(run: dict[str, Any]) -> int:
            return len(run)

        evaluate()
        report(awaited.output)
        count.expand(run=awaited.output)
    ran = run_dag(dag)
    assert ran.state == "success"
    assert ran.xcom("report") == "a"
    assert ran.states["count", 0] == "success"


@pytest.mark.parametrize("mode", MODES)
def test_runs_too_large_for_xcom_fail_the_wait_and_the_error_says_what_to_do(
    pai: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("airflow_provider_pai._xcom.XCOM_BYTES", 1000)
    evaluated("a", "b", params={"text": "x" * 400})(pai)
    ran = run_sensor(mode, retries=2)
    assert (ran.states, ran.tries) == ({"wait": "failed"}, {"wait": 1})
    assert "2 runs would be" in ran.error("wait")
    assert "Lower max_runs, or narrow the filters" in ran.error("wait")
    assert run_sensor(mode, max_runs=1).states == {"wait": "success"}


def test_default_args_and_mapping_reach_the_filters(pai: Any) -> None:
    for name in ("a", "b"):
        pai.add_run(name, labels={"name": name}, workspace_id="145884")
    defaults = {"workspace_id": "145884", "poke_interval": 0.1, "timeout": 20, "labels": {"name": "a"}}
    with new_dag(default_args=defaults) as dag:
        PaiRunSensor(task_id="one")
        PaiRunSensor.partial(task_id="each").expand(labels=[{"name": "a"}, "name:b"])
    ran = run_dag(dag)
    assert ran.state == "success"
    assert [run["name"] for run in ran.xcom("one")] == ["a"]
    assert [ran.xcom("each", map_index=index)[0]["name"] for index in (0, 1)] == ["a", "b"]


def test_a_sensor_without_labels_is_refused_when_the_dag_is_parsed() -> None:
    with new_dag(), pytest.raises(Exception, match="labels"):
        PaiRunSensor(task_id="wait")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": "a=b:c"}, "a=b"),
        ({"labels": ""}, "key:value"),
        ({"labels": {"epoch": 10}}, "write '10'"),
        ({"labels": None}, "give labels, or run_id"),
        ({"labels": {}}, "labels is {}"),
        ({"labels": {"{{ ds }}": "true"}}, "labels has a template in a key"),
        ({"labels": '{"a": "b"}'}, "labels came as the text"),
        ({"metrics": "{'f1': '> 1'}"}, "metrics came as the text"),
        ({"poke_interval": "30"}, "poke_interval='30'"),
        ({"poke_interval": None}, "poke_interval=None"),
        ({"poke_interval": 0}, "poke_interval=0"),
        ({"poke_interval": -5}, "poke_interval=-5"),
        ({"poke_interval": float("nan")}, "poke_interval=nan"),
        ({"poke_interval": float("inf")}, "poke_interval=inf"),
        ({"poke_interval": True}, "poke_interval=True"),
        ({"poke_interval": timedelta(0)}, "poke_interval=datetime.timedelta(0)"),
        ({"created_after": "2025-10-20T08:30:00"}, "time zone"),
        ({"created_after": "2025-10-20T08:30Z", "created_before": "2025-10-19T08:30Z"}, "no run could match"),
        ({"experiment_id": ""}, "experiment_id is empty"),
        ({"order_by": "Size"}, "order_by"),
        ({"min_runs": 0}, "min_runs=0"),
        ({"min_runs": 1.5}, "min_runs=1.5"),
        ({"min_runs": True}, "min_runs=True"),
        ({"min_runs": 3, "max_runs": 2}, "max_runs=2"),
        ({"max_runs": "ten"}, "max_runs='ten'"),
        ({"metrics": {"f1": "high"}}, "expected one of"),
        ({"metrics": {"f1": "{{ params.rule }}", "loss": "low"}}, "expected one of"),
        ({"metrics": {"f1": "> baseline"}}, "baseline"),
        ({"fault_tolerance": 0}, "fault_tolerance=0"),
        ({"fault_tolerance": None}, "fault_tolerance=None"),
        ({"deferrable": False, "end_from_trigger": True}, "end_from_trigger"),
        ({"deferrable": False, "start_from_trigger": True}, "start_from_trigger"),
        ({"deferrable": True, "exponential_backoff": True}, "exponential_backoff"),
    ],
)
def test_a_mistake_shows_when_the_dag_is_parsed(wrong: dict[str, Any], says: str) -> None:
    with new_dag(), pytest.raises(PaiUsageError, match=re.escape(says)):
        PaiRunSensor(task_id="wait", **{"labels": "a:b", **wrong})


def test_templates_are_checked_when_the_task_runs() -> None:
    with new_dag():
        PaiRunSensor(
            task_id="wait",
            labels={"templated": "{{ b }}", "fixed": "true"},
            created_after="{{ data_interval_start }}",
            min_runs="{{ params.least }}",
            max_runs="{{ params.most }}",
            metrics={"f1": "{{ params.rule }}"},
        )


def test_the_trigger_s_traceback_is_in_the_task_s_log(caplog: Any, capsys: Any) -> None:
    with new_dag():
        sensor = PaiRunSensor(task_id="wait", labels="a:b", deferrable=True)
    failed = {"error": "Trigger failure", "traceback": ["Traceback of the trigger", "ZeroDivisionError"]}
    with pytest.raises(PaiError, match="Trigger failure"):
        sensor.resume_execution("__fail__", failed, {})
    assert "ZeroDivisionError" in caplog.text + capsys.readouterr().out


def test_a_link_that_cannot_be_made_fails_no_task(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated("a")(pai)
    monkeypatch.setattr("airflow_provider_pai.links.console_url", lambda *_: 1 / 0)
    assert run_sensor("poke").states == {"wait": "success"}


def test_making_a_sensor_reads_no_connection_and_asks_nothing(pai: Any) -> None:
    with new_dag() as dag:
        PaiRunSensor(task_id="wait", labels="a:b", pai_conn_id="nobody_made_this", mode="reschedule")
    dag.validate()
    assert pai.requests == []


def test_a_sensor_can_be_tried_out_without_a_dag_run(pai: Any) -> None:
    evaluated("a")(pai)
    with new_dag():
        sensor = PaiRunSensor(task_id="wait", labels="is_evaluation:true", poke_interval=0.1, timeout=20)
    assert [run["name"] for run in sensor.execute({})] == ["a"]
    assert sensor.poke({}).is_done
