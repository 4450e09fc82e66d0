# ruff: noqa: F401, F811 - fixtures come by import
"""This Airflow gives what docs/versions.md says of it; what it lacks is refused when the DAG is parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, first, load_dags, new_dag, pai, run_dag, schedule, serialize, task
from test_triggers import in_one_loop, more_polls, quota, the_poller, triggerer, wait

from airflow_provider_pai._compat import starts_in_triggerer
from airflow_provider_pai.sensors import PaiRunSensor
from airflow_provider_pai.ui.plugin import HAS_PAGE
from airflow_provider_pai.waiting.handover import trigger_arguments

PAGE = Path(__file__).parent.parent / "docs" / "versions.md"
DAG_FILE = """
try:
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
from airflow_provider_pai.sensors import PaiRunSensor

with DAG("uses_it", schedule=None):
    {}
"""
WAIT = 'PaiRunSensor(task_id="wait", deferrable=True, labels={}, {}=True)'
IMPORT = "from airflow_provider_pai.triggers import {}"
USES = {
    "`deferrable=True`": [WAIT.format({"day": "{{ ds }}"}, "soft_fail")],
    "`end_from_trigger`": [WAIT.format({"day": "{{ ds }}"}, "end_from_trigger")],
    "`start_from_trigger`": [WAIT.format({"a": "b"}, "start_from_trigger")],
    "`start_from_trigger` with templates": [
        WAIT.format(labels, "start_from_trigger") for labels in ({"day": "{{ ds }}"}, "'day:{{ ds }}'")
    ],
    "Start a DAG on new runs: `pai_run_asset`": [
        f"{IMPORT.format('pai_run_asset')}; pai_run_asset('models', labels='a:b')",
        f"{IMPORT.format('PaiRunEventTrigger')}; PaiRunEventTrigger(labels='a:b')",
    ],
    "A person approves in Airflow: `PaiApprovalOperator`": [
        "from airflow_provider_pai.operators import PaiApprovalOperator"
    ],
}
"""Features in the page's words, and what makes use of them in a DAG."""
REMEDIES = {
    "`start_from_trigger`": ["needs Airflow 3.3", "Leave it out"],
    "`start_from_trigger` with templates": ["needs Airflow 3.3", "Templates are in labels", "Leave it out"],
    "Start a DAG on new runs: `pai_run_asset`": ["came with Airflow 3.0", "PaiRunSensor(deferrable=True)"],
    "A person approves in Airflow: `PaiApprovalOperator`": ["came with Airflow 3.1", "approval='Pending'"],
}


def said(feature: str) -> bool:
    """Whether the page says that this Airflow has a feature."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text("utf-8").splitlines() if line[:1] == "|"]
    table = {row[0].strip(): dict(zip(rows[0], map(str.strip, row), strict=True)) for row in rows}
    return table[feature][f" {VERSION[0]}.{VERSION[1]} "] != "no"


def refusal(folder: Path, code: str) -> str:
    """Why Airflow cannot load a DAG with this in it; empty where it can."""
    (folder / "uses_it.py").write_text(DAG_FILE.format(code))
    bag = load_dags(folder)
    assert bool(bag.dags) != bool(bag.import_errors)
    return "".join(bag.import_errors.values())


@pytest.mark.parametrize(
    ("feature", "code"), [(feature, code) for feature, uses in USES.items() for code in uses]
)
def test_a_feature_is_there_or_refused_with_the_remedy(
    airflow_db: None, tmp_path: Path, feature: str, code: str
) -> None:
    why = refusal(tmp_path, code)
    if said(feature):
        assert why == ""
    else:
        assert [words for words in REMEDIES[feature] if words not in why] == []
        assert "AttributeError" not in why


def test_a_wait_over_which_a_task_is_mapped_does_not_end_in_the_triggerer(pai: Any) -> None:
    if not starts_in_triggerer(templates=False):
        pytest.skip("3.1 and 3.2 start every task in a worker")
    with new_dag() as dag:

        @task
        def each(run: Any) -> None: ...

        wait = {"labels": "a:b", "deferrable": True, "start_from_trigger": True, "end_from_trigger": True}
        PaiRunSensor(task_id="alone", **wait)
        each.expand(run=PaiRunSensor(task_id="mapped_over", **wait).output)
    starts = {name: serialize(dag).get_task(name).start_trigger_args for name in ("alone", "mapped_over")}
    ends = {name: found.trigger_kwargs for name, found in starts.items()}
    assert "'end_task': True" in str(ends["alone"])
    assert "'end_task': False" in str(ends["mapped_over"])


def test_what_another_task_hands_on_does_not_start_in_the_triggerer(airflow_db: None, tmp_path: Path) -> None:
    other = "PaiRunSensor(task_id='other', labels='a:b').output"
    why = refusal(tmp_path, WAIT.format(other, "start_from_trigger"))
    assert "PaiUsageError" in why
    assert "labels" in why
    assert "Leave it out" in why


@in_one_loop
async def test_all_waits_with_the_same_labels_share_one_poll(pai: Any, quota: None) -> None:
    assert said("One poll for all waits with the same labels")
    async with triggerer() as airflow:
        for index in range(50):
            airflow.start(wait(name=f"never-{index}", poke_interval=0.5))
        await more_polls(pai, 3)
        assert all("Name" not in request.query for request in pai.requests)  # nobody asks for themselves
        the_poller()


def test_what_is_done_in_silence_is_as_the_page_says() -> None:
    stores = first("AssetStateStoreAccessors", "airflow.sdk.execution_time.context")
    assert said("Announced runs outlive a restart of the triggerer") == (stores is not None)
    assert said("[Page of gates](gating.md#the-page-pai-gates), and the button *Verdict*") == HAS_PAGE


@pytest.mark.skipif(
    not starts_in_triggerer(templates=False), reason="3.1 and 3.2 start every task in a worker"
)
@pytest.mark.filterwarnings("ignore:The `airflow.models.abstractoperator.NotMapped` class")  # 3.0, on itself
def test_the_scheduler_hands_a_task_straight_to_the_triggerer(pai: Any) -> None:
    pai.add_run("there", labels={"a": "b"})
    with new_dag() as dag:
        for task_id, starts in {"worker": False, "triggerer": True}.items():
            PaiRunSensor(task_id=task_id, labels="a:b", deferrable=True, start_from_trigger=starts)
    ran = run_dag(dag)
    assert ran.state == "success"
    assert schedule(ran, "worker") == ("None", None)  # left for an executor
    state, trigger = schedule(ran, "triggerer")
    assert state == "deferred"
    assert trigger is not None
    assert trigger[0] == "airflow_provider_pai.triggers.PaiRunTrigger"
    assert trigger[1] == trigger_arguments(dag.get_task("triggerer"))
