"""The one file that knows that Airflow versions differ: 2.10.4 up to, but not including, 4.

Everything is found by looking where it is, not by comparing version numbers. Type checkers see the newest.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.standard.decorators.python import (
        _PythonDecoratedOperator as PythonDecoratedOperator,
    )
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.sdk import (
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        Connection,
        Context,
        PokeReturnValue,
    )
    from airflow.sdk.bases.branch import BranchMixIn
    from airflow.sdk.bases.decorator import task_decorator_factory
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
    )
    from airflow.triggers.base import BaseEventTrigger, BaseTrigger, StartTriggerArgs


def _first(name: str, *modules: str) -> Any:
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"This Airflow has no {name} in any of {', '.join(modules)}.")


if not TYPE_CHECKING:
    BaseHook = _first("BaseHook", "airflow.sdk", "airflow.hooks.base")
    BaseOperator = _first("BaseOperator", "airflow.sdk", "airflow.models.baseoperator")
    BaseOperatorLink = _first("BaseOperatorLink", "airflow.sdk", "airflow.models.baseoperatorlink")
    BaseSensorOperator = _first("BaseSensorOperator", "airflow.sdk", "airflow.sensors.base")
    PokeReturnValue = _first("PokeReturnValue", "airflow.sdk", "airflow.sensors.base")
    _exceptions = ("airflow.sdk.exceptions", "airflow.exceptions")
    AirflowFailException = _first("AirflowFailException", *_exceptions)
    AirflowNotFoundException = _first("AirflowNotFoundException", *_exceptions)
    AirflowSensorTimeout = _first("AirflowSensorTimeout", *_exceptions)
    AirflowSkipException = _first("AirflowSkipException", *_exceptions)
    AirflowTaskTimeout = _first("AirflowTaskTimeout", *_exceptions)
    Context = dict  # only ever an annotation

    def __getattr__(name):
        # What triggers rest on takes 25 ms to import, and on 3.0 a gate's takes 1.4 s: a DAG without one need
        # not pay for it.
        if name == "BranchMixIn":
            return _first(
                name,
                "airflow.sdk.bases.branch",
                "airflow.providers.standard.operators.branch",
                "airflow.operators.branch",
            )
        if name == "ApprovalOperator":
            try:
                return _first(name, "airflow.providers.standard.operators.hitl")
            except Exception:  # before 3.1 the module is missing, or refuses with an error of Airflow's
                return None
        if name in ("PythonDecoratedOperator", "task_decorator_factory"):
            found = "_PythonDecoratedOperator" if name == "PythonDecoratedOperator" else name
            return _first(found, "airflow.providers.standard.decorators.python", "airflow.decorators.python")
        if name not in ("BaseEventTrigger", "BaseTrigger", "StartTriggerArgs"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("airflow.triggers.base"), name, None)  # Airflow 2 has no asset watchers


__all__ = [
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "ApprovalOperator",
    "BaseEventTrigger",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "BranchMixIn",
    "Context",
    "PokeReturnValue",
    "PythonDecoratedOperator",
    "StartTriggerArgs",
    "aget_connection",
    "asset_stores",
    "current_context",
    "default_deferrable",
    "execute_sensor",
    "first_reschedule",
    "form_widgets",
    "get_connection",
    "object_storage_path",
    "pushed_link",
    "setting",
    "skip_instances",
    "starts_in_triggerer",
    "task_decorator_factory",
    "task_success",
    "task_url",
    "trigger_event",
    "web_url",
]


def get_connection(conn_id: str) -> Connection:
    """Return a connection.

    :raises AirflowNotFoundException: there is none.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except ImportError as error:
        if "SUPERVISOR_COMMS" not in str(error):
            raise
        # 3.1 asks its supervisor last, and trips where there is none, which is outside of a task.
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined") from error


