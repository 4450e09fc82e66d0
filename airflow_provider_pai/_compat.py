"""The one file that knows that Airflow versions differ: 2.10.4 up to, but not including, 4.

Everything is found by looking where it is, not by comparing version numbers. Type checkers see the newest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import (
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        Connection,
        Context,
        PokeReturnValue,
    )
    from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException


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
    AirflowFailException = _first("AirflowFailException", "airflow.sdk.exceptions", "airflow.exceptions")
    AirflowNotFoundException = _first(
        "AirflowNotFoundException", "airflow.sdk.exceptions", "airflow.exceptions"
    )
    Context = dict  # only ever an annotation

__all__ = [
    "AirflowFailException",
    "AirflowNotFoundException",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Context",
    "PokeReturnValue",
    "aget_connection",
    "first_reschedule",
    "form_widgets",
    "object_storage_path",
    "pushed_link",
]


async def aget_connection(conn_id: str) -> Connection:
    """Return a connection without blocking the event loop: from 3.1 on, others take a thread."""
    if hasattr(BaseHook, "aget_connection"):
        return await BaseHook.aget_connection(conn_id)
    import asyncio

    return await asyncio.to_thread(BaseHook.get_connection, conn_id)


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
    """Return the WTForms fields of a connection form; Airflow before 3.2 knows no other description."""
    widgets, wtforms = import_module("flask_appbuilder.fieldwidgets"), import_module("wtforms")
    made = {}
    for name, field in fields.items():
        schema, texts = field["schema"], {"label": field["label"], "description": field["description"]}
        if "boolean" in schema["type"]:
            made[name] = wtforms.BooleanField(**texts)
        elif schema.get("format") == "password":
            made[name] = wtforms.PasswordField(**texts, widget=widgets.BS3PasswordFieldWidget())
        else:
            made[name] = wtforms.StringField(**texts, widget=widgets.BS3TextFieldWidget())
    return made


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
