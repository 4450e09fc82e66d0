"""A real Airflow for the tests: a temporary AIRFLOW_HOME with a database, and DAGs that run in it.

Import this before anything of Airflow, which reads its environment when it is first imported. Test modules
also ``from airflow_db import airflow_db, pai`` for the fixtures. What differs between the supported Airflow
versions is found here, so that the tests say only what is promised.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pendulum
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm.attributes import set_committed_value

HOME = Path(tempfile.mkdtemp(prefix="airflow-of-the-tests-"))
"""This process's own: where pytest-xdist runs the tests in several, each has its Airflow and its database."""
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
EXAMPLES = Path(__file__).parent.parent / "dags_examples"
SECRET = "emulator-secret"
START = pendulum.datetime(2025, 1, 1, tz="UTC")
MOMENT = pendulum.datetime(2025, 10, 20, 8, 30, tz="UTC")
"""The logical date of every DAG run here, unless a test says otherwise."""

assert "airflow" not in sys.modules, "airflow was imported before it could be told its home"
(HOME / "dags").mkdir()
for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__LOGGING__COLORED_LOG_FORMAT": "%(message)s",
    "SCARF_ANALYTICS": "false",
    "NO_COLOR": "1",
    # What a test has set for an Airflow in a process of its own, as JSON.
    **json.loads(os.environ.get("SETTINGS_OF_THE_TESTS", "{}")),
}


def first(name: str, *modules: str) -> Any:
    """Return ``name`` from the first of ``modules`` that has it, or ``None``."""
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return None


DAG = first("DAG", "airflow.sdk", "airflow")
task = first("task", "airflow.sdk", "airflow.decorators")
BaseHook = first("BaseHook", "airflow.sdk", "airflow.hooks.base")
VERSION = tuple(int(part) for part in import_module("airflow").__version__.split(".")[:2])

AIRFLOW_BASE = (
    "import airflow.sdk as sdk\n"
    "sdk.DAG, sdk.BaseOperator, sdk.BaseOperatorLink, sdk.BaseSensorOperator, sdk.Connection\n"
    "if not hasattr(sdk, 'BaseHook'): import airflow.hooks.base"
    if VERSION >= (3, 0)
    else "from airflow.models import DAG, BaseOperator, XCom; import airflow.models.baseoperatorlink, "
    "airflow.sensors.base, airflow.hooks.base"
)
"""What a DAG file with any operator and sensor imports."""

AIRFLOW_BRANCH = (
    "import airflow.sdk.bases.branch"
    if VERSION >= (3, 2)
    else "import airflow.providers.standard.operators.branch"
    if VERSION >= (3, 0)
    else "import airflow.operators.branch"
)
"""What any task that branches imports besides; on 3.0 that is all of Airflow's models, and aiohttp."""

TOTAL_COUNT = os.environ.get("PAI_TOTAL_COUNT", "given")
"""Whether listings have a TotalCount, which PAI's documentation calls optional: `given` or `absent`."""

_numbers = itertools.count(1)
_sleep = time.sleep


