# ruff: noqa: F401, F811 - fixtures come by import
"""The PAI button of a task leads to the run's source, by Airflow's own path from the task to the page."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from airflow_db import SECRET, VERSION, airflow_db, first, new_dag, pai, run_dag

from airflow_provider_pai.gating.history import HISTORY_KEY
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.links import LINK_KEY, PaiRunLink
from airflow_provider_pai.operators import PaiListRunsOperator, PaiRunGateOperator
from airflow_provider_pai.sensors import PaiRunSensor

CONSOLE = "https://pai.console.aliyun.com/"


def link_of(pai: Any, monkeypatch: pytest.MonkeyPatch, runs: list[dict[str, Any]], **extra: Any) -> str:
    """What the button of a task opens that found ``runs`` over a connection with these extras."""
    fields = {"conn_type": "pai", "host": pai.url, "login": pai.access_key_id, "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_LINKED", json.dumps({**fields, "extra": extra}))
    for number, run in enumerate(runs):
        pai.add_run(**{"name": f"run-{number}", "gmt_create_time": f"2025-10-20T08:30:0{number}Z", **run})
    with new_dag():
        operator = PaiListRunsOperator(task_id="list", pai_conn_id="linked")
    operator.execute({})
    return str(getattr(operator, LINK_KEY, ""))


@pytest.mark.parametrize(
    ("runs", "region", "url"),
    [
        (
            [{"source_type": "TrainingService", "source_id": "train1"}],
            "cn-hangzhou",
            "?regionId=cn-hangzhou&workspaceId=145883#/training/jobs/train1",
        ),
        (
            [{"source_type": "DLC", "source_id": "dlc1"}, {"source_type": "DLC", "source_id": "dlc2"}],
            "cn-hangzhou",
            "?regionId=cn-hangzhou&workspaceId=145883#/dlc/jobs/dlc1/overview",
        ),
        (
            [{"source_type": "DLC", "source_id": "dlc1"}],
            None,
            "?workspaceId=145883#/dlc/jobs/dlc1/overview",
        ),
        (
            [{"source_type": "DLC", "source_id": "a/../b?#"}],
            "cn-hangzhou",
            "?regionId=cn-hangzhou&workspaceId=145883#/dlc/jobs/a%2F..%2Fb%3F%23/overview",
        ),
        (
            [{"source_type": "DLC", "source_id": ""}],
            "cn-hangzhou",
            "?regionId=cn-hangzhou#/workspace/overview",
        ),
        (
            [{"source_type": "Other", "source_id": "x"}],
            "cn-hangzhou",
            "?regionId=cn-hangzhou#/workspace/overview",
        ),
        ([{}], "cn-hangzhou", "?regionId=cn-hangzhou#/workspace/overview"),
        ([], "cn-hangzhou", "?regionId=cn-hangzhou#/workspace/overview"),
        ([], None, "#/workspace/overview"),
    ],
)
def test_the_page_is_that_of_the_first_runs_source_or_else_the_overview(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[dict[str, Any]],
    region: str | None,
    url: str,
) -> None:
    assert link_of(pai, monkeypatch, runs, region=region) == CONSOLE + url


def test_a_template_may_use_every_field_and_each_is_encoded(
    pai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "https://x/{region}/{workspace_id}/{source_type}/{source_id}/{experiment_id}/{run_id}"
    run = {"source_type": "DLC", "source_id": "a b"}
    link = link_of(pai, monkeypatch, [run], region="cn/hangzhou", console_url=template)
    (stored,) = pai.runs()
    assert link == f"https://x/cn%2Fhangzhou/145883/DLC/a%20b/{stored['ExperimentId']}/{stored['RunId']}"


@pytest.mark.parametrize("runs", [[], [{}]])
@pytest.mark.parametrize(
    "template",
    [
        *("https://x/{nope}", "https://x/{}", "https://x/{0}", "https://x/{", "https://x/{run_id:d}"),
        *("https://x/{run_id.secret}", "https://x/{run_id[secret]}", "https://x/{run_id!q}"),
        *("https://x/{run_id.__class__}", "https://x/{run_id!r}", "https://x/{run_id:>9}", "https://x/}"),
        *("https://x/{run_id:{region}}", "javascript:alert(1)//{run_id}"),
        *("//x/{run_id}", "x/{run_id}", "{region}://x", "data:text/html,x", "https:///x", "ftp://x/{run_id}"),
    ],
)
def test_a_template_that_cannot_be_filled_in_fails_no_task_and_the_test_of_the_connection_says_so(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[dict[str, Any]],
    template: str,
) -> None:
    assert not link_of(pai, monkeypatch, runs, console_url=template)
    works, why = PaiHook("linked").test_connection()
    assert not works
    assert re.search(r"console_url .* cannot be filled in .* \{source_id\}", why)


@pytest.mark.parametrize(
    "template", ["http://x:8080/#{run_id}", "HTTPS://x?{{run_id}}", "https://{region}.x"]
)
def test_a_template_is_any_address_of_the_web(
    pai: Any, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    link = link_of(pai, monkeypatch, [{}], region="cn-hangzhou", console_url=template)
    run_id = pai.runs()[0]["RunId"]
    assert link == template.format(run_id=run_id, region="cn-hangzhou")
    assert PaiHook("linked").test_connection()[0]


def test_after_a_task_the_button_opens_the_source(pai: Any) -> None:
    pai.add_run("one", labels={"n": "1"}, source_type="DLC", source_id="dlc1")
    pai.add_run("two", labels={"n": "2"}, source_type="TrainingService", source_id="train2")
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", labels="n:1")
        PaiRunSensor(task_id="wait", labels="n:2", timeout=20)
        PaiRunSensor(task_id="late", labels="n:2", timeout=20, mode="reschedule")
        PaiListRunsOperator(task_id="none", labels="n:3")
        PaiListRunsOperator.partial(task_id="each").expand(labels=["n:1", "n:2"])
        PaiListRunsOperator(task_id="broken", pai_conn_id="nobody_made_this")
    ran = run_dag(dag)
    where = CONSOLE + "?regionId=cn-hangzhou&workspaceId=145883#/"
    assert ran.button("list") == where + "dlc/jobs/dlc1/overview"
    assert ran.button("wait") == ran.button("late") == where + "training/jobs/train2"
    assert ran.button("none") == CONSOLE + "?regionId=cn-hangzhou#/workspace/overview"
    assert ran.button("each", 0) == where + "dlc/jobs/dlc1/overview"
    assert ran.button("each", 1) == where + "training/jobs/train2"
    assert ran.states["broken"] == "failed"
    assert not ran.button("broken")


@pytest.mark.skipif(VERSION < (3, 0), reason="Airflow 2 asks the operator's class in the web server")
def test_airflow_3_keeps_the_link_under_its_own_key(pai: Any) -> None:
    pai.add_run("one", source_type="DLC", source_id="dlc1")
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list")
    link = run_dag(dag).xcom("list", "_link_PaiRunLink")
    assert link == CONSOLE + "?regionId=cn-hangzhou&workspaceId=145883#/dlc/jobs/dlc1/overview"


def test_the_connection_can_name_another_console(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def connection(template: str) -> str:
        extra = {"region": "cn-beijing", "console_url": template}
        fields = {"conn_type": "pai", "host": pai.url, "login": pai.access_key_id, "password": SECRET}
        return json.dumps({**fields, "extra": extra})

    monkeypatch.setenv("AIRFLOW_CONN_TEMPLATED", connection("https://x/{region}?{run_id}"))
    monkeypatch.setenv("AIRFLOW_CONN_MISTAKEN", connection("https://x/{nope}"))
    run_id = pai.add_run("one", labels={"n": "1"})
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", pai_conn_id="templated")
        PaiListRunsOperator(task_id="mistaken", pai_conn_id="mistaken")
        PaiRunSensor(task_id="waits", pai_conn_id="mistaken", labels="n:1", poke_interval=0.1, timeout=2)
    ran = run_dag(dag)
    assert ran.button("list") == f"https://x/cn-beijing?{run_id}"
    assert (ran.states["mistaken"], ran.states["waits"]) == ("success", "success")  # it only decorates
    assert not ran.button("mistaken")


def test_before_a_task_has_run_there_is_no_link() -> None:
    with new_dag() as dag:
        operator = PaiListRunsOperator(task_id="list")
    key = first("TaskInstanceKey", "airflow.models.taskinstancekey", "airflow.models.taskinstance")
    assert PaiRunLink().get_link(operator, ti_key=key(dag.dag_id, "list", "never", 1)) == ""


@pytest.mark.parametrize("base", [None, "http://127.0.0.1:8080", "https://airflow.example/data/airflow/"])
def test_after_a_gate_the_button_opens_its_verdict_where_airflow_has_the_page(
    pai: Any, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    if base is not None:
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    pai.add_run("one", labels={"n": "1"}, metrics={"accuracy": 0.8})
    with new_dag() as dag:
        PaiRunGateOperator(task_id="gate", labels="n:1", metrics={"accuracy": ">= 0.9"})
        PaiRunGateOperator(task_id="fails", labels="n:1", metrics={"accuracy": ">= 0.9"}, on_fail="fail")
        PaiRunGateOperator.partial(task_id="each", metrics={"accuracy": ">= 0.9"}, on_fail="fail").expand(
            labels=["n:1", "n:2"]
        )
        PaiRunGateOperator(task_id="broken", labels="n:1", metrics={"accuracy": "> 0"}, pai_conn_id="none")
        PaiListRunsOperator(task_id="list", labels="n:1")
    ran = run_dag(dag)
    tasks = [("gate", -1), ("fails", -1), ("each", 0), ("each", 1)]
    if VERSION < (3, 1):
        assert [ran.button(*task, name="Verdict") for task in tasks] == [None] * 4
        assert ran.xcom("gate", HISTORY_KEY) is None
        return
    page = f"{base.rstrip('/')}/pai/gates/" if base else "pai/gates/"
    where = [f"{dag.dag_id}/{quote(ran.run_id, safe='')}/{task_id}/{index}" for task_id, index in tasks]
    assert [ran.button(*task, name="Verdict") for task in tasks] == [f"{page}?verdict={at}" for at in where]
    assert not ran.button("broken", name="Verdict")
    assert ran.button("list", name="Verdict") is None
    (series,) = ran.xcom("gate", HISTORY_KEY)["series"]
    assert (series["metric"], series["points"]) == ("accuracy", [[0, 0.8]])
    assert ran.xcom("each", HISTORY_KEY, 1) == {"runs": [], "series": [], "left_out": 0}


@pytest.mark.skipif(VERSION < (3, 1), reason="the page is there from Airflow 3.1 on")
def test_a_gate_decides_also_where_pai_shows_no_history_and_the_console_is_mistaken(
    pai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"conn_type": "pai", "host": pai.url, "login": pai.access_key_id, "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_LINKED", json.dumps({**fields, "extra": {"console_url": "nowhere"}}))
    pai.add_run("one", labels={"n": "1"}, metrics={"accuracy": 0.8})
    pai.inject("server_error", action="ListRunMetrics")
    with new_dag() as dag:
        gate = PaiRunGateOperator(
            task_id="gate", labels="n:1", metrics={"accuracy": "> 0"}, pai_conn_id="linked"
        )
    ran = run_dag(dag)
    assert ran.states == {"gate": "success"}
    (run,) = ran.xcom("gate", HISTORY_KEY)["runs"]
    assert (run["name"], run["url"]) == ("one", None)
    assert gate.task_id == "gate"
