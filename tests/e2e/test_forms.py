"""The connection form and a task's PAI link in a real browser, on a real Airflow of each kind of form.

What is expected is drawn from the provider's table of fields. `make browser` runs this in the newest
Airflow's environment; the other Airflows run from theirs. The newest one's pictures are left in
.airflow/pictures.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, Ui2, Ui3, chromium, expect, is_choice
from outside import CHECKOUT, KEY, LocalPai, local_pai, until
from standalone import Airflow, Airflow2, running

from airflow_provider_pai.connection_form import FIELD_BEHAVIOUR, FIELDS
from airflow_provider_pai.hooks import PaiHook
from demo.ui import seed

SECONDS = 600
"""How long one Airflow may take to start, or one DAG run."""

pytestmark = pytest.mark.timeout(3 * SECONDS)

NEWEST = "3.3.2"
VERSIONS = (NEWEST, "3.2.2", "3.0.6", "2.10.4")
SHOWS_TYPED_TOKENS = ("3.2.2", "3.0.6")
"""Their forms ignore an extra's format "password": apache/airflow issue 53410, mended by its PR 70473."""
HAS_NO_TEST_BUTTON = ("3.0.6",)
"""Airflow has had one again since 3.1."""
CANNOT_TEST = (NEWEST,)
"""Their Test button sends port 0, and takes that for another port than none: apache/airflow PR 73298."""

CONN_ID = "pai_default"
DAG_ID, TASK_ID = "pai_list_runs", "list_evaluations"
GRAPH = "pai_train_and_evaluate"
RELABELED, HIDDEN = FIELD_BEHAVIOUR["relabeling"], FIELD_BEHAVIOUR["hidden-fields"]
PLACEHOLDERS = FIELD_BEHAVIOUR["placeholders"]
PICTURES = CHECKOUT / ".airflow" / "pictures"


def is_boolean(name: str) -> bool:
    """Tell whether a field is a switch."""
    return "boolean" in FIELDS.get(name, {"schema": {"type": []}})["schema"]["type"]


def is_secret(name: str) -> bool:
    """Tell whether a field's value must not be seen."""
    return name == "password" or FIELDS.get(name, {"schema": {}})["schema"].get("format") == "password"


class World:
    """One Airflow with its web interface, and the local PAI that its connection leads to."""

    def __init__(self, version: str, airflow: Airflow, ui: Ui3, pai: LocalPai) -> None:
        self.version = version
        self.airflow = airflow
        self.ui = ui
        self.typed: dict[str, str | bool] = {
            "login": KEY["access_key_id"],
            "password": KEY["access_key_secret"],
            "host": pai.url,
            "region": "cn-hangzhou",
            "workspace_id": pai.workspace_id,
            "credential_type": "sts",
            "security_token": KEY["security_token"],
            "allow_http": True,
            "console_url": "https://left.example/{run_id}",
        }

    def picture(self, name: str, part: str = "body") -> None:
        """Leave a picture of a part of the page, of the newest Airflow alone."""
        if self.version == NEWEST:
            self.ui.page.wait_for_timeout(2500)  # animations, and the graph's layout
            self.ui.page.locator(part).screenshot(path=PICTURES / f"{name}.png")

    def run(self, dag_id: str) -> str:
        """Run a DAG through the scheduler to its end, and return the id of its run."""
        run_id = self.airflow.start(dag_id)
        state = until(lambda: self.airflow.state(dag_id, run_id), f"the end of {dag_id}", SECONDS)
        assert state == "success", self.airflow.states(dag_id, run_id)
        return run_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", params=VERSIONS)