@event.listens_for(Engine, "connect")
def _write_without_waiting_for_the_disk(connection: Any, _: Any) -> None:
    """Let SQLite leave its writes to the operating system: this database does not outlive the process.

    A DAG run commits eleven times, and waiting for the disk so often takes longer than all else in it.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()


def new_dag(**arguments: Any) -> Any:
    """Return a DAG with an id of its own, to be used as a context manager; its retries do not wait."""
    arguments["default_args"] = {"retry_delay": timedelta(0), **arguments.get("default_args", {})}
    return DAG(f"dag_{next(_numbers)}", schedule=None, start_date=START, catchup=False, **arguments)


@dataclass
class Ran:
    """What is left of a DAG run: in memory its errors, all else read back from Airflow's database."""

    dag: Any
    run_id: str
    state: str
    errors: dict[str, list[BaseException]]
    states: dict[Any, str] = field(default_factory=dict)
    """By task id, or by (task id, map index)."""
    tries: dict[Any, int] = field(default_factory=dict)

    def error(self, task_id: str) -> str:
        """The text of the one error of a task."""
        (error,) = self.errors[task_id]
        return f"{type(error).__name__}: {error}"

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task pushed; as JSON without the words NaN and Infinity, or the test fails."""
        model = _xcom_model()
        with _session() as session:
            query = session.query(model).filter_by(
                dag_id=self.dag.dag_id, run_id=self.run_id, task_id=task_id, key=key, map_index=map_index
            )
            found = query.one_or_none()
            if found is None:
                return None
            value = found.value if VERSION < (3, 0) else model.deserialize_value(found)
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        return value

    def rendered(self, task_id: str) -> dict[str, Any]:
        """A task's templated fields, as Airflow shows them."""
        fields = first("RenderedTaskInstanceFields", "airflow.models.renderedtifields")
        return fields.get_templated_fields(self.instance(task_id)) or {}

    def instance(self, task_id: str, map_index: int = -1) -> Any:
        """The task instance as the database has it."""
        model = first("TaskInstance", "airflow.models.taskinstance")
        with _session() as session:
            query = session.query(model).filter_by(
                dag_id=self.dag.dag_id, run_id=self.run_id, task_id=task_id, map_index=map_index
            )
            return query.one()

    def button(self, task_id: str, map_index: int = -1, name: str = "PAI console") -> str | None:
        """The link of one of a task's buttons, found as Airflow's web server does: by the serialized DAG."""
        serialized = serialize(self.dag).get_task(task_id)
        link: str | None = serialized.get_extra_links(self.instance(task_id, map_index), name)
        return link


def serialize(dag: Any) -> Any:
    """Return a DAG as scheduler and web server see it: written as JSON, and read back."""
    codec = first("DagSerialization", "airflow.serialization.serialized_objects") or first(
        "SerializedDAG", "airflow.serialization.serialized_objects"
    )
    codec._load_operator_extra_links = (
        True  # Airflow's scheduler, and its API, turn it off for all that follow
    )
    return codec.from_dict(json.loads(json.dumps(codec.to_dict(dag))))


def run_dag(dag: Any, moment: Any = MOMENT, conf: dict[str, Any] | None = None) -> Ran:
    """Run a DAG once through Airflow's own machinery: ``dag.test()``, rescheduling and retries included.

    :param moment: the logical date. With ``None`` it is as ``airflow dags trigger`` leaves it: on Airflow 3
        there is none, on Airflow 2 it is now.
    """
    _store(dag)
    watcher = _Watcher()
    listeners = first("get_listener_manager", "airflow.sdk.listener", "airflow.listeners.listener")()
    listeners.add_listener(watcher)
    when = "logical_date" if "logical_date" in inspect.signature(dag.test).parameters else "execution_date"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", _sleep_less_between_tasks)
            run = dag.test(**{when: moment}, run_conf=conf)
    finally:
        listeners.pm.unregister(watcher)
    ran = Ran(dag, run.run_id, str(getattr(run.state, "value", run.state)), watcher.errors)
    model = first("TaskInstance", "airflow.models.taskinstance")
    with _session() as session:
        for ti in session.query(model).filter_by(dag_id=dag.dag_id, run_id=run.run_id):
            key = ti.task_id if ti.map_index < 0 else (ti.task_id, ti.map_index)
            ran.states[key] = str(getattr(ti.state, "value", ti.state))
            ran.tries[key] = ti.try_number
    return ran


def _sleep_less_between_tasks(seconds: float) -> None:
    """Sleep; where ``dag.test()`` itself does, for a second while no task may run yet, only a moment.

    Who waits there are rescheduled sensors, whose ``poke_interval`` is shorter in the tests.
    """
    loop = inspect.unwrap(DAG.test).__code__
    _sleep(0.05 if sys._getframe(1).f_code is loop else seconds)


class _Watcher:
    """A listener of Airflow's that keeps the errors of tasks: 3.0 gives them to nobody else."""

    def __init__(self) -> None:
        self.errors: dict[str, list[BaseException]] = {}

    @import_module("airflow.listeners").hookimpl  # type: ignore[untyped-decorator]
    def on_task_instance_failed(self, task_instance: Any, error: Any) -> None:
        self.errors.setdefault(task_instance.task_id, []).append(error)


