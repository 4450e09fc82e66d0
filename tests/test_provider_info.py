# ruff: noqa: F401, F811 - fixtures come by import
"""Airflow finds the provider, its connection form and its link by the metadata alone."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import wtforms
from airflow_db import VERSION, airflow_db, first

import airflow_provider_pai
from airflow_provider_pai._compat import form_widgets
from airflow_provider_pai.connection_form import FIELDS
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.links import PaiRunLink

INFO: dict[str, Any] = airflow_provider_pai.get_provider_info()
LINK = f"{PaiRunLink.__module__}.{PaiRunLink.__qualname__}"


def test_the_metadata_is_valid_by_the_installed_airflows_own_schema() -> None:
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations))) / "provider_info.schema.json"
    jsonschema.validate(INFO, json.loads(path.read_text()))
    assert json.loads(json.dumps(INFO)) == INFO


def test_the_entry_point_leads_to_the_metadata() -> None:
    found = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if "airflow_provider_pai" in point.value
    ]
    assert {point.value for point in found} == {"airflow_provider_pai:get_provider_info"}
    assert found[0].load()() == INFO


@pytest.mark.parametrize("kind", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_the_metadata_names_is_there(kind: str) -> None:
    for entry in INFO.get(kind, []):
        for module in entry["python-modules"]:
            assert find_spec(module), module


def test_the_metadata_and_the_hook_agree() -> None:
    (connection_type,) = INFO["connection-types"]
    assert connection_type["hook-class-name"] == f"{PaiHook.__module__}.{PaiHook.__qualname__}"
    assert connection_type["connection-type"] == PaiHook.conn_type
    assert connection_type["hook-name"] == PaiHook.hook_name


@pytest.fixture(scope="module")
def printed_by_cli(airflow_db: None) -> dict[str, str]:
    """What ``airflow providers get`` and ``list`` print, in a process of their own."""
    code = (
        "import sys; from airflow.__main__ import main\n"
        "for words in ['get airflow-provider-pai --full', 'list']:\n"
        "    print('====')\n"
        "    sys.argv = ['airflow', 'providers', *words.split(), '-o', 'json']; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    _, get, listed = done.stdout.split("====")
    return {"get": get, "list": listed}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("get", ["Alibaba Cloud PAI", "airflow_provider_pai.hooks.PaiHook", "conn-fields"]),
        ("list", ["airflow-provider-pai", airflow_provider_pai.__version__]),
    ],
)
def test_airflows_command_shows_the_provider(
    printed_by_cli: dict[str, str], command: str, words: list[str]
) -> None:
    for word in words:
        assert word in printed_by_cli[command]


@pytest.fixture(scope="module")
def manager(airflow_db: None) -> Any:
    """Airflow's own view of all installed providers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.3 wants its own callers elsewhere
        return first("ProvidersManager", "airflow.providers_manager")()


@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks")
def test_airflow_knows_the_hook_by_the_connection_type(manager: Any) -> None:
    hook = manager.hooks["pai"]
    assert hook.hook_class_name == "airflow_provider_pai.hooks.PaiHook"
    assert hook.hook_name == "Alibaba Cloud PAI"
    assert hook.connection_id_attribute_name == "pai_conn_id"
    assert hook.connection_testable


def test_airflow_knows_the_link(manager: Any) -> None:
    assert LINK in manager.extra_links_class_names


@pytest.mark.skipif(VERSION >= (3, 0), reason="the form of Airflow 2")
def test_the_form_of_airflow_2_has_every_field_and_hides_what_is_not_used(manager: Any) -> None:
    widgets = manager.connection_form_widgets
    made = {name: widgets[f"extra__pai__{name}"].field for name in FIELDS}
    kinds = {name: field.field_class.__name__ for name, field in made.items()}
    assert kinds["security_token"] == "PasswordField"
    assert kinds["region"] == "StringField"
    assert kinds["vpc"] == "BooleanField"
    assert {str(field.kwargs["label"]) for field in made.values()} == {
        field["label"] for field in FIELDS.values()
    }
    behaviour = manager.field_behaviours["pai"]
    assert {"schema", "port"} <= set(behaviour["hidden_fields"])
    assert behaviour["relabeling"]["password"] == "AccessKey secret"


@pytest.mark.skipif(VERSION < (3, 0), reason="the form of Airflow 3")
def test_the_form_of_airflow_3_has_every_field_and_hides_what_is_not_used(airflow_db: None) -> None:
    service = first("HookMetaService", "airflow.api_fastapi.core_api.services.ui.connections")
    (form,) = [meta for meta in service.hook_meta_data() if meta.connection_type == "pai"]
    assert form.hook_name == "Alibaba Cloud PAI"
    assert form.standard_fields.password.title == "AccessKey secret"
    assert form.standard_fields.login.title == "AccessKey ID"
    assert form.standard_fields.host.title == "Endpoint override"
    assert form.standard_fields.port.hidden
    assert form.standard_fields.url_schema.hidden
    assert set(form.extra_fields) == set(FIELDS)
    described = {name: field["schema"] for name, field in form.extra_fields.items()}
    assert {name: schema["title"] for name, schema in described.items()} == {
        name: field["label"] for name, field in FIELDS.items()
    }
    assert described["security_token"]["format"] == "password"
    assert "boolean" in described["vpc"]["type"]
    assert "null" in described["region"]["type"]


def test_the_hook_describes_the_same_form_to_older_airflows() -> None:
    behaviour = PaiHook.get_ui_field_behaviour()
    assert {"schema", "port"} == set(behaviour["hidden_fields"])
    assert behaviour["relabeling"]["login"] == "AccessKey ID"


class Sent(dict[str, str]):
    """What a browser sends of a form."""

    def getlist(self, name: str) -> list[str]:
        return [self[name]]


def test_a_field_with_choices_takes_one_of_them_or_nothing() -> None:
    field = {"label": "a", "description": "b", "schema": {"type": ["string", "null"], "enum": ["sts", None]}}
    form = type("AForm", (wtforms.Form,), form_widgets({"kind": field}))
    for value, allowed in (("sts", True), ("", True), ("other", False)):
        assert form(Sent({"kind": value})).validate() is allowed