async def aget_connection(conn_id: str) -> tuple[Connection, dict[str, Any]]:
    """Return a connection and its extras without blocking the event loop.

    Before 3.3.2 Airflow's own async way masks secrets with a sync call, which can dead-lock a triggerer
    (apache/airflow#65286). There the sync way runs in a thread of asgiref's, from which Airflow's sync calls
    find the way back to the event loop.
    """
    connection = _first("Connection", "airflow.sdk", "airflow.models.connection")
    if hasattr(connection, "aextra_dejson"):
        found = await BaseHook.aget_connection(conn_id)
        return found, await found.aextra_dejson()

    from asgiref.sync import sync_to_async

    def look_up() -> tuple[Connection, dict[str, Any]]:
        found = get_connection(conn_id)
        return found, found.extra_dejson

    return await sync_to_async(look_up)()


def current_context() -> Context | None:
    """Return the context of the task that runs here, or ``None`` outside of one."""
    current = _first("get_current_context", "airflow.sdk", "airflow.operators.python")
    try:
        context: Context = current()
    except Exception:  # AirflowException, of one or another module, or a RuntimeError
        return None
    return context


def task_url(ti: Any) -> str | None:
    """Return the address of a running task in Airflow's web interface, where Airflow knows its own."""
    if url := getattr(ti, "log_url", None):
        return str(url)
    base = web_url()  # 3.0 tells none of a task
    if base is None:
        return None
    mapped = f"/mapped/{ti.map_index}" if ti.map_index >= 0 else ""
    where = f"dags/{ti.dag_id}/runs/{quote(ti.run_id)}/tasks/{ti.task_id}{mapped}"
    return f"{base}/{where}?try_number={ti.try_number}"


def web_url() -> str | None:
    """Return the address of Airflow's web interface, where its configuration tells it."""
    conf = _first("conf", "airflow.sdk.configuration", "airflow.configuration")
    base: str | None = conf.get("api", "base_url", fallback=None)
    return base.rstrip("/") if base else None


def default_deferrable() -> bool:
    """Return ``[operators] default_deferrable``."""
    conf = _first("conf", "airflow.sdk.configuration", "airflow.configuration")
    deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False)
    return deferrable


def execute_sensor(sensor: BaseSensorOperator, context: Context) -> Any:
    """Run Airflow's own ``execute``; called over ``super()``, 2.10 warns that no task instance called it."""
    execute: Any = BaseSensorOperator.execute
    return getattr(execute, "__wrapped__", execute)(sensor, context)


def setting(name: str, default: str) -> str:
    """Return an option of Airflow's section ``[pai]``."""
    conf = _first("conf", "airflow.sdk.configuration", "airflow.configuration")
    found: str = conf.get("pai", name, fallback=default)
    return found


def skip_instances(context: Context, task_ids: list[str]) -> None:
    """Skip the mapped instances of tasks in Airflow 2. A branch names the tasks alone: 2.11 would run them.

    Airflow 3 skips by an exception, and does not come here.
    """
    run: Any = context["dag_run"]
    instances = [
        (ti.task_id, ti.map_index)
        for ti in run.get_task_instances()
        if ti.map_index >= 0 and ti.task_id in task_ids
    ]
    with import_module("airflow.utils.session").create_session() as session:
        mixin = import_module("airflow.models.skipmixin").SkipMixin
        mixin._set_state_to_skipped(run, instances, session=session)


def starts_in_triggerer(*, templates: bool) -> bool:
    """Tell whether the scheduler hands a task straight to the triggerer, and that renders its templates."""
    if hasattr(_first("BaseTrigger", "airflow.triggers.base"), "render_template_fields"):  # 3.3
        return True
    # 2 and 3.0; in 3.1 and 3.2 operators take the arguments, but the scheduler does not look at them.
    return not templates and hasattr(_first("TaskInstance", "airflow.models.taskinstance"), "defer_task")


def trigger_event(payload: Any) -> Any:
    """Return an event that resumes a deferred task, or an asset event."""
    return _first("TriggerEvent", "airflow.triggers.base")(payload)