def world(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    version: str = request.param
    is_2 = version.startswith("2.")
    home = tmp_path_factory.mktemp("airflow")
    dags = ("list_runs", "train_and_evaluate") if version == NEWEST else ("list_runs",)
    (home / "dags").mkdir()
    for name in dags:
        shutil.copy(CHECKOUT / "dags_examples" / f"{name}.py", home / "dags")
    settings = {
        "CORE__TEST_CONNECTION": "Enabled",
        # For Airflow 2
        "WEBSERVER__WORKERS": "1",
        "API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth,airflow.api.auth.backend.session",
    }
    programs = CHECKOUT / ".venvs" / version / "bin"
    mark = uuid.uuid4().hex
    with (
        local_pai(mark) as pai,
        running(home, mark, settings, programs, Airflow2 if is_2 else Airflow, SECONDS) as airflow,
    ):
        seed(pai.client)
        ui = (Ui2 if is_2 else Ui3)(browser, airflow.url)
        ui.log_in(airflow.password)
        yield World(version, airflow, ui, pai)
        ui.page.context.close()


@pytest.fixture(scope="module")
def saved(world: World) -> World:
    """The same with a connection that was typed into the form, and saved."""
    ui = world.ui
    ui.add(CONN_ID, PaiHook.hook_name)
    for name, value in world.typed.items():
        ui.fill(name, value)
    ui.save()
    return world


def test_the_form_has_each_field_under_its_label(world: World) -> None:
    ui = world.ui
    ui.add("never_saved", PaiHook.hook_name)
    for name in ("description", *RELABELED):
        expect(ui.shown(name)).to_be_visible()
    for name, label in RELABELED.items():
        assert ui.label(name) == label
        assert (ui.input(name).get_attribute("placeholder") or None) == PLACEHOLDERS.get(name)
    for name, field in FIELDS.items():
        expect(ui.shown(name)).to_be_visible()
        assert ui.label(name) == field["label"]
        expect(ui.shown(name)).to_contain_text(field["description"])
        placeholder = ui.input(name).get_attribute("placeholder") or None
        assert placeholder == (PLACEHOLDERS.get(name) if ui.shows_placeholders_of_extras else None)
        kind = ui.input(name).get_attribute("type") or "text"
        assert (kind == "checkbox") == is_boolean(name)
    for name in HIDDEN:
        expect(ui.input(name).locator("visible=true")).to_have_count(0)


def test_what_is_secret_is_typed_unseen(world: World) -> None:
    world.ui.add("never_saved", PaiHook.hook_name)
    for name in ("login", "password", "host", *FIELDS):
        world.ui.shown(name)
        is_masked = world.ui.input(name).get_attribute("type") == "password"
        seen = name in FIELDS and world.version in SHOWS_TYPED_TOKENS
        assert is_masked == (is_secret(name) and not seen), name


def test_a_saved_connection_is_read_back_without_its_secrets(saved: World) -> None:
    ui = saved.ui
    answers = [saved.airflow.get("connections"), saved.airflow.get(f"connections/{CONN_ID}")]
    ui.edit(CONN_ID)
    for name in (*RELABELED, *FIELDS):
        ui.shown(name)
        typed = saved.typed.get(name, False if is_boolean(name) else "")
        if is_boolean(name):
            expect(ui.input(name)).to_be_checked(checked=bool(typed))
        elif is_choice(name):
            assert json.loads(answers[1]["extra"])[name] == typed
        elif not is_secret(name):
            expect(ui.input(name)).to_have_value(str(typed))
        else:
            assert ui.input(name).input_value() in ("", "***", "RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER"), (
                name
            )
    told = ui.page.content() + json.dumps(answers)
    assert KEY["access_key_id"] in told
    assert KEY["access_key_secret"] not in told
    assert KEY["security_token"] not in told


def test_a_field_can_be_emptied_and_a_switch_set_back(saved: World) -> None:
    saved.ui.edit(CONN_ID)
    saved.ui.fill("console_url", "")
    saved.ui.fill("allow_http", False)
    saved.ui.save()
    extra: dict[str, Any] = json.loads(saved.airflow.get(f"connections/{CONN_ID}")["extra"])
    assert not extra.get("console_url")
    assert not extra.get("allow_http")
    assert extra["region"] == "cn-hangzhou"


def test_a_task_uses_the_connection_and_its_button_leads_to_pai(saved: World) -> None:
    until(lambda: saved.airflow.has_dags(DAG_ID), "the DAG", SECONDS)
    run_id = saved.run(DAG_ID)
    assert "mobilenet-v3" in str(saved.airflow.xcom(DAG_ID, run_id, TASK_ID))
    saved.ui.page.set_viewport_size({"width": 1400, "height": 640})
    href = saved.ui.task_link(DAG_ID, run_id, TASK_ID, "PAI console")
    where = f"regionId=cn-hangzhou&workspaceId={saved.typed['workspace_id']}"
    assert href == f"https://pai.console.aliyun.com/?{where}#/training/jobs/train00000001"
    saved.picture("task-link")


def test_the_test_button_asks_pai(saved: World) -> None:
    ui = saved.ui
    button = ui.test_button(CONN_ID)
    if saved.version in HAS_NO_TEST_BUTTON:
        expect(button).to_have_count(0)
        return
    if isinstance(ui, Ui2):  # its button tests what is in the form, where no secret is shown
        for name in filter(is_secret, saved.typed):
            ui.fill(name, saved.typed[name])
    passed, said = ui.press(button)
    assert passed == (saved.version not in CANNOT_TEST), said
    assert ("Reached workspace" if passed else "port to test differs") in said


def test_the_command_line_tests_the_connection_everywhere(saved: World) -> None:
    passed, said = saved.airflow.command("connections", "test", CONN_ID)
    assert passed, said
    assert "Connection success!" in said


def test_the_pictures_of_the_docs(saved: World) -> None:
    if saved.version != NEWEST:
        pytest.skip("the docs show the newest Airflow")
    ui = saved.ui
    ui.page.set_viewport_size({"width": 1400, "height": 640})
    until(lambda: saved.airflow.has_dags(GRAPH), "the DAG", SECONDS)
    ui.page.goto(f"{ui.url}/dags/{GRAPH}/runs/{saved.run(GRAPH)}")
    ui.page.get_by_label("Show Graph").click()
    ui.page.get_by_label("Collapse Details Panel").click()
    ui.page.get_by_text("train [3]").wait_for()
    ui.page.add_style_tag(content=".react-flow__minimap { display: none }")  # it lies over a task
    ui.page.get_by_label("Fit View").click()
    saved.picture("graph")

    ui.page.set_viewport_size({"width": 1400, "height": 1600})
    ui.add("pai_default", PaiHook.hook_name)
    for name, value in {"login": "LTAI5tExampleOfAnAccessKey", "password": "x" * 30}.items():
        ui.fill(name, value)
    saved.picture("connection", "[role=dialog]")
    ui.page.set_viewport_size({"width": 1400, "height": 2900})  # a field for each kind of credential
    for name, value in {"region": "cn-hangzhou", "workspace_id": "145883"}.items():
        ui.fill(name, value)
    saved.picture("connection-extras", "[role=dialog]")
