# ruff: noqa: F401, F811 - fixtures come by import
"""What README and docs show runs as it stands there: the first DAG, its test, and tests of waits."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow_db import HOME, VERSION, _store, airflow_db, pai, run_dag

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LABELS = {"is_evaluation": "true"}

pytestmark = pytest.mark.timeout(60, method="thread")  # Airflow 3.2 clears the alarm of the other method


def blocks(page: str) -> list[str]:
    """Return the Python that a page shows."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def block_with(page: str, text: str) -> str:
    (found,) = [block for block in blocks(page) if text in block]
    return found


def for_this_airflow(code: str) -> str:
    """Follow the comment ``Airflow 2: from … import …`` behind an import."""
    return (
        re.sub(r"^.* # Airflow 2: (from .*)$", r"\1", code, flags=re.MULTILINE) if VERSION < (3, 0) else code
    )


@pytest.fixture
def my_dag(airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """README's first DAG, in a file of Airflow's folder, from where its test imports it."""
    file = HOME / "dags" / "evaluated.py"
    file.write_text(for_this_airflow(block_with("README.md", "def evaluated()")))
    monkeypatch.syspath_prepend(file.parent)
    dag = importlib.import_module("evaluated").my_dag
    if VERSION == (3, 1):
        _store(dag)  # as `airflow dags reserialize`, without which 3.1 runs no DAG
    yield dag
    sys.modules.pop("evaluated")
    file.unlink()


def shown_tests(page: str) -> dict[str, Callable[..., None]]:
    """Return the tests that a page shows."""
    names: dict[str, Any] = {}
    exec(block_with(page, "def test_"), names)
    return {name: value for name, value in names.items() if name.startswith("test_")}


def test_readmes_test_of_readmes_dag_passes(
    my_dag: Any, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (test,) = shown_tests("README.md").values()
    test(pai_emulator, monkeypatch)


@pytest.mark.parametrize(
    "name", ["test_a_late_label_ends_the_wait", "test_a_wait_for_what_never_comes_fails"]
)
def test_the_tests_of_waits_that_the_docs_show_pass(
    my_dag: Any, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tests = shown_tests("docs/testing.md")
    assert len(tests) == 2
    tests[name](pai_emulator, monkeypatch)


def test_readmes_dag_runs_where_somebody_starts_it_by_hand(my_dag: Any, pai: Any) -> None:
    pai.add_run("today", labels=LABELS)
    pai.add_run("long ago", labels=LABELS, gmt_create_time="2025-01-01T00:00:00Z")
    ran = run_dag(my_dag, None)
    assert ran.state == "success"
    assert [run["name"] for run in ran.xcom("wait_for_evaluation")] == ["today"]


def test_a_deferred_wait_in_dag_test_has_no_timeout_and_later_ends_it(my_dag: Any, pai: Any) -> None:
    """As docs/testing.md says: if an Airflow should end it by its timeout, the page is wrong."""
    wait = my_dag.get_task("wait_for_evaluation")
    wait.poke_interval, wait.timeout, wait.execution_timeout = 0.1, 0.5, timedelta(seconds=1)
    started = time.monotonic()
    pai.later(3, pai.add_run, "late", labels=LABELS)
    ran = run_dag(my_dag, None)
    assert time.monotonic() - started > 3
    assert ran.state == "success"


def test_the_fixture_against_waits_that_hang_ends_them(my_dag: Any, pai: Any) -> None:
    code = block_with("docs/testing.md", "def no_wait_hangs")
    assert "later(60," in code
    names: dict[str, Any] = {"pytest": pytest}
    exec(code.replace("later(60,", "later(1,").replace("@pytest.fixture(autouse=True)\n", ""), names)
    names["no_wait_hangs"](pai)
    my_dag.get_task("wait_for_evaluation").poke_interval = 0.1
    ran = run_dag(my_dag, None)
    assert ran.state == "failed"
    assert "PaiPermissionError" in ran.error("wait_for_evaluation")


def test_a_change_that_fails_ends_the_dag_and_not_in_silence(my_dag: Any, pai: Any) -> None:
    my_dag.get_task("wait_for_evaluation").poke_interval = 0.1
    pai.later(0.5, pai.label_run, "no-such-run", LABELS)
    ran = run_dag(my_dag, None)
    assert "The test's own callback failed" in ran.error("wait_for_evaluation")
    with pytest.raises(Exception, match="Run 'no-such-run' does not exist"):
        pai.stop()


DATES = re.compile(r"\b(data_interval_\w+|logical_date|execution_date|ds|ds_nodash|ts|ts_nodash\w*)\b")
"""What a DAG run has that the schedule starts, and not every other."""


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((ROOT / "dags_examples").glob("*.py")), *sorted((ROOT / "demo").glob("*.py"))],
    ids=lambda page: page.name,
)
def test_nothing_that_is_shown_needs_a_logical_date(page: Path) -> None:
    shown = blocks(str(page.relative_to(ROOT))) if page.suffix == ".md" else [page.read_text("utf-8")]
    assert DATES.findall("\n".join(shown)) == []


def test_the_tasks_of_the_page_on_tracking_become_runs(pai: Any) -> None:
    names: dict[str, Any] = {}
    exec(for_this_airflow(block_with("docs/tracking.md", "my_dag = training()")), names)
    assert run_dag(names["my_dag"]).state == "success"
    assert sorted(run["Params"]["samples"] for run in pai.runs()) == ["120", "600", "898"]
    exec(block_with("docs/tracking.md", "with PaiHook().track"), {})
    assert pai.runs()[-1]["Labels"].items() >= {"is_evaluation": "true", "airflow_state": "success"}.items()


def test_the_dag_of_the_page_on_releasing_models_releases_one(pai: Any) -> None:
    labels = {"is_evaluation": "true"}
    run_id = pai.add_run(labels=labels, metrics={"accuracy": 0.93, "log_loss": 0.2})
    names: dict[str, Any] = {}
    exec(for_this_airflow(block_with("docs/releasing-models.md", "my_dag = release()")), names)
    ran = run_dag(names["my_dag"])
    assert ran.state == "success", ran.errors
    (version,) = pai.model_versions(ran.xcom("register")["model_id"])
    assert (version["ApprovalStatus"], version["Labels"]) == ("Approved", {"pai_run_id": run_id})
