# ruff: noqa: F401, F811 - fixtures come by import
"""What README and docs show runs as it stands there: the first DAG, its test, and tests of waits."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import re
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow_db import HOME, VERSION, _store, airflow_db, new_dag, pai, run_dag

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
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


def quoted(page: str) -> list[str]:
    """Return what the first column of a page's tables says that a log or a reason reads."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    cells = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if " " in text]


def test_what_the_page_on_problems_quotes_is_what_is_said(
    pai: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    from airflow_provider_pai.operators import PaiRunGateOperator
    from airflow_provider_pai.sensors import PaiRunSensor

    caplog.set_level("INFO")
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", re.sub("&workspace_id=.*", "", pai.connection_uri))
    good = pai.add_run(metrics={"accuracy": 0.938804, "log_loss": 0.3})
    champion = pai.add_run(labels={"champion": "true"}, metrics={"accuracy": 0.94854})
    for accuracy in (0.95, 0.5):
        pai.add_run(labels={"is_new": "true"}, metrics={"accuracy": accuracy})
    broken = pai.add_run(metrics={"accuracy": float("nan")})
    soon = {"poke_interval": 0.1, "timeout": 0.2}
    against = {"baseline_labels": "champion:true", "on_fail": "fail"}
    with new_dag() as dag:
        PaiRunSensor(task_id="none", pai_conn_id="anywhere", labels=LABELS, **soon)
        PaiRunSensor(task_id="late", labels=LABELS, created_after="2020-01-01T00:00:00Z", **soon)
        for name, metric in [("misspelt", "acc"), ("few", "accuracy")]:
            PaiRunSensor(task_id=name, labels="is_new:true", metrics={metric: ">= 0.9"}, min_runs=3, **soon)
        PaiRunGateOperator(task_id="no_run", labels=LABELS, metrics={"accuracy": "> 0"}, on_fail="fail")
        PaiRunGateOperator(task_id="empty", runs=[], metrics={"accuracy": "> 0"}, on_fail="fail")
        PaiRunGateOperator(task_id="no_metric", runs=good, metrics={"acc": "> 0"}, on_fail="fail")
        PaiRunGateOperator(task_id="no_number", runs=broken, metrics={"accuracy": "> 0"}, on_fail="fail")
        PaiRunGateOperator(task_id="lacks", runs=good, metrics={"log_loss": "< baseline"}, **against)
        PaiRunGateOperator(task_id="worse", runs=good, metrics={"accuracy": ">= baseline + 0.005"}, **against)
        PaiRunGateOperator(task_id="itself", runs=champion, metrics={"accuracy": "> baseline"}, **against)
        against["baseline_labels"] = "champion:True"
        PaiRunGateOperator(task_id="first", runs=good, metrics={"accuracy": "> baseline"}, **against)
    run_dag(dag)
    said = [caplog.text, *capfd.readouterr()]
    monkeypatch.delenv("AIRFLOW_CONN_PAI_DEFAULT")
    asyncio.run(until_it_fires(fault_tolerance=3, poke_interval=0.05))
    asyncio.run(until_it_fires(fault_tolerance=1, poke_interval=60))
    with pytest.raises(Exception, match="The trigger failed") as failed:
        dag.get_task("none").resume_execution("__fail__", {"error": "no such module"}, {})
    heard = "\n".join([*said, caplog.text, *capfd.readouterr(), str(failed.value)])
    heard = re.sub(r"\\(['\"])", r"\1", heard)
    shown = quoted("docs/troubleshooting.md")
    assert len(shown) > 15
    assert [text for text in shown if not re.search(".*".join(map(re.escape, text.split("…"))), heard)] == []


async def until_it_fires(**arguments: Any) -> None:
    from airflow_provider_pai.triggers import PaiRunTrigger

    async for _ in PaiRunTrigger(labels=LABELS, **arguments).run():
        return


def test_asking_pai_what_a_wait_asks_shows_the_run(pai: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pai.add_run("late", labels=LABELS, metrics={"accuracy": 0.93})
    exec(block_with("docs/troubleshooting.md", "hook.list_runs"), {})
    assert "late" in capsys.readouterr().out


def test_the_policies_to_paste_are_policies_with_actions_of_pai_and_oss() -> None:
    text = (ROOT / "docs/permissions.md").read_text("utf-8")
    policies = [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]
    assert len(policies) == 4
    for policy in policies:
        assert policy["Version"] == "1"
        for statement in policy["Statement"]:
            assert statement.keys() == {"Effect", "Action", "Resource"}
            for action in statement["Action"]:
                assert re.fullmatch(r"(paiexperiment|paimodel|paiworkspace|oss):[A-Z][A-Za-z*]+", action)


def prose(page: Path) -> str:
    """Return a page without the code that it shows."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def problem_of_link(page: Path, target: str) -> str:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    if not file.exists():
        return f"{target}: no such file"
    return f"{target}: no such heading" if anchor and anchor not in anchors(file) else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    relative = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [problem for target in relative if (problem := problem_of_link(page, target))] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        left += [page.parent / target for target in re.findall(r"\]\(([^)#:\s]+)", prose(page))]
    assert [page.name for page in PAGES if page not in reached] == []


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.stem
)
def test_a_template_for_issues_says_what_it_is_for(template: Path) -> None:
    _, head, body = template.read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(head).keys() == {"name", "about", "labels"}
    assert body.strip()


def test_the_page_on_contributing_knows_every_room() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = [path.parent.name for path in (ROOT / "airflow_provider_pai").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}/`" not in page] == []


DATES = re.compile(r"\b(data_interval_\w+|logical_date|execution_date|ds|ds_nodash|ts|ts_nodash\w*)\b")
"""What a DAG run has that the schedule starts, and not every other."""


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        *sorted((ROOT / "dags_examples").glob("*.py")),
        *sorted(
            set((ROOT / "demo").glob("*.py")) - {ROOT / "demo" / "rest.py"}
        ),  # which says that it has none
    ],
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


def recipes() -> dict[str, str]:
    """Return the DAGs of the page of recipes by the names of their functions, each with the imports."""
    first, on_airflow_2, *dags = blocks("docs/how-to.md")
    if VERSION < (3, 0):
        first = re.sub(r"^from airflow.sdk import .*\n", on_airflow_2, first, flags=re.MULTILINE)
    return {re.findall(r"^def (\w+)\(", code, re.MULTILINE)[0]: first + code for code in dags}


def recipe(name: str, **conf: Any) -> Any:
    """Run a DAG of the page of recipes; its waits ask every tenth of a second."""
    file = HOME / "dags" / f"{name}.py"
    file.write_text(recipes()[name])  # Airflow 3 reads the source of what is mapped
    try:
        dag = runpy.run_path(str(file))["my_dag"]
        for task_id in {"wait"} & dag.task_dict.keys():
            dag.get_task(task_id).poke_interval = 0.1
        return run_dag(dag, None, conf or None)
    finally:
        file.unlink()


def test_every_recipe_is_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [name for name in recipes() if f'recipe("{name}"' not in text] == []


def test_the_recipe_for_three_runs(pai: Any) -> None:
    ids = [pai.add_run(labels=LABELS, metrics={"accuracy": accuracy}) for accuracy in (0.7, 0.9)]
    pai.later(1, pai.add_run, "third", labels=LABELS, metrics={"accuracy": 0.8})
    ran = recipe("three_runs")
    assert (ran.state, ran.xcom("best")) == ("success", ids[1])
    assert len(ran.xcom("wait")) == 3


def test_the_recipes_for_lists(pai: Any, tmp_path: Path) -> None:
    ids = [pai.add_run(f"number-{number}", labels=LABELS, metrics={"loss": 0.5}) for number in range(12)]
    assert recipe("newest").xcom("names") == [f"number-{number}" for number in range(11, 1, -1)]
    listed = recipe("all_runs", folder=tmp_path.as_uri()).xcom("list")
    assert listed["count"] == len(Path(listed["path"].removeprefix("file://")).read_text().splitlines()) == 12
    mapped = recipe("by_id")
    assert [mapped.xcom("inspect", map_index=index) for index in range(len(ids))] == [{"loss": 0.5}] * 12


def test_the_recipe_for_all_runs_of_a_dag_run(pai: Any) -> None:
    pai.add_run("of somebody else", metrics={"accuracy": 1.0})
    ran = recipe("trained")
    (best,) = [run for run in pai.runs() if run["RunId"] == ran.xcom("best")]
    assert best["Params"]["samples"] == "600"


def test_the_recipe_for_a_metrics_history(pai: Any) -> None:
    run_id = pai.add_run(labels=LABELS)
    for step, loss in enumerate((0.5, 0.2, 0.3)):
        pai.measure_run(run_id, {"loss": loss}, step=step)
    assert recipe("history").xcom("best_step") == 1


def test_the_recipe_for_several_experiments(pai: Any) -> None:
    for name in ("letters", "digits", "others"):
        pai.add_run(f"of-{name}", experiment_id=pai.add_experiment(name), labels=LABELS)
    assert recipe("several").xcom("names") == ["of-digits", "of-letters"]


@pytest.mark.filterwarnings("ignore:The `airflow.utils.operator_helpers")  # Airflow 3's own @task.sensor
@pytest.mark.parametrize("label", ["is_evaluation", "approved"])
def test_the_recipe_for_either_of_two_labels(pai: Any, label: str) -> None:
    pai.add_run("old", labels={label: "true"}, gmt_create_time="2025-01-01T00:00:00Z")
    run_id = pai.add_run(labels={label: "true"})
    assert [run["run_id"] for run in recipe("either").xcom("wait")] == [run_id]


@pytest.mark.parametrize(("log_loss", "state"), [(0.1, "success"), (0.3, "skipped")])
def test_the_recipe_for_a_gate_with_or(pai: Any, log_loss: float, state: str) -> None:
    pai.add_run(labels=LABELS, metrics={"accuracy": 0.5, "log_loss": log_loss})
    ran = recipe("one_is_enough")
    assert (ran.state, ran.states["deploy"]) == ("success", state)


def test_the_recipe_for_slack(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    pai.add_run(labels=LABELS, metrics={"accuracy": 0.5})
    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("AIRFLOW_VAR_SLACK_WEBHOOK_SECRET", url)
        ran = recipe("told")
        server.shutdown()
    assert (ran.state, ran.states["deploy"]) == ("success", "skipped")
    assert [message["text"].partition(": ")[0] for message in told] == ["The gate did not pass"]


def test_the_recipe_for_limits(pai: Any) -> None:
    ids = [pai.add_run(labels=LABELS, metrics={"accuracy": accuracy}) for accuracy in (0.7, 0.9, 0.8)]
    assert recipe("nightly").state == "success"
    assert [run["RunId"] for run in pai.runs(labels={"champion": "true"})] == [ids[1]]


def reference(kind: type, base: type = object) -> list[str]:
    """Return a row for each public name of a class, out of signatures and docstrings, as a page shows it."""
    rows = []
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") or member is inspect.getattr_static(base, name, None):
            continue
        if not callable(member) and not isinstance(
            member, (property, functools.cached_property, classmethod)
        ):
            continue
        value = member if isinstance(member, (property, functools.cached_property)) else getattr(kind, name)
        summary = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
        summary = re.sub(
            r":\w+:`~?\.?([^`]+)`|``([^`]+)``", lambda found: f"`{found[1] or found[2]}`", summary
        )
        rows.append(f"| `{name}{parameters_of(value)}` | {summary} |")
    return rows


def parameters_of(value: Any) -> str:
    """Return the parameters of a method without their types; nothing for a property."""
    if not callable(value):
        return ""
    given = [each for each in inspect.signature(value).parameters.values() if each.name != "self"]
    plain = inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in given])
    return str(plain)


def test_the_page_on_the_hook_has_all_of_its_methods() -> None:
    from airflow_provider_pai._compat import BaseHook
    from airflow_provider_pai.hooks import PaiHook

    page = (ROOT / "docs/hook.md").read_text("utf-8")
    assert [row for row in reference(PaiHook, BaseHook) if row not in page] == []


def test_the_page_on_testing_has_all_that_the_fixture_can_do() -> None:
    from airflow_provider_pai.emulator import PaiEmulator

    page = (ROOT / "docs/testing.md").read_text("utf-8")
    assert [row for row in reference(PaiEmulator) if row not in page] == []


def test_the_page_on_the_hook_shows_a_runs_two_shapes(pai: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pai.add_run("seen", labels=LABELS, metrics={"accuracy": 0.93})
    exec(block_with("docs/hook.md", "hook.list_runs"), {})
    shown = capsys.readouterr().out
    assert "seen" in shown
    assert "Metric(key='accuracy'" in shown
    assert "\n0.93\n" in shown


def test_the_dag_of_the_page_on_releasing_models_releases_one(pai: Any) -> None:
    labels = {"is_evaluation": "true"}
    run_id = pai.add_run(labels=labels, metrics={"accuracy": 0.93, "log_loss": 0.2})
    names: dict[str, Any] = {}
    exec(for_this_airflow(block_with("docs/releasing-models.md", "my_dag = release()")), names)
    ran = run_dag(names["my_dag"])
    assert ran.state == "success", ran.errors
    (version,) = pai.model_versions(ran.xcom("register")["model_id"])
    assert (version["ApprovalStatus"], version["Labels"]) == ("Approved", {"pai_run_id": run_id})
