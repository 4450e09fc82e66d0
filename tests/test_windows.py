# ruff: noqa: F401, F811 - fixtures come by import
"""A window means the same day on every Airflow, however a DAG run came to be."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pendulum
import pytest
from airflow_db import (
    DAG,
    VERSION,
    airflow_db,
    by_hand,
    due,
    first,
    new_dag,
    pai,
    rendered,
    run_dag,
    serialize,
)

from airflow_provider_pai._compat import starts_in_triggerer
from airflow_provider_pai.operators import PaiListRunsOperator
from airflow_provider_pai.windows import midnight

pytestmark = pytest.mark.usefixtures("airflow_db")
EmptyOperator = first(
    "EmptyOperator", "airflow.providers.standard.operators.empty", "airflow.operators.empty"
)
BERLIN, SHANGHAI, UTC = "Europe/Berlin", "Asia/Shanghai", "UTC"
WINDOW = f"{midnight()} {midnight(1)}"


def scheduled(schedule: Any, zone: str = UTC, **arguments: Any) -> Any:
    """Return a task of a DAG with a schedule."""
    start = pendulum.datetime(2025, 10, 1, tz=zone)
    with DAG("windows", schedule=schedule, start_date=start, catchup=False, **arguments):
        return EmptyOperator(task_id="task")


def at(text: str, zone: str = UTC) -> Any:
    return pendulum.parse(text, tz=zone)


@pytest.fixture(params=["as by default", "other"])
def intervals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of schedule: the interval of a nightly DAG run is its moment in 3, and a day in 2."""
    if request.param == "other":
        monkeypatch.setenv("AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS", str(VERSION >= (3, 0)))


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
@pytest.mark.parametrize(
    ("schedule", "zone", "moment", "begins", "ends"),
    [
        ("@daily", UTC, "2025-10-21T00:00", "2025-10-21 00:00:00+00:00", "2025-10-22 00:00:00+00:00"),
        ("@daily", SHANGHAI, "2025-10-21T00:00", "2025-10-21 00:00:00+08:00", "2025-10-22 00:00:00+08:00"),
        ("0 2 * * *", SHANGHAI, "2025-10-21T02:00", "2025-10-21 00:00:00+08:00", "2025-10-22 00:00:00+08:00"),
        ("30 23 * * *", UTC, "2025-10-21T23:30", "2025-10-21 00:00:00+00:00", "2025-10-22 00:00:00+00:00"),
        ("@hourly", UTC, "2025-10-21T05:00", "2025-10-21 00:00:00+00:00", "2025-10-22 00:00:00+00:00"),
        ("@weekly", UTC, "2025-10-19T00:00", "2025-10-19 00:00:00+00:00", "2025-10-20 00:00:00+00:00"),
        ("0 4 * * *", BERLIN, "2025-10-26T04:00", "2025-10-26 00:00:00+02:00", "2025-10-27 00:00:00+01:00"),
    ],
)
def test_the_day_of_a_scheduled_dag_run_is_that_on_which_it_is_due(
    intervals: None, run_type: str, schedule: str, zone: str, moment: str, begins: str, ends: str
) -> None:
    task = scheduled(schedule, zone)
    times = {**due(task.dag, at(moment, zone)), "run_type": run_type}
    assert rendered(task, WINDOW, times) == f"{begins} {ends}"


@pytest.mark.parametrize("schedule", ["@daily", "@weekly", None])
def test_the_day_of_a_dag_run_that_is_started_by_hand_is_that_day(intervals: None, schedule: Any) -> None:
    task = scheduled(schedule, SHANGHAI)
    times = by_hand(task.dag, at("2025-10-21T14:30", SHANGHAI))
    assert rendered(task, WINDOW, times) == "2025-10-21 00:00:00+08:00 2025-10-22 00:00:00+08:00"


@pytest.mark.parametrize("schedule", ["@daily", None])
def test_a_logical_date_that_is_given_by_hand_names_another_day(intervals: None, schedule: Any) -> None:
    task = scheduled(schedule)
    times = by_hand(task.dag, at("2025-10-21T14:30"), at("2025-10-03T09:00"))
    assert rendered(task, WINDOW, times) == "2025-10-03 00:00:00+00:00 2025-10-04 00:00:00+00:00"


def test_the_day_of_a_dag_run_that_an_asset_starts_is_that_of_the_event() -> None:
    task = scheduled(None)
    times = by_hand(task.dag, at("2025-10-21T14:30"))
    kind = "asset_triggered" if VERSION >= (3, 0) else "dataset_triggered"
    if VERSION < (3, 0):  # there its interval spans the events since the last one
        times["data_interval_start"] = times["data_interval_end"] = at("2025-10-19T11:00")
    found = rendered(task, WINDOW, {**times, "run_type": kind})
    assert found == "2025-10-21 00:00:00+00:00 2025-10-22 00:00:00+00:00"


def test_days_are_counted_and_not_hours() -> None:
    task = scheduled("@daily", BERLIN)
    times = due(task.dag, at("2025-10-27T00:00", BERLIN))
    found = [rendered(task, midnight(days), times)[:19] for days in (-7, -1, 0, +1)]
    assert found == [f"2025-10-{day} 00:00:00" for day in (20, 26, 27, 28)]


def test_native_rendering_gives_a_time() -> None:
    task = scheduled("@daily", render_template_as_native_obj=True)
    found = rendered(task, midnight(), due(task.dag, at("2025-10-21T00:00")))
    assert isinstance(found, datetime)
    assert found == at("2025-10-21T00:00")


@pytest.mark.skipif(not starts_in_triggerer(templates=True), reason="templates are rendered by workers alone")
def test_a_task_that_starts_in_the_triggerer_gets_the_same_day() -> None:
    task = scheduled("@daily", SHANGHAI)
    times = due(task.dag, at("2025-10-21T00:00", SHANGHAI))
    found = rendered(task, WINDOW, times, known_as=serialize(task.dag).get_task("task"))
    assert found == "2025-10-21 00:00:00+08:00 2025-10-22 00:00:00+08:00"


def test_a_night_takes_the_runs_of_its_own_day_alone(pai: Any) -> None:
    for name, created in {"before": 19, "first": 20, "last": 20, "after": 21}.items():
        hour = 23 if name == "last" else 0
        pai.add_run(name, labels={"a": "b"}, gmt_create_time=datetime(2025, 10, created, hour))
    with new_dag() as dag:
        PaiListRunsOperator(
            task_id="list", labels="a:b", created_after=midnight(), created_before=midnight(+1)
        )
    ran = run_dag(dag, pendulum.datetime(2025, 10, 20, 8))
    assert [run["name"] for run in ran.xcom("list")] == ["first", "last"]


def test_a_dag_run_as_the_command_line_starts_it_takes_the_runs_of_today(pai: Any) -> None:
    pai.add_run("today", labels={"a": "b"})
    pai.add_run("long ago", labels={"a": "b"}, gmt_create_time="2025-01-01T00:00:00Z")
    with new_dag() as dag:
        PaiListRunsOperator(
            task_id="list", labels="a:b", created_after=midnight(), created_before=midnight(+1)
        )
    ran = run_dag(dag, None)
    assert [run["name"] for run in ran.xcom("list")] == ["today"]
