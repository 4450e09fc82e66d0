# ruff: noqa: F401, F811 - fixtures come by import
"""A task becomes a run, and finds it again: in real DAG runs, with faults between it and PAI."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any
from urllib.parse import quote

import pytest
from airflow_db import airflow_db, new_dag, pai, run_dag, task

from airflow_provider_pai.api import PaiTransportError, PaiUsageError
from airflow_provider_pai.emulator.errors import RefusedError
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.tracking import tracked_run

pytestmark = pytest.mark.timeout(120)

OLD = "2020-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracked_run, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.001)


def only(pai: Any) -> dict[str, Any]:
    (run,) = pai.runs()
    return run


def states(pai: Any) -> list[str]:
    return [run["Labels"]["airflow_state"] for run in pai.runs()]


# --- tasks


def test_tasks_become_runs_and_a_retry_finds_its_own(pai: Any) -> None:
    with new_dag() as dag:

        @task.pai_run(experiment="digits", labels={"model": "digits"}, run_params={"lr": 0.1})
        def train(samples: int, pai_run: Any = None) -> int:
            for epoch in range(3):
                pai_run.log_metrics({"accuracy": samples / 100 + epoch}, step=epoch)
            return 2 * samples

        @task.pai_run(experiment="digits", retries=1)
        def flaky(pai_run: Any = None, ti: Any = None) -> None:
            pai_run.log_metrics({"tries": ti.try_number}, step=ti.try_number)
            pai_run.set_labels({"seen": str(ti.try_number)})
            if ti.try_number == 1:
                raise RuntimeError("the first try fails")

        train.expand(samples=[10, 20])
        flaky()
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert [ran.xcom("train", map_index=index) for index in (0, 1)] == [20, 40]
    runs = {run["RunId"]: run for run in pai.runs()}
    assert len(runs) == 3
    for index in (0, 1):
        run = runs[ran.xcom("train", "pai_run_id", map_index=index)]
        assert run["Name"] == "train"
        assert (
            run["Params"].items()
            >= {
                "samples": str(10 * (index + 1)),
                "lr": "0.1",
                "airflow_dag_id": dag.dag_id,
                "airflow_dag_run_id": ran.run_id,
                "airflow_task_id": "train",
                "airflow_map_index": str(index),
                "airflow_try_number": "1",
            }.items()
        )
        assert run["Labels"].items() >= {"model": "digits", "airflow_state": "success"}.items()
        assert run["Metrics"] == {"accuracy": (index + 1) / 10 + 2}
    again = runs[ran.xcom("flaky", "pai_run_id")]
    assert again["Params"]["airflow_try_number"] == "2"
    assert (again["Labels"]["seen"], again["Labels"]["airflow_state"]) == ("2", "success")
    history = PaiHook().list_run_metrics(again["RunId"], "tries")
    assert [(value.step, value.value) for value in history] == [(1, 1.0), (2, 2.0)]
    found = PaiHook().find_runs((dag.dag_id, ran.run_id))
    assert {run.run_id for run in found} == runs.keys()
    assert {run["ExperimentId"] for run in runs.values()} == {again["ExperimentId"]}
    assert "#/workspace/overview" in str(ran.button("flaky"))


@pytest.mark.parametrize(
    ("raised", "state"), [(RuntimeError("no"), "failed"), (KeyboardInterrupt(), "failed"), (None, "skipped")]
)
def test_how_it_ended_is_a_label(pai: Any, raised: Any, state: str) -> None:
    from airflow_provider_pai._compat import AirflowSkipException

    with (
        pytest.raises((RuntimeError, KeyboardInterrupt, AirflowSkipException)),
        PaiHook().track("e", key="k"),
    ):
        raise raised or AirflowSkipException("not today")
    assert states(pai) == [state]


def test_the_tasks_of_a_dag_run_may_share_one_run(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example/")  # 2 has one by default
    with new_dag() as dag:

        @task.pai_run(experiment="digits", scope="dag_run")
        def one(pai_run: Any = None) -> str:
            pai_run.log_metrics({"one": 1})
            return pai_run.run_id

        @task
        def two(before: str) -> str:
            with PaiHook().track("digits", scope="dag_run", params={"more": 2}) as run:
                run.log_metrics({"two": 2})
            return run.run_id

        two(one())
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    run = only(pai)
    assert run["RunId"] == ran.xcom("one") == ran.xcom("two") == ran.xcom("two", "pai_run_id")
    assert run["Metrics"] == {"one": 1.0, "two": 2.0}
    assert run["Params"].items() >= {"more": "2", "airflow_dag_run_id": ran.run_id}.items()
    url = run["Params"]["airflow_url"]
    assert quote(ran.run_id) in url
    assert "task" not in url


# --- one run, whatever happens


def test_outside_airflow_a_key_finds_the_run_again(pai: Any) -> None:
    for number in (1, 2):
        with PaiHook().track("e", key="fold 3, 学习率=0.1", labels={"n": str(number)}) as run:
            run.log_metrics({"loss": number}, step=number)
    assert only(pai)["Labels"]["n"] == "2"
    assert len(PaiHook().list_run_metrics(run.run_id, "loss")) == 2


@pytest.mark.parametrize("kind", ["reset_after", "truncate"])
def test_a_run_whose_creation_was_not_answered_is_found(pai: Any, kind: str) -> None:
    pai.inject(kind, action="CreateRun")
    with PaiHook().track("e", key="k") as run:
        pass
    assert only(pai)["RunId"] == run.run_id


def test_of_two_that_are_created_at_once_one_stays(pai: Any) -> None:
    experiment = PaiHook().get_or_create_experiment("e")
    label = {}

    def meanwhile(action: str, count: int) -> None:
        if action == "CreateRun" and not label:
            from airflow_provider_pai.tracking.identity import Identity

            label.update(Identity(parts=("k",)).labels())
            pai.add_run("other", experiment_id=experiment, labels=label, gmt_create_time=OLD)

    hook = PaiHook()
    pai.before_request(meanwhile)
    with hook.track("e", key="k") as run:
        run.log_metrics({"a": 1})
    assert only(pai)["Name"] == "other"
    assert only(pai)["Metrics"] == {"a": 1.0}


@pytest.mark.parametrize("late", [1, 3])
def test_a_label_that_shows_late_may_leave_two_runs_and_later_tries_write_to_the_older(
    pai: Any, late: int
) -> None:
    """Row `new_label` of docs/fidelity.md: a try looks once after it has created a run, and the next one
    looks once before. A label that shows only after both leaves a second run."""
    pai.quirks.unlisted_label = late
    written = []
    for number in range(4):
        with PaiHook().track("e", key="k") as run:
            run.log_metrics({"loss": number}, step=number)
        written.append(run.run_id)
    runs = [run["RunId"] for run in pai.runs()]
    first, second = runs[0], runs[-1]
    assert len(runs) == (1 if late == 1 else 2)
    assert written == [first, second, first, first]
    assert states(pai) == ["success"] * len(runs)
    label = {"airflow_task": pai.runs()[0]["Labels"]["airflow_task"]}
    assert [run["RunId"] for run in pai.runs(labels=label)] == runs


# --- values


def test_a_label_comes_after_what_was_logged_before_it(pai: Any) -> None:
    seen = []
    pai.before_request(lambda action, _: seen.append(action))
    pai.inject("server_error", action="LogRunMetrics", times=1)
    with PaiHook().track("digits", key="k") as run:
        run.log_metrics({"accuracy": 0.9})
        run.set_labels({"is_evaluation": "true"})
        assert only(pai)["Metrics"] == {"accuracy": 0.9}
    assert seen.index("LogRunMetrics") < seen.index("UpdateRun")


def test_a_label_does_not_come_where_what_was_logged_before_it_cannot(
    pai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_pai.tracking.tracked_run.DELIVERY_SECONDS", 0.5)
    pai.inject("server_error", action="LogRunMetrics", times=None)
    with PaiHook().track("digits", key="k") as run:
        run.log_metrics({"accuracy": 0.9})
        with pytest.raises(PaiTransportError, match="the labels are not set"):
            run.set_labels({"is_evaluation": "true"})
    assert "is_evaluation" not in only(pai)["Labels"]


@pytest.mark.any_airflow
def test_logging_is_cheap(pai: Any) -> None:
    with PaiHook().track("e", key="k") as run:
        for step in range(10_000):
            run.log_metrics({"a": step, "b": -step, "c": 0.5}, step=step)
    assert pai.request_counts["LogRunMetrics"] <= 120
    assert len(PaiHook().list_run_metrics(run.run_id, "b", page_size=1000)) == 10_000


@pytest.mark.any_airflow
@pytest.mark.parametrize("kind", ["throttle", "server_error", "html", "reset", "reset_after", "truncate"])
def test_a_passing_fault_loses_no_value(pai: Any, kind: str) -> None:
    pai.inject(kind, action="LogRunMetrics", times=7, **({"retry_after_ms": 1} if kind == "throttle" else {}))
    with PaiHook().track("e", key="k") as run:
        for step in range(2400):
            run.log_metrics({"a": step}, step=step)
    logged = PaiHook().list_run_metrics(run.run_id, "a", page_size=1000)
    assert {value.step for value in logged} == set(range(2400))
    assert states(pai) == ["success"]


def test_what_a_pai_that_does_not_answer_leaves_no_room_for_counts_as_not_delivered(
    pai: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("airflow_provider_pai.tracking.tracked_run.MOST_WAITING", 2500)
    answering = threading.Event()
    pai.before_request(lambda action, _: action == "LogRunMetrics" and answering.wait(60))
    with PaiHook().track("e", key="k") as run:
        for step in range(4000):
            run.log_metrics({"a": step}, step=step)
        answering.set()
    logged = PaiHook().list_run_metrics(run.run_id, "a", page_size=1000)
    assert sorted(value.step for value in logged) == list(range(2500))
    assert "1500 values of the run" in caplog.text


@pytest.mark.parametrize("most", [100, 1])
def test_a_pai_that_takes_fewer_values_at_once_gets_all_of_them(pai: Any, most: int) -> None:
    pai.quirks.logged_values = most
    with PaiHook().track("e", key="k", strict=True) as run:
        for step in range(150):
            run.log_metrics({"a": step, "b": -step}, step=step)
    for metric in ("a", "b"):
        logged = PaiHook().list_run_metrics(run.run_id, metric, page_size=1000)
        assert sorted(value.step for value in logged) == list(range(150))


def test_a_metric_that_pai_refuses_is_not_sent_again_and_costs_no_other(
    pai: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The emulator takes any key; this PAI refuses what a real one may."""
    taken = pai.log_metrics

    def refuse(run_id: str, metrics: list[Any]) -> None:
        if any("/" in each.key for each in metrics):
            raise RefusedError(400, "InvalidParameter", "Metrics")
        taken(run_id, metrics)

    monkeypatch.setattr(pai, "log_metrics", refuse)
    with PaiHook().track("e", key="k") as run:
        for step in range(500):
            run.log_metrics({"good": step, "loss/x": step}, step=step)
        run.set_labels({"all": "delivered"})
        with pytest.raises(PaiUsageError, match="loss/x"):
            run.log_metrics({"loss/x": float("nan")})
    logged = PaiHook().list_run_metrics(run.run_id, "good", page_size=1000)
    assert sorted(value.step for value in logged) == list(range(500))
    assert pai.request_counts["LogRunMetrics"] < 40
    assert "500 values of the run" in caplog.text


