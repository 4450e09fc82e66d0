# ruff: noqa: F401, F811 - fixtures come by import
"""PaiListRunsOperator in real DAG runs: what it asks, what it pushes, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow_db import airflow_db, new_dag, pai, run_dag, task

from airflow_provider_pai.api import PaiUsageError
from airflow_provider_pai.emulator import Fault
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import PaiListRunsOperator

CONSOLE = "https://pai.console.aliyun.com/"


def list_runs(**arguments: Any) -> Any:
    """Run a DAG of one task, ``list``."""
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", **arguments)
    return run_dag(dag)


def names(runs: list[dict[str, Any]]) -> list[str]:
    return [run["name"] for run in runs]


# --- what it pushes ---------------------------------------------------------------------------------------


def test_the_runs_go_to_xcom_as_strict_json(pai: Any) -> None:
    pai.add_run(
        "a", labels={"e": "true"}, params={"lr": "0.1"}, metrics={"accuracy": 0.93, "loss": float("nan")}
    )
    pai.add_run("ünïcode-名", labels={"名": "值"})
    ran = list_runs()
    runs = ran.xcom("list")
    assert runs == [run.to_dict() for run in PaiHook().list_runs()]
    assert runs[0]["metrics"] == {"accuracy": 0.93, "loss": "NaN"}
    assert runs[1]["labels"] == {"名": "值"}


def test_no_runs_are_an_empty_list(pai: Any) -> None:
    assert list_runs(labels="a:b").xcom("list") == []


def test_tasks_are_mapped_over_the_runs(pai: Any) -> None:
    pai.add_runs(3, name=lambda index: f"r{index}", labels=lambda index: {"odd": str(index % 2)})
    with new_dag() as dag:
        listed = PaiListRunsOperator(task_id="list", labels="odd:0")
        none = PaiListRunsOperator(task_id="none", labels="odd:7")

        @task
        def name_of(run: dict[str, Any]) -> str:
            return str(run["name"])

        name_of.expand(run=listed.output)
        name_of.override(task_id="name_of_none").expand(run=none.output)
    ran = run_dag(dag)
    assert [ran.xcom("name_of", map_index=index) for index in (0, 1)] == ["r0", "r2"]
    assert ran.states["name_of_none"] == "skipped"


@pytest.mark.parametrize(
    ("arguments", "found", "requests"),
    [
        ({"max_runs": 3}, 3, 1),
        ({"max_runs": 3, "page_size": 2}, 3, 2),
        ({"page_size": 2}, 5, 3),
        ({"max_runs": 50}, 5, 1),
    ],
)
def test_max_runs_and_page_size_bound_what_is_asked(
    pai: Any,
    arguments: dict[str, int],
    found: int,
    requests: int,
) -> None:
    pai.add_runs(5, name=lambda index: f"r{index}")
    assert names(list_runs(**arguments).xcom("list")) == [f"r{index}" for index in range(found)]
    assert pai.request_counts == {"ListRuns": requests}


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize(
    ("arguments", "found", "more"),
    [
        ({"max_runs": 2}, ["r0", "r1"], True),
        ({"max_runs": 2, "page_size": 1}, ["r0", "r1"], True),
        ({"max_runs": 2, "order_by": "GmtCreateTime DESC"}, ["r2", "r1"], True),
        ({"max_runs": "{{ params.most }}", "page_size": "{{ params.page }}"}, ["r0", "r1"], True),
        ({"max_runs": 3}, ["r0", "r1", "r2"], False),
        ({}, ["r0", "r1", "r2"], False),
    ],
)
def test_the_first_runs_are_listed_and_the_log_says_that_more_match(
    pai: Any,
    caplog: Any,
    capfd: Any,
    tmp_path: Path,
    arguments: dict[str, Any],
    found: list[str],
    more: bool,
    to_file: bool,
) -> None:
    caplog.set_level("INFO")
    for number in range(3):
        pai.add_run(f"r{number}", gmt_create_time=f"2025-10-20T08:0{number}:00Z")
    target = tmp_path / "runs.jsonl"
    with new_dag(params={"most": 2, "page": 1}) as dag:
        PaiListRunsOperator(task_id="list", output_path=target.as_uri() if to_file else None, **arguments)
    ran = run_dag(dag)
    assert ran.states == {"list": "success"}, ran.errors
    runs = (
        [json.loads(line) for line in target.read_text("utf-8").splitlines()] if to_file else ran.xcom("list")
    )
    assert names(runs) == found
    log = caplog.text + "".join(capfd.readouterr())
    assert f"{len(found)} runs" in log
    assert ("More runs match than max_runs=2" in log) is more


@pytest.mark.parametrize("verbose", ["{{ params.verbose }}", "False"])
def test_verbose_is_not_a_template_and_says_so_when_the_dag_is_parsed(verbose: str) -> None:
    with pytest.raises(PaiUsageError, match=r"verbose=.* must be True or False; it is not templated"):
        PaiListRunsOperator(task_id="list", verbose=verbose)  # type: ignore[arg-type]


def test_without_verbose_there_are_no_details(pai: Any) -> None:
    pai.add_run("a", labels={"e": "true"}, metrics={"accuracy": 0.93})
    (run,) = list_runs(verbose=False).xcom("list")
    assert (run["labels"], run["metrics"]) == ({}, {})


# --- what it asks -----------------------------------------------------------------------------------------


@pytest.fixture
def stocked(pai: Any) -> Any:
    """Runs of several days, labelled with their day, in two workspaces."""
    pai.experiment_id = pai.add_experiment("mine")
    for day in (19, 20, 21):
        pai.add_run(
            f"day-{day}",
            experiment_id=pai.experiment_id,
            labels={"day": f"2025-10-{day}", "team": "a"},
            gmt_create_time=f"2025-10-{day}T08:30:00Z",
        )
    pai.add_run("elsewhere", workspace_id="145884", labels={"team": "a"})
    return pai


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"labels": {"day": "{{ ds }}"}}, ["day-20"]),
        ({"labels": "day:{{ ds }},team:{{ params.team }}"}, ["day-20"]),
        ({"name": "day-{{ ds.split('-')[2] }}"}, ["day-20"]),
        ({"experiment_id": "{{ params.experiment }}"}, ["day-19", "day-20", "day-21"]),
        ({"workspace_id": "{{ params.workspace }}"}, ["elsewhere"]),
        ({"created_after": "{{ data_interval_start }}"}, ["day-20", "day-21"]),
        (
            {
                "created_after": "{{ logical_date }}",
                "created_before": "{{ macros.datetime_diff_for_humans }}",
            },
            None,
        ),
        ({"created_before": "{{ data_interval_start }}"}, ["day-19"]),
        ({"created_after": "{{ ds }}T00:00:00Z", "order_by": "{{ params.order }}"}, ["day-21", "day-20"]),
        ({"pai_conn_id": "pai_{{ params.connection }}", "labels": "day:2025-10-19"}, ["day-19"]),
    ],
)
def test_every_filter_is_a_template(
    stocked: Any, asked: dict[str, Any], found: list[str] | None, native: bool
) -> None:
    params = {"team": "a", "experiment": stocked.experiment_id, "workspace": 145884}
    params |= {"order": "Name DESC", "connection": "default"}
    with new_dag(params=params, render_template_as_native_obj=native) as dag:
        PaiListRunsOperator(task_id="list", **asked)
    ran = run_dag(dag)
    if found is None:  # a template that does not render to a time
        assert ran.states == {"list": "failed"}
    else:
        assert ran.states == {"list": "success"}, ran.errors
        assert names(ran.xcom("list")) == found


def test_airflow_shows_what_was_asked(stocked: Any) -> None:
    rendered = list_runs(labels={"day": "{{ ds }}"}, created_after="{{ data_interval_start }}").rendered(
        "list"
    )
    assert rendered["labels"] in ({"day": "2025-10-20"}, "{'day': '2025-10-20'}", '{"day": "2025-10-20"}')
    assert str(rendered["created_after"]).startswith("2025-10-20")
    assert rendered["pai_conn_id"] == "pai_default"


def test_times_may_be_datetimes(stocked: Any) -> None:
    import pendulum

    after, before = (
        pendulum.datetime(2025, 10, 20, tz="Asia/Shanghai"),
        pendulum.datetime(2025, 10, 21, tz="UTC"),
    )
    assert names(list_runs(created_after=after, created_before=before).xcom("list")) == ["day-20"]


def test_default_args_reach_the_filters(stocked: Any) -> None:
    with new_dag(default_args={"workspace_id": "145884", "labels": "team:a"}) as dag:
        PaiListRunsOperator(task_id="list")
        PaiListRunsOperator(task_id="other", workspace_id="145883", labels="day:2025-10-19")
        PaiListRunsOperator.partial(task_id="each").expand(name=["elsewhere", "nowhere"])
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert names(ran.xcom("list")) == ["elsewhere"]
    assert names(ran.xcom("other")) == ["day-19"]
    assert [names(ran.xcom("each", map_index=index)) for index in (0, 1)] == [["elsewhere"], []]


def test_the_operator_itself_can_be_mapped(stocked: Any) -> None:
    with new_dag() as dag:
        PaiListRunsOperator.partial(task_id="by_label", order_by="Name DESC").expand(
            labels=["day:2025-10-19", {"team": "a"}]
        )
        PaiListRunsOperator.partial(task_id="by_both").expand_kwargs(
            [{"name": "day-19", "max_runs": 1}, {"labels": "day:{{ ds }}"}]
        )
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert names(ran.xcom("by_label", map_index=0)) == ["day-19"]
    assert names(ran.xcom("by_label", map_index=1)) == ["day-21", "day-20", "day-19"]
    assert names(ran.xcom("by_both", map_index=0)) == ["day-19"]
    assert names(ran.xcom("by_both", map_index=1)) == ["day-20"]


def test_an_operator_can_be_tried_out_without_a_dag_run(stocked: Any) -> None:
    with new_dag():
        operator = PaiListRunsOperator(task_id="list", labels="day:2025-10-19")
    assert names(operator.execute({})) == ["day-19"]  # type: ignore[arg-type]


def test_making_an_operator_reads_no_connection(pai: Any) -> None:
    with new_dag() as dag:
        PaiListRunsOperator(
            task_id="list", pai_conn_id="nobody_made_this", labels="a:b", created_after="{{ ds }}"
        )
    dag.validate()
    assert pai.requests == []


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": "is_evaluation={{ ds }}"}, ["key:value"]),
        ({"labels": {"a": "{{ 'b,c' }}"}}, ["'b,c'"]),
        ({"created_after": "{{ ds }}"}, ["time zone"]),
        (
            {"created_after": "2025-10-21T00:00:00Z", "created_before": "{{ ds }}T00:00:00Z"},
            ["no run could match"],
        ),
        ({"order_by": "{{ 'Created' }}"}, ["GmtCreateTime"]),
        ({"page_size": 0}, ["page_size=0"]),
        ({"max_runs": 0}, ["max_runs=0"]),
        ({"workspace_id": "{{ params.nothing }}"}, ["workspace_id is empty"]),
        ({"output_path": "{{ params.nothing }}"}, ["output_path"]),
        ({"max_runs": "{{ params.nothing }}"}, ["max_runs is empty"]),
        ({"max_runs": "{{ none }}"}, ["max_runs is None"]),
    ],
)
def test_bad_input_fails_at_once_and_says_what_to_write(
    pai: Any,
    arguments: dict[str, Any],
    words: list[str],
) -> None:
    with new_dag(params={"nothing": ""}) as dag:
        PaiListRunsOperator(task_id="list", retries=3, **arguments)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"list": "failed"}, {"list": 1})
    assert "AirflowFailException" in ran.error("list")
    assert [word for word in words if word not in ran.error("list")] == []
    assert pai.requests == []


def test_an_unknown_argument_is_refused_when_the_dag_is_parsed() -> None:
    with new_dag(), pytest.raises(Exception, match="lables"):
        PaiListRunsOperator(task_id="list", lables="a:b")


@pytest.mark.parametrize(
    ("fault", "state", "tries"),
    [
        ({"kind": "throttle", "times": 3, "retry_after_ms": 1}, "success", 1),
        ({"kind": "html", "times": 3}, "success", 1),
        ({"kind": "reset", "times": 3}, "success", 1),
        ({"kind": "throttle", "times": 6, "retry_after_ms": 1}, "success", 2),
        ({"kind": "html", "times": None}, "failed", 2),
        ({"kind": "error", "times": None}, "failed", 1),
        ({"kind": "patch", "times": None, "fields": {"Runs": [{"RunId": 7}]}}, "failed", 1),
        ({"kind": "patch", "times": None, "fields": {"NextPageToken": 7}}, "failed", 2),
        ({"kind": "patch", "times": 2, "fields": {"NextPageToken": 7}}, "success", 2),
    ],
)
def test_airflow_retries_only_what_may_succeed_later(
    pai: Any, fault: dict[str, Any], state: str, tries: int
) -> None:
    pai.add_run("a")
    pai.inject(Fault(**fault))
    ran = list_runs(retries=1)
    assert (ran.states, ran.tries) == ({"list": state}, {"list": tries}), ran.errors


@pytest.mark.parametrize(("appears_at", "state", "tries"), [(2, "success", 2), (4, "failed", 3)])
def test_a_connection_that_is_not_found_is_left_to_airflows_retries(
    pai: Any, monkeypatch: pytest.MonkeyPatch, appears_at: int, state: str, tries: int
) -> None:
    """Airflow says "not found" too where a secrets backend did not answer."""
    pai.add_run("a")

    def come_late(context: Any) -> None:
        if context["ti"].try_number >= appears_at:
            monkeypatch.setenv("AIRFLOW_CONN_COMES_LATE", pai.connection_uri)

    ran = list_runs(pai_conn_id="comes_late", retries=2, pre_execute=come_late)
    assert (ran.states, ran.tries) == ({"list": state}, {"list": tries}), ran.errors
    assert all("comes_late" in str(error) for error in ran.errors["list"])


LARGE = {"params": lambda index: {"text": "x" * 9000}}


def test_a_list_too_large_for_xcom_is_refused_once_and_the_error_says_what_to_do(pai: Any) -> None:
    pai.add_runs(130, **LARGE)
    ran = list_runs(retries=3)
    assert (ran.states, ran.tries) == ({"list": "failed"}, {"list": 1})
    assert "output_path" in ran.error("list")
    assert "130 runs" in ran.error("list")
    assert ran.xcom("list") is None


@pytest.mark.parametrize("arguments", [{"max_runs": 10}, {"verbose": False}])
def test_what_the_refusal_advises_helps(pai: Any, arguments: dict[str, Any]) -> None:
    pai.add_runs(130, **LARGE)
    assert list_runs(**arguments).states == {"list": "success"}


# --- what it writes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_output_path_takes_the_runs_as_json_lines(pai: Any, tmp_path: Path, scheme: str) -> None:
    pai.add_runs(130, name=lambda index: f"r{index}", metrics=lambda index: {"loss": float("nan")}, **LARGE)
    pai.add_run("ünïcode-名", params={"text": "two\nlines"}, source_type="DLC", source_id="dlc1")
    ran = list_runs(output_path=f"{scheme}{tmp_path}/new/{{{{ ds }}}}.jsonl", order_by="Name DESC")
    written = tmp_path / "new" / "2025-10-20.jsonl"
    assert ran.states == {"list": "success"}, ran.errors
    assert ran.xcom("list") == {"path": f"{scheme}{written}", "count": 131}
    lines = written.read_bytes().decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        run.to_dict() for run in PaiHook().list_runs(order_by="Name DESC")
    ]
    assert ran.button("list") == CONSOLE + "?regionId=cn-hangzhou&workspaceId=145883#/dlc/jobs/dlc1/overview"
    assert ran.rendered("list")["output_path"] == f"{scheme}{written}"


def test_output_path_without_runs_is_an_empty_file_with_a_link(pai: Any, tmp_path: Path) -> None:
    ran = list_runs(output_path=(tmp_path / "runs.jsonl").as_uri())
    assert ran.xcom("list") == {"path": (tmp_path / "runs.jsonl").as_uri(), "count": 0}
    assert (tmp_path / "runs.jsonl").read_bytes() == b""
    assert ran.button("list") == CONSOLE + "?regionId=cn-hangzhou#/workspace/overview"


@pytest.mark.parametrize(
    ("fault", "tries"),
    [({"kind": "error"}, 1), ({"kind": "html"}, 2), ({"kind": "patch", "fields": {"Runs": 7}}, 1)],
)
@pytest.mark.parametrize("after", [0, 2])
def test_after_a_failure_half_way_no_file_is_left(
    pai: Any,
    tmp_path: Path,
    fault: dict[str, Any],
    tries: int,
    after: int,
) -> None:
    pai.add_runs(5)
    pai.inject(Fault(**fault, times=None, after=after))
    ran = list_runs(output_path=(tmp_path / "runs.jsonl").as_uri(), page_size=1, retries=1)
    assert (ran.states, ran.tries) == ({"list": "failed"}, {"list": tries})
    assert ran.xcom("list") is None
    assert list(tmp_path.iterdir()) == []


def test_a_second_try_writes_the_whole_list_once(pai: Any, tmp_path: Path) -> None:
    pai.add_runs(5)
    pai.inject("html", times=5, after=3)
    ran = list_runs(output_path=(tmp_path / "runs.jsonl").as_uri(), page_size=1, retries=1)
    assert (ran.states, ran.tries) == ({"list": "success"}, {"list": 2}), ran.errors
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 5