def due(dag: Any, moment: Any) -> dict[str, Any]:
    """Return the times that this Airflow's scheduler gives to the DAG run that is due at a moment."""
    restriction = first("TimeRestriction", "airflow.timetables.base")(dag.start_date, None, True)
    timetable, interval = serialize(dag).timetable, None
    while True:
        found = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
        interval = found.data_interval
        assert found.run_after <= moment
        if found.run_after == moment:
            return {
                "run_type": "scheduled",
                "run_after": moment,
                "logical_date": found.logical_date,
                **_ends(interval),
            }


def by_hand(dag: Any, moment: Any, logical_date: Any = None) -> dict[str, Any]:
    """Return the times that this Airflow gives to a DAG run that is started by hand at a moment."""
    times = {"run_type": "manual", "run_after": moment, "logical_date": logical_date}
    if logical_date is None and VERSION >= (3, 0):
        return times
    times["logical_date"] = logical_date or moment
    # On 3 the interval is that of the moment, even where the logical date is another.
    of = moment if VERSION >= (3, 0) else times["logical_date"]
    return times | _ends(serialize(dag).timetable.infer_manual_data_interval(run_after=of))


def _ends(interval: Any) -> dict[str, Any]:
    return {"data_interval_start": interval.start, "data_interval_end": interval.end}


def rendered(task: Any, template: str, times: dict[str, Any], known_as: Any = None) -> Any:
    """Render a template as a task does it in a DAG run of these times, which is not stored.

    :param known_as: the task in the serialized DAG, where that is all that the template is to see.
    """
    dag_id, run_id = task.dag.dag_id, f"run_{next(_numbers)}"
    if VERSION >= (3, 0):
        models = import_module("airflow.sdk.api.datamodels._generated")
        others = {**dict.fromkeys(models.DagRun.model_fields), "consumed_asset_events": []}
        run = models.DagRun.model_construct(**{**others, "dag_id": dag_id, "run_id": run_id, **times})
        ti = first("RuntimeTaskInstance", "airflow.sdk.execution_time.task_runner").model_construct(
            task=known_as or task,
            **{
                "id": uuid.uuid4(),
                "dag_id": dag_id,
                "task_id": task.task_id,
                "run_id": run_id,
                "map_index": -1,
            },
            _ti_context_from_server=models.TIRunContext.model_construct(dag_run=run, max_tries=0),
        )
        return task.render_template(template, ti.get_template_context())
    run = first("DagRun", "airflow.models.dagrun")(
        dag_id=dag_id,
        run_id=run_id,
        run_type=times["run_type"],
        execution_date=times["logical_date"],
        data_interval=(times["data_interval_start"], times["data_interval_end"]),
    )
    ti = first("TaskInstance", "airflow.models.taskinstance")(task=task, run_id=run_id)
    set_committed_value(ti, "dag_run", run)
    with _session() as session:
        return task.render_template(template, ti.get_template_context(session=session))


def _store(dag: Any) -> None:
    """Write a DAG to the database, without which Airflow 3.1 and later do not run it."""
    if VERSION < (3, 1):
        return
    places = "airflow.dag_processing.dagbag", "airflow.models.dagbag"
    bag = first("DagBag", *places)(collect_dags=False)
    bag.bag_dag(dag)
    manager = first("DagBundlesManager", "airflow.dag_processing.bundles.manager")()
    manager.sync_bundles_to_db()
    first("sync_bag_to_db", *places)(bag, "dags-folder", None)


def store_assets(dag: Any) -> None:
    """Write a DAG's assets to the database, without which Airflow before 3.1 makes no events of them."""
    if VERSION < (3, 0):
        dag.sync_to_db()
    elif VERSION < (3, 1):
        first("DagBundlesManager", "airflow.dag_processing.bundles.manager")().sync_bundles_to_db()
        written = serialize(dag)
        written.relative_fileloc = None
        first("DAG", "airflow.models.dag").bulk_write_to_db("dags-folder", None, [written])


def load_dags(folder: Path) -> Any:
    """Return a DagBag of a folder, as the DAG processor fills it."""
    kind = first("DagBag", "airflow.dag_processing.dagbag", "airflow.models.dagbag")
    return kind(str(folder))


