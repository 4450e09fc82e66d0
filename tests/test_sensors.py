# ruff: noqa: F401, F811 - fixtures come by import
"""PaiRunSensor waits in every mode to the same end, in real DAG runs against a PAI that misbehaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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

from airflow_provider_pai.sensors import PaiRunSensor

MODES: dict[str, dict[str, Any]] = {"poke": {"mode": "poke"}, "reschedule": {"mode": "reschedule"}}
EVALUATED = {"is_evaluation": "true"}
OLD = "2020-01-01T00:00:00Z"


@dataclass
class Case:
    """What PAI does, what is waited for, and how the wait must end."""

    arrange: Callable[[Any], Any] = lambda pai: None
    wait: dict[str, Any] = field(default_factory=dict)
    state: str = "success"
    tries: int = 1
    found: list[str] | None = None
    says: tuple[str, ...] = ()


def evaluated(*names: str, **fields: Any) -> Callable[[Any], None]:
    """Runs that carry the label from the beginning."""

    def arrange(pai: Any) -> None:
        for name in names:
            pai.add_run(name, **{"labels": EVALUATED, **fields})

    return arrange


def labelled_at(poll: int, *names: str, **fields: Any) -> Callable[[Any], None]:
    """Runs that get their label while the wait is at its poll number ``poll``."""

    def arrange(pai: Any) -> None:
        run_ids = [pai.add_run(name, **fields) for name in names]

        def label(action: str, count: int) -> None:
            if action == "ListRuns" and count == poll:
                for run_id in run_ids:
                    pai.label_run(run_id, EVALUATED)

        pai.before_request(label)

    return arrange


def faulty(*kinds: str, **fields: Any) -> Callable[[Any], None]:
    """A run that is there, behind an API in which this goes wrong."""

    def arrange(pai: Any) -> None:
        evaluated("there")(pai)
        for kind in kinds:
            pai.inject(kind, **{"action": "ListRuns", "times": None, **fields})

    return arrange


def both(*arrangements: Callable[[Any], None]) -> Callable[[Any], None]:
    def arrange(pai: Any) -> None:
        for one in arrangements:
            one(pai)

    return arrange


def revoked_at(poll: int) -> Callable[[Any], None]:
    """A key that is taken back while the wait is under way."""
    return lambda pai: pai.before_request(lambda _, count: count == poll and pai.revoke(pai.access_key_id))


SHORT = {"timeout": 1}
CASES = {
    # The label is there, or comes.
    "there from the start": Case(evaluated("a"), found=["a"]),
    "labelled late": Case(labelled_at(2, "a"), found=["a"]),
    "an old run labelled late": Case(labelled_at(2, "a", gmt_create_time=OLD), found=["a"]),
    "labels as a dict": Case(labelled_at(2, "a"), {"labels": EVALUATED}, found=["a"]),
    "labels from a template": Case(
        evaluated("a", labels={"day": "20251020"}), {"labels": {"day": "{{ ds_nodash }}"}}, found=["a"]
    ),
    "two labels": Case(
        both(evaluated("a"), evaluated("b", labels={**EVALUATED, "llm": "yes"})),
        {"labels": "is_evaluation:true,llm:yes"},
        found=["b"],
    ),
    "min_runs": Case(both(evaluated("a"), labelled_at(2, "b")), {"min_runs": 2}, found=["a", "b"]),
    "max_runs": Case(evaluated("a", "b", "c"), {"max_runs": 2}, found=["a", "b"]),
    "max_runs in another order": Case(
        evaluated("a", "b", "c"), {"max_runs": 2, "order_by": "Name DESC"}, found=["c", "b"]
    ),
    "more than a page": Case(
        lambda pai: pai.add_runs(230, name=lambda index: f"r{index}", labels=EVALUATED),
        {"min_runs": 230, "max_runs": 230},
        found=[f"r{index}" for index in range(230)],
    ),
    "min_runs beyond the default of max_runs": Case(
        lambda pai: pai.add_runs(101, name=lambda index: f"r{index}", labels=EVALUATED),
        {"min_runs": 101},
        found=[f"r{index}" for index in range(101)],
    ),
    "created_after": Case(
        both(evaluated("old", gmt_create_time=OLD), labelled_at(2, "new")),
        {"created_after": "{{ data_interval_start }}"},
        found=["new"],
    ),
    "created_before": Case(
        both(evaluated("new"), labelled_at(2, "old", gmt_create_time=OLD)),
        {"created_before": "{{ data_interval_start }}"},
        found=["old"],
    ),
    "name": Case(both(evaluated("other"), labelled_at(2, "mine")), {"name": "mine"}, found=["mine"]),
    "another workspace": Case(
        both(evaluated("here"), labelled_at(2, "there", workspace_id="145884")),
        {"workspace_id": "145884"},
        found=["there"],
    ),
    # It never comes.
    "timeout": Case(evaluated("a", labels={}), SHORT, state="failed", says=("AirflowSensorTimeout",)),
    "timeout is not tried again": Case(
        wait={**SHORT, "retries": 3}, state="failed", says=("AirflowSensorTimeout",)
    ),
    "timeout with soft_fail": Case(wait={**SHORT, "soft_fail": True}, state="skipped"),
    "too few": Case(evaluated("a"), {**SHORT, "min_runs": 2}, state="failed", says=("AirflowSensorTimeout",)),
    "a value in another case": Case(
        evaluated("a", labels={"is_evaluation": "True"}),
        SHORT,
        state="failed",
        says=("AirflowSensorTimeout",),
    ),
    # It passes.
    "throttled below the tolerance": Case(
        faulty("throttle", times=7, retry_after_ms=1), {"fault_tolerance": 2}, found=["there"]
    ),
    "gateway pages below the tolerance": Case(
        faulty("html", times=7), {"fault_tolerance": 2}, found=["there"]
    ),
    "gateway pages with status 200": Case(
        faulty("html", status=200, times=7), {"fault_tolerance": 2}, found=["there"]
    ),
    "resets": Case(faulty("reset", times=7), {"fault_tolerance": 2}, found=["there"]),
    "half an answer": Case(faulty("truncate", times=7), {"fault_tolerance": 2}, found=["there"]),
    "a fault between looks": Case(
        both(labelled_at(9, "a"), lambda pai: pai.inject("server_error", times=7, after=1)),
        {"fault_tolerance": 2},
        found=["a"],
    ),
    "faults are counted in a row": Case(
        both(
            labelled_at(14, "a"),
            lambda pai: pai.inject("server_error", times=5),
            lambda pai: pai.inject("server_error", times=5, after=6),
        ),
        {"fault_tolerance": 2},
        found=["a"],
    ),
    # It does not pass, but may.
    "throttled above the tolerance": Case(
        faulty("throttle", retry_after_ms=1),
        {"fault_tolerance": 2},
        state="failed",
        says=("Throttling", "quota"),
    ),
    "gateway pages above the tolerance": Case(
        faulty("html"), {"fault_tolerance": 2}, state="failed", says=("502",)
    ),
    "what may pass is tried again by Airflow": Case(
        faulty("html"), {"fault_tolerance": 1, "retries": 1}, state="failed", tries=2
    ),
    "faults until the timeout": Case(
        faulty("html"), {**SHORT, "fault_tolerance": 1000}, state="failed", says=("AirflowSensorTimeout",)
    ),
    "faults until the timeout with soft_fail": Case(
        faulty("html"), {**SHORT, "fault_tolerance": 1000, "soft_fail": True}, state="skipped"
    ),
    # No retry can mend it.
    "wrong key": Case(
        lambda pai: pai.revoke(pai.access_key_id),
        {"retries": 3},
        state="failed",
        says=("AirflowFailException", "InvalidAccessKeyId", "AccessKey id"),
    ),
    "key revoked in the middle": Case(
        revoked_at(2), {"retries": 3}, state="failed", says=("AirflowFailException", "InvalidAccessKeyId")
    ),
    "no permission": Case(
        faulty("error"), {"retries": 3}, state="failed", says=("AirflowFailException", "NoPermission", "RAM")
    ),
    "no permission with soft_fail": Case(faulty("error"), {"soft_fail": True}, state="skipped"),
    "an answer of the wrong type": Case(
        faulty("patch", fields={"Runs": "none"}),
        {"retries": 3},
        state="failed",
        says=("API page", "request id"),
    ),
    "bad label": Case(
        wait={"labels": "a=b:c", "retries": 3}, state="failed", says=("AirflowFailException", "a=b")
    ),
    "empty label": Case(
        wait={"labels": "", "retries": 3}, state="failed", says=("AirflowFailException", "key:value")
    ),
    "naive time": Case(
        wait={"created_after": "2025-10-20T08:30:00", "retries": 3}, state="failed", says=("time zone",)
    ),
    "empty template": Case(
        wait={"experiment_id": "{{ params.nothing }}", "retries": 3},
        state="failed",
        says=("experiment_id is empty",),
    ),
    "min_runs of nothing": Case(wait={"min_runs": 0, "retries": 3}, state="failed", says=("min_runs=0",)),
    "missing connection": Case(
        wait={"pai_conn_id": "nobody_made_this", "retries": 3}, state="failed", says=("nobody_made_this",)
    ),
}


def run_sensor(mode: str, **wait: Any) -> Ran:
    settings = {"labels": "is_evaluation:true", "poke_interval": 0.1, "timeout": 60, **MODES[mode], **wait}
    with new_dag(params={"nothing": ""}) as dag:
        PaiRunSensor(task_id="wait", **settings)
    return run_dag(dag)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_a_wait_ends_alike_in_every_mode(pai: Any, name: str, mode: str) -> None:
    case = CASES[name]
    case.arrange(pai)
    ran = run_sensor(mode, **case.wait)
    assert ran.states == {"wait": case.state}, ran.errors
    assert ran.tries == {"wait": case.tries}
    found = ran.xcom("wait")
    assert (found and [run["name"] for run in found]) == case.found
    said = " ".join(f"{type(error).__name__}: {error}" for error in ran.errors.get("wait", []))
    assert [words for words in case.says if words not in said] == []


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


def test_making_a_sensor_reads_no_connection_and_asks_nothing(pai: Any) -> None:
    with new_dag() as dag:
        PaiRunSensor(task_id="wait", labels="a=b", pai_conn_id="nobody_made_this", mode="reschedule")
    dag.validate()
    assert pai.requests == []


def test_a_sensor_can_be_tried_out_without_a_dag_run(pai: Any) -> None:
    evaluated("a")(pai)
    with new_dag():
        sensor = PaiRunSensor(task_id="wait", labels="is_evaluation:true", poke_interval=0.1, timeout=20)
    assert [run["name"] for run in sensor.execute({})] == ["a"]
    assert sensor.poke({}).is_done