async def task_success(ti: Any, xcoms: dict[str, Any]) -> Any:
    """Return an event that ends a deferred task with these XComs, without a worker.

    Airflow 3 stores an event's own XComs as JSON within JSON, which tasks that pull them get as text. There
    they are pushed before, as a worker pushes them.
    """
    event = _first("TaskSuccessEvent", "airflow.triggers.base")
    if ti is None or not hasattr(event, "model_fields"):  # Airflow 2's are no models of pydantic's
        return event(xcoms=xcoms)
    from asgiref.sync import sync_to_async

    push = sync_to_async(_first("XCom", "airflow.sdk.execution_time.xcom").set)
    place = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    for key, value in xcoms.items():
        await push(key=key, value=value, **place)
    return event()


def asset_stores(trigger: Any) -> list[Any]:
    """Return the state store of each asset that a watcher's trigger serves; none before 3.3."""
    stores = getattr(trigger, "asset_state_store", None)
    if stores is None:
        return []
    # With several assets the store wants to be told which, and a trigger is not told their names.
    each = [*getattr(stores, "_by_name", {}).values(), *getattr(stores, "_by_uri", {}).values()]
    return each or [stores]


def object_storage_path(path: str) -> Any:
    """Return an ``ObjectStoragePath``; looked up here because it brings all of fsspec."""
    return _first("ObjectStoragePath", "airflow.sdk", "airflow.io.path")(path)


def pushed_link(operator: BaseOperator, ti_key: Any, key: str) -> str | None:
    """Return the link a task pushed under ``key``.

    Airflow 3 asks in the worker, of the operator that has just run, and keeps the answer; Airflow 2 asks
    in the webserver, of a copy that never ran.
    """
    if hasattr(BaseOperatorLink, "xcom_key"):
        link: str | None = getattr(operator, key, None)
    else:
        link = import_module("airflow.models.xcom").XCom.get_value(ti_key=ti_key, key=key)
    return link


def form_widgets(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the WTForms fields of a connection form; Airflow before 3.2 knows no other description.

    Airflow 2 draws them, for which they need flask_appbuilder's looks. Airflow 3.0 and 3.1 only read them,
    and may be without flask_appbuilder.
    """
    wtforms = import_module("wtforms")
    text = password = None
    with suppress(ImportError):
        widgets = import_module("flask_appbuilder.fieldwidgets")
        text, password = widgets.BS3TextFieldWidget(), _kept_password(widgets.BS3PasswordFieldWidget)
    made = {}
    for name, field in fields.items():
        schema, texts = field["schema"], {"label": field["label"], "description": field["description"]}
        if "boolean" in schema["type"]:
            made[name] = wtforms.BooleanField(**texts)
        elif schema.get("format") == "password":
            made[name] = wtforms.PasswordField(**texts, widget=password)
        else:
            choices = [choice for choice in schema.get("enum", ()) if choice is not None]
            only = [wtforms.validators.Optional(), wtforms.validators.any_of(choices)] if choices else []
            made[name] = wtforms.StringField(**texts, validators=only, widget=text)
    return made


def _kept_password(widget: Any) -> Any:
    """Return a password's look that shows Airflow 2's word for a saved value instead of it.

    Airflow 2 shows a saved extra of this kind as empty, and takes what is empty out when the form is saved.
    """

    class KeptPassword(widget):  # type: ignore[misc]
        def __call__(self, field: Any, **kwargs: Any) -> Any:
            word = _first("SENSITIVE_FIELD_PLACEHOLDER", "airflow.www.views") if field.data else ""
            return super().__call__(field, value=word, **kwargs)

    return KeptPassword(hide_value=False)


def first_reschedule(context: Context, retries: int) -> datetime | None:
    """Return when a rescheduled task started for the first time, ``None`` if that is now."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context)  # type: ignore[no-any-return]
    started: datetime | None = _first("_orig_start_date", "airflow.sensors.base")(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
        try_number=(ti.max_tries or 0) - retries + 1,
    )
    return started