def reschedules(ran: Ran, task_id: str) -> int:
    """How often a task gave its worker back."""
    model = first("TaskReschedule", "airflow.models.taskreschedule")
    ti = ran.instance(task_id)
    of_ti = {"ti_id": ti.id} if hasattr(model, "ti_id") else {"dag_id": ti.dag_id, "run_id": ti.run_id}
    with _session() as session:
        return int(session.query(model).filter_by(**of_ti).count())


def schedule(ran: Ran, task_id: str) -> tuple[str, tuple[str, dict[str, Any]] | None]:
    """Let the scheduler take a task that has run once more: its state then, and its trigger if it has one."""
    dag_run, trigger = first("DagRun", "airflow.models.dagrun"), first("Trigger", "airflow.models.trigger")
    with _session() as session:
        run = session.query(dag_run).filter_by(dag_id=ran.dag.dag_id, run_id=ran.run_id).one()
        ti = run.get_task_instance(task_id, session=session)
        ti.task, ti.state = serialize(ran.dag).get_task(task_id), None
        run.schedule_tis([ti], session=session)
        session.flush()
        session.refresh(ti)
        found = session.get(trigger, ti.trigger_id) if ti.trigger_id else None
        return str(getattr(ti.state, "value", ti.state)), found and (found.classpath, found.kwargs)


def add_connection(**fields: Any) -> str:
    """Store a connection in the database, as the Connections page does, and return its id."""
    model = first("Connection", "airflow.models.connection")
    conn_id = f"connection_{next(_numbers)}"
    with _session() as session:
        session.add(model(conn_id=conn_id, **fields))
        session.commit()
    return conn_id


def _xcom_model() -> Any:
    return first("XComModel", "airflow.models.xcom") or first("XCom", "airflow.models.xcom")


def _session() -> Any:
    return first("create_session", "airflow.utils.session")()


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's database, migrated once for the session."""
    first("initdb", "airflow.utils.db")()
    if VERSION >= (3, 0):
        _keep_the_api_server()
    if VERSION in ((3, 0), (3, 1)):
        _mend_rescheduling()
        _log_as_a_worker_does()


def _keep_the_api_server() -> None:
    """Let all tasks of ``dag.test()`` talk to one Execution API, as 3.3 does.

    Before, each makes one of its own, which takes longer than the task, and a thread of which stays.
    """
    home = import_module("airflow.sdk.execution_time.supervisor")
    home.in_process_api_server = functools.cache(home.in_process_api_server)


def _mend_rescheduling() -> None:
    """Let ``dag.test()`` of Airflow 3.0 and 3.1 reschedule sensors.

    There the client of the Execution API keeps the first start of a sensor as text. In a worker, which gets
    it as JSON, it becomes a time; in ``dag.test()``, which skips the JSON, Airflow's own sensor would
    subtract a text from a time.
    """
    client = import_module("airflow.sdk.api.client")
    given = client.TaskInstanceOperations.get_reschedule_start_date

    def typed(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = given(self, *args, **kwargs)
        return type(answer).model_validate(answer.model_dump(warnings=False))

    client.TaskInstanceOperations.get_reschedule_start_date = typed


def _log_as_a_worker_does() -> None:
    """Keep ``dag.test()`` of Airflow 3.0 and 3.1 from logging at level debug.

    There Airflow itself prints secrets, and draws every failure with rich, which takes seconds.
    """
    structlog = import_module("structlog")
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*structlog.get_config()["processors"][:-1], plain],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


@pytest.fixture
def pai(airflow_db: None, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fresh local PAI that is Airflow's ``pai_default``; what is tried again is tried again soon."""
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai_emulator.connection_uri)
    pai_emulator.quirks.total_count = TOTAL_COUNT
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.01)
    _forget_secrets()
    yield pai_emulator


def _forget_secrets() -> None:
    """Let Airflow forget what it hides in logs, which it learnt from earlier tests.

    It compiles all that it knows into one pattern, again with each secret: after a few hundred tests reading
    a connection takes longer than all else in a test.
    """
    for name, module in list(sys.modules.items()):
        if name.endswith("secrets_masker") and (masker := vars(module).get("_secrets_masker")):
            masker().patterns, masker().replacer = set(), None
