# ruff: noqa: F401, F811 - fixtures come by import
"""One table: every argument of every task, in every way that it can come, and what the task makes of it.

The arguments are each class's ``template_fields``, so a new one is in the table at once, and wants a value in
:func:`good`. Few DAG runs bring all cells; each cell is one test that reads what its task left.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_db import VERSION, Ran, airflow_db, first, new_dag, pai, run_dag, task

from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.api import PaiUsageError
from airflow_provider_pai.emulator import PaiEmulator
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import (
    PaiCreateExperimentOperator,
    PaiCreateRunOperator,
    PaiListRunsOperator,
    PaiLogRunMetricsOperator,
    PaiPromoteRunOperator,
    PaiRegisterModelVersionOperator,
    PaiRunGateOperator,
    PaiSetModelVersionApprovalOperator,
    PaiUpdateRunOperator,
)
from airflow_provider_pai.sensors import PaiModelVersionSensor, PaiRunSensor
from airflow_provider_pai.triggers import PaiRunTrigger

TaskGroup = first("TaskGroup", "airflow.sdk", "airflow.utils.task_group")
pytestmark = pytest.mark.timeout(400)

TASKS: dict[str, Any] = {
    "list": PaiListRunsOperator,
    "wait": PaiRunSensor,
    "gate": PaiRunGateOperator,
    "gate_of_runs": PaiRunGateOperator,
    "experiment": PaiCreateExperimentOperator,
    "create": PaiCreateRunOperator,
    "change": PaiUpdateRunOperator,
    "log": PaiLogRunMetricsOperator,
    "promote": PaiPromoteRunOperator,
    "register": PaiRegisterModelVersionOperator,
    "register_of_verdict": PaiRegisterModelVersionOperator,
    "approve": PaiSetModelVersionApprovalOperator,
    "await": PaiModelVersionSensor,
    "await_newer": PaiModelVersionSensor,
}
ANSWERED = tuple(TASKS)
"""The tasks that need no person to end. What the others ask however it comes: tests/e2e/test_approval.py."""
if VERSION >= (3, 1):
    from airflow_provider_pai.operators import PaiApprovalOperator

    TASKS["ask"] = PaiApprovalOperator
ONLY = {
    "gate_of_runs": ("pai_conn_id", "runs", "metrics", "baseline_labels"),
    "register_of_verdict": ("pai_conn_id", "model_name", "uri", "verdict"),
    "await_newer": ("pai_conn_id", "model_name", "newer_than", "workspace_id"),
}
"""The arguments of a task that stands in the table a second time, for what does not go with the others."""
WITHOUT = {"gate": ("runs",), "register": ("verdict",), "await": ("model_name", "newer_than")}
ARGUMENTS = {
    name: [
        argument
        for argument in kind.template_fields
        if argument in ONLY.get(name, kind.template_fields) and argument not in WITHOUT.get(name, ())
    ]
    for name, kind in TASKS.items()
}
CELLS = [(name, argument) for name in TASKS for argument in ARGUMENTS[name]]
DICTS = ("labels", "metrics", "run_params", "among", "baseline_labels", "verdict")
DICT_CELLS = [(name, argument) for name, argument in CELLS if argument in DICTS]
REQUIRED = {
    "list": (),
    "wait": ("labels",),
    "gate": ("name", "metrics", "baseline_labels"),
    "gate_of_runs": ("runs", "metrics", "baseline_labels"),
    "experiment": ("name",),
    "create": ("experiment_id",),
    "change": ("run_id", "name"),
    "log": ("run_id", "metrics"),
    "promote": ("run_id", "labels"),
    "register": ("model_name", "uri"),
    "register_of_verdict": ("model_name", "uri", "verdict"),
    "approve": ("model_id", "version_name", "approval"),
    "await": ("model_id",),
    "await_newer": ("model_name",),
    "ask": ("verdict",),
}
"""What cannot be left out, or in the gates and the update not all at once."""
MAPPED = {"list": "labels", "wait": "labels", "gate": "name", "promote": "among"}
SOON = {"poke_interval": 0.1, "timeout": 20}
BESIDE: dict[str, Any] = {
    **dict.fromkeys(("wait", "await", "await_newer"), SOON),
    "gate_of_runs": {"on_fail": "fail"},
}
"""What a task is given beside the arguments of the table."""
EXPERIMENT = "digits_1"
MODEL = "20251020"
OF_THIS_TASK = re.compile(r"\bmodel-[0-9a-f]+|\b[0-9a-f]{32}\b")
"""What is another one in each task: the id of a model that it makes, and the label of its identity."""
WRITES = ("experiment", "create", "change", "log", "register", "register_of_verdict", "approve")
"""The tasks that are told apart by what they leave in PAI."""
FOLLOWS = {"on_fail": "skip", "follow_if_passed": "a", "follow_if_failed": "b"}
"""What goes with ``follow_if_failed``, which only a gate takes that others follow."""


def in_turns(cells: Iterable[Any]) -> list[Any]:
    """Mark cells whose task runs in a DAG: on an Airflow between the ends each second kind of task does.

    On the next one it is the others' turn.
    """
    marked = []
    for cell in cells:
        name, *more = (cell,) if isinstance(cell, str) else cell
        here = (list(TASKS).index(name) + VERSION[1]) % 2 == 0
        marked.append(pytest.param(name, *more, marks=() if here else pytest.mark.whole_table))
    return marked


def good(pai: PaiEmulator, folder: Path) -> dict[str, dict[str, Any]]:
    """Arguments that each task understands, and the runs that they ask for, beside runs that they do not.

    Each text looks like a number, which native rendering would make of it.
    """
    mine = pai.add_experiment("mine")
    labels, params = {"epoch": "10"}, {"lr": "1e-3", "depth": "3"}
    wanted: dict[str, Any] = {
        "name": "20251020",
        "experiment_id": mine,
        "workspace_id": pai.workspace_id,
        "source_type": "DLC",
        "source_id": "1234",
        "labels": labels,
        "metrics": {"accuracy": 0.95, "loss": 0.1},
        "gmt_create_time": "2025-10-20T09:00:00Z",
    }
    run_id = pai.add_run(**wanted)
    for other in ("2025-10-20T07:00:00Z", "2025-10-20T11:00:00Z"):
        pai.add_run(**{**wanted, "gmt_create_time": other})
    pai.add_run(labels={"baseline": "1"}, metrics={"loss": 0.2})
    changed = pai.add_run("changed", labels=labels, params=params)
    champion = pai.add_run(labels={"champion": "1", "model": "7"}, experiment_id=mine)
    waiting = pai.add_model("waiting")
    pai.add_model_version(waiting, "1.0.0", approval_status="Pending")
    decided = pai.add_model("20251021")
    pai.add_model_version(decided, "1.0.0", approval_status="Approved", labels=labels)
    pai.add_model_version(decided, "2.0.0", approval_status="Rejected", labels=labels)
    pai.add_model_version(decided, "3.0.0", approval_status="Approved")
    conn = {"pai_conn_id": "pai_table"}
    filters = {name: wanted[name] for name in ("workspace_id", "experiment_id", "name", "source_type")}
    filters |= {"source_id": "1234", "labels": labels, "run_id": run_id}
    filters |= {"created_after": "2025-10-20T08:00:00Z", "created_before": "2025-10-20T10:00:00Z"}
    rules = {"metrics": {"accuracy": ">= 0.9", "loss": "< baseline"}, "baseline_labels": {"baseline": "1"}}
    listing = {"order_by": "Name DESC", "page_size": "50", "max_runs": "7"}
    settings = {"select": "newest", "on_fail": "fail", "missing_baseline": "fail", "max_runs": "7"}
    verdict = {
        "passed": True,
        "reason": "10",
        "select": "newest",
        "run": {"run_id": run_id, "metrics": {"accuracy": 0.95}},
        "baseline_run_ids": [],
        "checks": [],
    }
    return {
        "list": {**conn, **filters, **listing, "output_path": str(folder / "runs")},
        "wait": {
            **conn,
            **filters,
            "order_by": "Name DESC",
            "min_runs": "1",
            "max_runs": "5",
            "metrics": {"accuracy": ">= 0.9"},
        },
        "gate": {**conn, **filters, **rules, **settings},
        "gate_of_runs": {**conn, **rules, "runs": [run_id]},
        "create": {
            **conn,
            "experiment_id": pai.add_experiment("new"),
            "name": "created",
            "labels": labels,
            "run_params": params,
            "source_type": "DLC",
            "source_id": "1234",
        },
        "experiment": {
            **conn,
            "name": EXPERIMENT,
            "workspace_id": pai.workspace_id,
            "artifact_uri": "oss://bucket/path",
            "accessibility": "PUBLIC",
            "labels": labels,
        },
        "change": {**conn, "run_id": changed, "name": "changed", "labels": labels, "run_params": params},
        "log": {**conn, "run_id": changed, "metrics": {"accuracy": "0.93"}, "step": "3"},
        "promote": {
            **conn,
            "run_id": champion,
            "labels": {"champion": "1"},
            "among": {"model": "7"},
            "experiment_id": mine,
        },
        "register": {
            **conn,
            "model_name": MODEL,
            "uri": "https://host/1",
            "runs": [run_id],
            "approval": "Rejected",
            "version_name": "1.0.0",
            "version_description": "1e-3",
            "format_type": "ONNX",
            "framework_type": "Pytorch",
            "labels": labels,
            "workspace_id": pai.workspace_id,
        },
        "register_of_verdict": {
            **conn,
            "model_name": MODEL,
            "uri": "https://host/1",
            "verdict": verdict,
        },
        "approve": {
            **conn,
            "model_id": waiting,
            "version_name": "1.0.0",
            "approval": "Approved",
            "reason": "20251020",
            "expected": "Pending",
        },
        "await": {
            **conn,
            "model_id": decided,
            "version_name": "2.0.0",
            "labels": labels,
            "approval": "Rejected",
            "on_rejected": "skip",
            "workspace_id": pai.workspace_id,
        },
        "await_newer": {
            **conn,
            "model_name": "20251021",
            "newer_than": "1.0.0",
            "workspace_id": pai.workspace_id,
        },
        "ask": {**conn, "subject": "20251020", "body": "1e-3", "verdict": verdict},
    }


def arguments(values: dict[str, dict[str, Any]], name: str, argument: str) -> dict[str, Any]:
    """What a task is given whose argument is to be replaced."""
    follows = FOLLOWS if argument == "follow_if_failed" else {}
    return {**values[name], **BESIDE.get(name, {}), **follows}


def templates(value: Any, param: str) -> Any:
    """The value with a template in place of each text."""
    if isinstance(value, dict):
        return {key: templates(text, f"{param}['{key}']") for key, text in value.items()}
    if isinstance(value, list):
        return [templates(text, f"{param}[{index}]") for index, text in enumerate(value)]
    return f"{{{{ {param} }}}}"


def template(param: str) -> str:
    return f"{{{{ {param} }}}}"


class Recorder:
    """Runs before each task: notes what the task before it asked and left, and undoes what that changed."""

    def __init__(self, pai: PaiEmulator, changed: str) -> None:
        self.pai = pai
        self.changed = changed
        self.asked: dict[str, list[Any]] = {}
        self.left: dict[str, Any] = {}
        self.task_id = ""

    def __call__(self, context: Any) -> None:
        self.note()
        self.task_id = context["ti"].task_id

    def note(self) -> None:
        """Note what the task did that was begun last."""
        requests = [
            (each.action, OF_THIS_TASK.sub("…", f"{each.path} {sorted(each.query.items())}"), each.status)
            for each in self.pai.requests
        ]
        self.asked[self.task_id] = requests
        runs = {run["RunId"]: run for run in self.pai.runs()}
        newest = self.changed if "create" not in self.task_id else list(runs)[-1]
        self.left[self.task_id] = {
            name: runs[newest][name]
            for name in ("ExperimentId", "Labels", "Params", "Metrics", "SourceType", "SourceId")
        }
        for made in self.pai.state.experiments(self.pai.workspace_id):
            if made["Name"] == EXPERIMENT:
                labels = {label["Key"]: label["Value"] for label in made["Labels"]}
                kept = ("WorkspaceId", "ArtifactUri", "Accessibility")
                self.left[self.task_id] = {**{name: made[name] for name in kept}, "Labels": labels}
                self.pai.delete_experiment(made["ExperimentId"])
        for model in self.pai.models():
            for version in self.pai.model_versions(model["ModelId"]):
                self._note_version(model, version)
            if model["ModelName"] == MODEL:
                self.pai.delete_model(model["ModelId"])
        hook = PaiHook("pai_table")
        hook.update_run(self.changed, name="before", labels={"epoch": "0"}, params={"lr": "0", "depth": "0"})
        hook.log_run_metrics(self.changed, {"accuracy": 0.0}, step=3)
        self.pai.clear_requests()

    def _note_version(self, model: dict[str, Any], version: dict[str, Any]) -> None:
        kept = ("Uri", "ApprovalStatus", "VersionDescription", "FormatType", "FrameworkType", "Metrics")
        found = {name: version.get(name) for name in (*kept, "SourceId")}
        labels = version["Labels"].items()  # those of a version without a run name the task
        found["Labels"] = {key: value for key, value in labels if not key.startswith("airflow_")}
        if model["ModelName"] == MODEL:
            self.left[self.task_id] = found
        elif model["ModelName"] == "waiting" and version["ApprovalStatus"] != "Pending":
            self.left[self.task_id] = found
            self.pai.edit_model_version(
                model["ModelId"],
                version["VersionName"],
                lambda body: body.update(ApprovalStatus="Pending", VersionDescription=""),
            )


@pytest.fixture(scope="module")
def emulator(airflow_db: None) -> Iterator[PaiEmulator]:
    with PaiEmulator() as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_PAI_TABLE", started.connection_uri)
        yield started


@pytest.fixture(scope="module")
def values(emulator: PaiEmulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return good(emulator, tmp_path_factory.mktemp("runs"))


# --- what is right means the same in every way


class Right:
    """What the tasks asked and left, by their ids. A kind of task runs when it is first asked for."""

    def __init__(self, pai: PaiEmulator, values: dict[str, dict[str, Any]]) -> None:
        self.recorder = Recorder(pai, values["change"]["run_id"])
        self.values = values

    @functools.cache  # noqa: B019 - lives as long as the module's tests
    def ran(self, name: str, native: bool) -> Ran:
        """Run a DAG for one kind of task, since Airflow 3.0 takes long over many tasks in one."""
        kind, given = TASKS[name], self.values[name]
        with new_dag(params={name: given}, render_template_as_native_obj=native) as dag:
            common = {"pre_execute": lambda context: self.recorder(context), **BESIDE.get(name, {})}
            param = f"params.{name}"
            if native:
                whole = {each: template(f"{param}.{each}") for each in given}
                kind(task_id=f"{name}_native_constant", **common, **given)
                kind(task_id=f"{name}_native_template", **common, **whole)
                kind(task_id=f"{name}_native_templates", **common, **templates(given, param))
            else:
                _in_plain_ways(name, kind, common, given)
        ran = run_dag(dag)
        self.recorder.note()
        return ran

    def check(self, name: str, way: str, as_way: str = "constant") -> None:
        """Check that a task did in one way what it does in another."""
        task_id, as_id = f"{name}_{way}", f"{name}_{as_way}"
        ran, as_ran = self.ran(name, way.startswith("native")), self.ran(name, False)
        map_index = 0 if way == "mapped" else -1
        state = ran.states[(task_id, 0) if way == "mapped" else task_id]
        assert state == as_ran.states[as_id] == "success", ran.errors
        assert self.recorder.asked[task_id] == self.recorder.asked[as_id] != []
        if name in WRITES:
            assert self.recorder.left[task_id] == self.recorder.left[as_id]
        elif not way.startswith("some"):  # that asks for runs which other tasks change
            assert ran.xcom(task_id, map_index=map_index) == as_ran.xcom(as_id)


@pytest.fixture(scope="module")
def right(emulator: PaiEmulator, values: dict[str, dict[str, Any]]) -> Right:
    return Right(emulator, values)


def _in_plain_ways(name: str, kind: Any, common: dict[str, Any], given: dict[str, Any]) -> None:
    @task(task_id=f"{name}_values", multiple_outputs=True)
    def bring() -> dict[str, Any]:
        return given

    brought = bring()
    needed = {each: value for each, value in given.items() if each in ("pai_conn_id", *REQUIRED[name])}
    kind(task_id=f"{name}_constant", **common, **given)
    kind(task_id=f"{name}_template", **common, **templates(given, f"params.{name}"))
    kind(task_id=f"{name}_XComArg", **common, **{each: brought[each] for each in given})
    kind.partial(task_id=f"{name}_mapped", **common).expand_kwargs([given])
    with TaskGroup(f"{name}_group", prefix_group_id=False, default_args=given):
        kind(task_id=f"{name}_default_args", **common)
    kind(task_id=f"{name}_some_left_out", **common, **needed)
    optional = {
        each
        for base in kind.__mro__
        for each, argument in inspect.signature(base.__init__).parameters.items()
        if argument.default is None
    }
    left_out = dict.fromkeys(optional & given.keys() - needed.keys())
    kind(task_id=f"{name}_some_None", **common, **needed, **left_out)


@pytest.mark.parametrize("way", ["template", "XComArg", "mapped", "default_args"])
@pytest.mark.parametrize("name", in_turns(ANSWERED))
def test_what_is_given_means_the_same_however_it_comes(right: Right, name: str, way: str) -> None:
    right.check(name, way)


@pytest.mark.parametrize("way", ["native_constant", "native_template", "native_templates"])
@pytest.mark.parametrize("name", in_turns(ANSWERED))
def test_native_rendering_keeps_texts(right: Right, name: str, way: str) -> None:
    right.check(name, way)


@pytest.mark.parametrize("name", in_turns(ANSWERED))
def test_none_in_the_dag_file_means_left_out(right: Right, name: str) -> None:
    right.check(name, "some_None", "some_left_out")


# --- what is nothing, or no longer what it was, is refused by its name


class Wrong:
    """A DAG run for each kind of task: its arguments come as None from another task, and dicts as text."""

    def __init__(self, pai: PaiEmulator, values: dict[str, dict[str, Any]]) -> None:
        self.pai = pai
        self.values = values

    @functools.cache  # noqa: B019 - lives as long as the module's tests
    def ran(self, name: str) -> Ran:
        """Run it, when it is first asked for, and look at what was asked."""
        self.pai.clear_requests()
        ran = run_dag(_with_nothing(name, self.values))
        # Only what was not refused asked. The last is what a gate that could judge keeps for its page.
        assert self.pai.request_counts.keys() <= {"ListRuns", "GetRun", "ListRunMetrics"}
        return ran


@pytest.fixture(scope="module")
def wrong(emulator: PaiEmulator, values: dict[str, dict[str, Any]]) -> Wrong:
    return Wrong(emulator, values)


def _with_nothing(name: str, values: dict[str, dict[str, Any]]) -> Any:
    with new_dag(params={name: values[name]}, default_args={"retries": 1}) as dag:

        @task
        def nothing() -> None:
            return None

        brought = nothing()
        for argument in [argument for kind, argument in CELLS if kind == name]:
            given = arguments(values, name, argument)
            TASKS[name](task_id=f"{name}_{argument}_none", **{**given, argument: brought})
            if argument in DICTS:
                text = template(f"params.{name}.{argument}")
                TASKS[name](task_id=f"{name}_{argument}_as_text", **{**given, argument: text})
        if name in MAPPED:
            argument = MAPPED[name]
            fixed = arguments(values, name, argument)
            good = fixed.pop(argument)
            mapped = TASKS[name].partial(task_id=f"{name}_mapped", **fixed)
            mapped.expand(**{argument: [good, None, {} if argument in DICTS else ""]})
    return dag


def refused(ran: Ran, task_id: str, *says: str) -> None:
    assert (ran.states[task_id], ran.tries[task_id]) == ("failed", 1)
    assert "AirflowFailException: PaiUsageError" in ran.error(task_id)
    assert [text for text in says if text not in ran.error(task_id)] == []


@pytest.mark.parametrize(("name", "argument"), in_turns(CELLS))
def test_none_from_another_task_is_refused(wrong: Wrong, name: str, argument: str) -> None:
    refused(wrong.ran(name), f"{name}_{argument}_none", f"{argument} is None. Leave it out")


@pytest.mark.parametrize(("name", "argument"), in_turns(DICT_CELLS))
def test_a_dict_that_became_text_is_refused(wrong: Wrong, name: str, argument: str) -> None:
    says = f"{argument} came as the text", f"{argument}=task.output"
    refused(wrong.ran(name), f"{name}_{argument}_as_text", *says)


@pytest.mark.parametrize("name", in_turns(MAPPED))
def test_a_mapped_task_that_gets_nothing_fails_without_a_retry(wrong: Wrong, name: str) -> None:
    ran, task_id = wrong.ran(name), f"{name}_mapped"
    assert [ran.states[task_id, index] for index in range(3)] == ["success", "failed", "failed"]
    assert [ran.tries[task_id, index] for index in range(3)] == [1, 1, 1]
    assert all("PaiUsageError" in str(error) for error in ran.errors[task_id])


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("name", "argument"), CELLS)
def test_none_from_a_template_is_refused(
    values: dict[str, dict[str, Any]], name: str, argument: str, native: bool
) -> None:
    given = {**arguments(values, name, argument), argument: "{{ nothing }}"}
    with new_dag(render_template_as_native_obj=native):
        made = TASKS[name](task_id="t", **given)
    made.render_template_fields({"nothing": None})
    with pytest.raises(AirflowFailException, match=f"PaiUsageError: {argument} is None. Leave it out"):
        made.pre_execute({})


@pytest.mark.parametrize(("name", "argument"), CELLS)
def test_what_is_mapped_to_none_is_refused(
    values: dict[str, dict[str, Any]], name: str, argument: str
) -> None:
    given = arguments(values, name, argument)
    good = given.pop(argument, "a")
    with new_dag():
        mapped = TASKS[name].partial(task_id="t", **given).expand(**{argument: [good, None]})
    mapped.unmap({argument: good}).pre_execute({})
    with pytest.raises(AirflowFailException, match="PaiUsageError"):
        mapped.unmap({argument: None}).pre_execute({})


@pytest.mark.parametrize("nothing", ["", {}], ids=repr)
@pytest.mark.parametrize(("name", "argument"), CELLS)
def test_an_empty_constant_is_refused_when_the_dag_is_parsed(
    values: dict[str, dict[str, Any]], name: str, argument: str, nothing: Any
) -> None:
    with pytest.raises(PaiUsageError):
        TASKS[name](task_id="t", **{**values[name], argument: nothing})


@pytest.mark.parametrize(("name", "argument"), DICT_CELLS)
def test_a_template_in_a_key_is_refused_when_the_dag_is_parsed(
    values: dict[str, dict[str, Any]], name: str, argument: str
) -> None:
    given = {**values[name], argument: {"{{ params.key }}": "{{ params.value }}"}}
    with pytest.raises(PaiUsageError, match=f"{argument} has a template in a key"):
        TASKS[name](task_id="t", **given)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("team:{{ nothing }},a:b", "labels came as 'team:None,a:b'"),
        ({"team": "{{ nothing }}"}, "value of label 'team' is None"),
        ("{{ number }}", "labels"),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_none_within_labels_is_refused(pai: Any, labels: Any, says: str, native: bool) -> None:
    with new_dag(render_template_as_native_obj=native):
        made = PaiListRunsOperator(task_id="t", labels=labels)
    made.render_template_fields({"nothing": None, "number": 10})
    with pytest.raises(AirflowFailException, match=says):
        made.execute({})


def test_where_the_text_is_lost_the_error_names_native_rendering(pai: Any) -> None:
    with new_dag(render_template_as_native_obj=True):
        made = PaiListRunsOperator(task_id="t", labels="{{ labels }}")
    made.render_template_fields({"labels": {"epoch": 10}})
    with pytest.raises(AirflowFailException, match=r"write '10'.*render_template_as_native_obj"):
        made.execute({})


def test_a_filter_that_renders_to_none_in_the_triggerer_ends_the_wait_for_good(pai: Any) -> None:
    trigger: Any = PaiRunTrigger(labels="a:b", experiment_id="{{ nothing }}", metrics="{{ metrics }}")
    if not hasattr(trigger, "render_template_fields"):
        pytest.skip("triggers have templates since Airflow 3.3")
    context = {"nothing": None, "metrics": {"f1": "> 1"}}
    for field, says in (("experiment_id", "experiment_id is None"), ("metrics", "metrics came as the text")):
        trigger.template_fields = [field]
        trigger.render_template_fields(context)
        event = asyncio.run(anext(trigger.run()))
        assert event.payload["permanent"]
        assert says in event.payload["error"]
    assert pai.requests == []