def test_a_pai_that_refuses_everything_is_not_asked_without_a_bound(
    pai: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pai.inject("error", action="LogRunMetrics", times=None, status=400, code="RunHasEnded")
    with PaiHook().track("e", key="k") as run:
        for step in range(3000):
            run.log_metrics({f"m{step % 100}": step}, step=step)
    assert pai.request_counts["LogRunMetrics"] < 60
    assert "3000 values of the run" in caplog.text


def test_a_batch_that_is_refused_once_lets_later_ones_grow_again(pai: Any) -> None:
    pai.inject("error", action="LogRunMetrics", times=6, status=400, code="InvalidParameter")
    run = PaiHook().track("e", key="k", strict=True)
    with run:
        run.log_metrics({f"m{number}": number for number in range(100)})
        for step in range(20):
            run.log_metrics({f"m{number}": number for number in range(50)}, step=step)
    assert run._most > 1
    assert len(PaiHook().get_run(run.run_id).metrics) == 100


def test_a_value_that_pai_refuses_costs_no_other(pai: Any, caplog: pytest.LogCaptureFixture) -> None:
    pai.inject("error", action="LogRunMetrics", times=8, status=400, code="InvalidParameter")
    with PaiHook().track("e", key="k") as run:
        run.log_metrics({f"m{number}": number for number in range(150)})
    assert len(PaiHook().get_run(run.run_id).metrics) == 149
    assert "1 value of the run" in caplog.text


@pytest.mark.parametrize("strict", [True, False])
def test_what_could_not_be_delivered_is_told_and_fails_only_where_asked(
    pai: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    monkeypatch.setattr(tracked_run, "DELIVERY_SECONDS", 0.2)
    run = PaiHook().track("e", key="k", strict=strict)
    pai.inject("server_error", action="LogRunMetrics", times=None)
    run.log_metrics({"a": 1, "b": 2})
    if strict:
        with pytest.raises(PaiTransportError, match=r"2 values of the run run-\w+ could not be delivered"):
            run.__exit__(None, None, None)
    else:
        run.__exit__(None, None, None)
        assert "2 values of the run" in caplog.text
    assert states(pai) == ["success"]


def test_an_error_of_the_task_is_not_hidden_by_what_was_not_delivered(
    pai: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_run, "DELIVERY_SECONDS", 0.2)
    pai.inject("server_error", action="LogRunMetrics", times=None)
    with pytest.raises(ZeroDivisionError), PaiHook().track("e", key="k", strict=True) as run:
        run.log_metrics({"a": 1})
        1 / 0  # noqa: B018


def test_no_thread_is_left(pai: Any) -> None:
    with PaiHook().track("e", key="k") as run:
        run.log_metrics({"a": 1})
    assert not [thread for thread in threading.enumerate() if thread.name == "pai-run"]
    with pytest.raises(PaiUsageError, match="has ended"):
        run.log_metrics({"a": 2})


# --- SIGTERM, and forks


@pytest.mark.parametrize("survives", [True, False])
def test_a_task_that_is_told_to_end_says_so_at_once_although_pai_is_slow(pai: Any, survives: bool) -> None:
    """Airflow 2 raises an exception in the task. Airflow 3 lets it go on, and kills it after 5 seconds."""
    seen = []
    with new_dag() as dag:

        @task.pai_run(experiment="digits")
        def train(pai_run: Any = None) -> str:
            pai_run.log_metrics({"a": 1})
            pai.inject("slow", delay=1.0, times=3)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                seen.extend(states(pai))
            if not survives:
                raise RuntimeError("ended")
            pai_run.log_metrics({"a": 2}, step=1)
            return "survived"

        train()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ran = run_dag(dag)
    except BaseException as error:  # how Airflow 2 ends the task, and dag.test() with it
        assert type(error).__name__ == "AirflowTaskTerminated"
        survives = False
    else:
        survives = survives and ran.state == "success"
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert seen == ["failed"]
    assert states(pai) == ["success" if survives else "failed"]
    assert only(pai)["Metrics"] == {"a": 2.0 if survives else 1.0}


SCRIPT = """
import os, signal, sys, time
from airflow_provider_pai.api import Credential, PaiClient, StaticCredential
from airflow_provider_pai.tracking import tracked_run

key = StaticCredential(Credential(access_key_id="emulator", access_key_secret="emulator-secret"))
run = tracked_run.TrackedRun(PaiClient(sys.argv[1], key), sys.argv[2], "exp-1")
"""


def run_script(pai: Any, script: str) -> tuple[int, str]:
    """Run a script in a process of its own that has a run: what it ends with, and what it prints."""
    arguments = [pai.url, pai.add_run("script")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(script), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
        # From Python 3.12 on os.fork() warns where threads run, as they do here.
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_without_airflow_sigterm_ends_the_process_as_before_once_its_values_are_sent(pai: Any) -> None:
    pai.inject("slow", delay=1.0, times=2)
    status, said = run_script(
        pai,
        """
        with run:
            for step in range(600):
                run.log_metrics({"a": step}, step=step)
            os.kill(os.getpid(), signal.SIGTERM)
            print("went on")
        """,
    )
    assert (status, said) == (-signal.SIGTERM, "")
    assert states(pai) == ["failed"]
    assert only(pai)["Metrics"] == {"a": 599.0}


@pytest.mark.any_airflow
def test_the_end_waits_for_less_after_sigterm(pai: Any) -> None:
    """PAI accepts no values. A test of its own time-out: the end would else wait for two minutes."""
    pai.inject("server_error", action="LogRunMetrics", times=None)
    status, said = run_script(
        pai,
        """
        tracked_run.TERMINATED_SECONDS, tracked_run.RETRY_SECONDS = 1.0, 0.1
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))  # as Airflow 2 raises an exception
        run._termination.release()
        run = tracked_run.TrackedRun(run._client, run.run_id, "exp-1")
        with run:
            run.log_metrics({"a": 1})
            os.kill(os.getpid(), signal.SIGTERM)
        """,
    )
    assert status == 7
    assert "1 value of the run" in said
    assert states(pai) == ["failed"]


def test_a_process_that_was_forked_is_told_where_to_log_and_leaves_the_run_open(pai: Any) -> None:
    status, said = run_script(
        pai,
        """
        with run:
            run.log_metrics({"a": 1})
            if os.fork() == 0:
                try:
                    run.log_metrics({"a": 2})
                except Exception as error:
                    print(type(error).__name__, error, flush=True)
                run.set_labels({"child": "yes"})
                sys.exit()
            assert os.wait()[1] == 0
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(told, b".")  # a signal that comes while a process is forked may be lost
                time.sleep(50)
                os._exit(1)
            os.read(ready, 1)
            os.kill(child, signal.SIGTERM)
            assert os.wait()[1] == signal.SIGTERM
            print("open", flush=True)
            run.log_metrics({"a": 3}, step=1)
        """,
    )
    assert status == 0, said
    first, last = said.splitlines()
    assert re.fullmatch(r"PaiUsageError the run run-\w+ was opened by the process \d+, .*Queue.*", first)
    assert last == "open"
    run = only(pai)
    assert (run["Metrics"], run["Labels"]) == ({"a": 3.0}, {"child": "yes", "airflow_state": "success"})


def test_runs_that_end_in_any_order_leave_sigterm_as_it_was(pai: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    told: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("mine"))  # as Airflow 3 calls on_kill
    mine = signal.getsignal(signal.SIGTERM)
    try:
        first, second = (PaiHook().track("e", key=key) for key in ("first", "second"))
        first.end("success")
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == ["mine"]
        assert states(pai) == ["success", "failed"]
        second.end("skipped")
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == ["mine"] * 2
        assert states(pai) == ["success", "skipped"]
        with PaiHook().track("e", key="third"):
            pass
        thread = threading.Thread(target=lambda: PaiHook().track("e", key="fourth").end("success"))
        thread.start()
        thread.join(30)
        assert states(pai)[2:] == ["success", "success"]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with PaiHook().track("e", key="fifth"):
            os.kill(os.getpid(), signal.SIGTERM)
            assert states(pai)[-1] == "running"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert mine is not before


# --- bad input, before anything is written


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"experiment": "", "key": "k"}, "name"),
        ({"experiment": "e", "key": "k", "name": "no name"}, "is not a name for a run"),
        ({"experiment": "e", "key": "k", "labels": "no label"}, "has no ':'"),
        ({"experiment": "e", "key": "k", "labels": {"airflow_state": "good"}}, "is set by the provider"),
        ({"experiment": "e", "key": "k", "params": {"a": [1]}}, "a"),
        ({"experiment": "e"}, "give a key"),
    ],
)
def test_what_pai_would_refuse_is_refused_before_anything_is_written(
    pai: Any, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(PaiUsageError, match=says):
        PaiHook().track(**arguments)
    assert not pai.runs()
    assert "CreateExperiment" not in pai.request_counts


def test_a_value_that_is_no_number_and_a_second_run_of_the_same_are_refused(pai: Any) -> None:
    with PaiHook().track("e", key="k") as run:
        for value in (float("nan"), "0.5", None, True):
            with pytest.raises(PaiUsageError, match="finite numbers"):
                run.log_metrics({"a": value})
        with pytest.raises(PaiUsageError, match="whole number"):
            run.log_metrics({"a": 1}, step=1.5)
        with pytest.raises(PaiUsageError, match="open already in this process"):
            PaiHook().track("e", key="k")
    with PaiHook().track("e", key="k"):
        pass


def test_a_function_without_the_argument_is_refused_when_the_dag_is_parsed() -> None:
    with new_dag(), pytest.raises(PaiUsageError, match="train has no argument pai_run"):

        @task.pai_run(experiment="digits")
        def train(samples: int) -> None: ...

        train(1)
