"""A headless Chromium, and the pages of Airflow's web interface that users of the provider meet.

What differs between the interfaces of Airflow 2 and 3 is found here: one class for each.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from airflow_provider_pai.connection_form import FIELDS
from demo.standalone import PASSWORD, USER

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")  # root's Chromium has no sandbox
SECONDS = 120
"""How long a page may take to show what is waited for."""


def is_choice(name: str) -> bool:
    """Tell whether a field takes one of a few values, which Airflow 3 shows in a list."""
    return "enum" in FIELDS.get(name, {"schema": {}})["schema"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the machine's Chromium."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, "No Chromium is on the PATH; `make browser` installs Debian's, or says what to install."
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


class Ui3:
    """The web interface of Airflow 3."""

    shows_placeholders_of_extras = False
    switch = "[data-scope=switch][data-part=control]"  # lies over its input

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        context = browser.new_context(device_scale_factor=2, locale="en", timezone_id="UTC")
        context.set_default_timeout(SECONDS * 1000)
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": 1400, "height": 1400})

    def log_in(self, password: str = PASSWORD) -> None:
        """Log in as the administrator, through the page."""
        self.page.goto(self.url)
        self.page.fill("input[name=username]", USER)
        self.page.fill("input[name=password]", password)
        self.page.keyboard.press("Enter")
        self.page.get_by_text("Dags", exact=True).first.wait_for()

    # --- the form of a connection ---------------------------------------------------------------------------

    @property
    def form(self) -> Locator:
        """The form, once it is open."""
        return self.page.get_by_role("dialog")

    def add(self, conn_id: str, hook_name: str) -> None:
        """Open the form of a new connection and choose its type."""
        self.page.goto(f"{self.url}/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        self.form.locator("input[name=connection_id]").fill(conn_id)
        self.form.get_by_role("combobox").first.fill(hook_name)
        self.page.get_by_role("option", name=hook_name).click()
        self.input("login").wait_for()

    def edit(self, conn_id: str) -> None:
        """Open the form of a saved connection."""
        self._row(conn_id).get_by_label("Edit Connection").click()
        expect(self.input("login")).not_to_have_value("")

    def _row(self, conn_id: str) -> Locator:
        self.page.goto(f"{self.url}/connections")
        return self.page.get_by_role("row").filter(has_text=conn_id)

    def _place(self, name: str) -> str:
        return f"[name={f'element_{name}' if name in FIELDS else name}]"

    def input(self, name: str) -> Locator:
        """The input of a standard field, or of an extra."""
        return self.form.locator(self._found(name))

    def _found(self, name: str) -> Locator:
        if is_choice(name):  # has no name of its own in 3.0
            return self.page.get_by_role("combobox", name=FIELDS[name]["label"])
        return self.page.locator(self._place(name))

    def _field(self, name: str) -> Locator:
        return self.form.locator("[data-scope=field][data-part=root]").filter(has=self._found(name))

    def label(self, name: str) -> str:
        """The words beside a field."""
        return self._field(name).locator("[data-scope=field][data-part=label]").inner_text()

    def shown(self, name: str) -> Locator:
        """The field with all that is written beside it, its section unfolded."""
        title = "Extra Fields" if name in FIELDS else "Standard Fields"
        section = self.form.get_by_role("button", name=title, exact=True)
        if section.get_attribute("aria-expanded") != "true":
            section.click()
        return self._field(name)

    def fill(self, name: str, value: str | bool) -> None:
        """Type a value, or set a switch."""
        self.shown(name)
        if isinstance(value, bool):
            if self.input(name).is_checked() != value:
                self._field(name).locator(self.switch).click()
            expect(self.input(name)).to_be_checked(checked=value)
        else:
            self._type(name, value)

    def _type(self, name: str, value: str) -> None:
        if is_choice(name):
            self.input(name).click()
            self.page.get_by_role("option", name=value, exact=True).click()
        else:
            self.input(name).fill(value)

    def save(self) -> None:
        """Save the form, and wait until that is done."""
        with self.page.expect_response(lambda got: got.request.method in ("POST", "PATCH")) as answer:
            self.form.get_by_role("button", name="Save").click()
        assert answer.value.ok, answer.value.text()
        self.form.wait_for(state="detached")

    def test_button(self, conn_id: str) -> Locator:
        """Open the page with a saved connection's Test button, and return that."""
        row = self._row(conn_id)
        row.wait_for()
        return row.get_by_label("Test Connection")

    def press(self, button: Locator) -> tuple[bool, str]:
        """Press a Test button; returns whether it succeeded, and what it said."""
        with self.page.expect_response(re.compile("/connections/test")) as answer:
            button.click()
        said: dict[str, Any] = json.loads(answer.value.text())
        return bool(said.get("status") is True), str(said.get("message") or said.get("detail"))

    # --- a task -------------------------------------------------------------------------------------------

    def task_link(self, dag_id: str, run_id: str, task_id: str, name: str) -> str:
        """Open a task's page and return where one of its buttons leads."""
        self.page.goto(f"{self.url}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}/details")
        return self.page.get_by_role("link", name=name).get_attribute("href") or ""


class Ui2(Ui3):
    """The web interface of Airflow 2."""

    shows_placeholders_of_extras = True
    switch = "input[type=checkbox]"

    def log_in(self, password: str = PASSWORD) -> None:
        self.page.goto(f"{self.url}/login/")
        self.page.fill("#username", USER)
        self.page.fill("#password", password)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/home**")

    @property
    def form(self) -> Locator:
        return self.page.locator("#model_form")

    def add(self, conn_id: str, hook_name: str) -> None:
        self.page.goto(f"{self.url}/connection/add")
        self.page.fill("#conn_id", conn_id)
        self.page.locator("#conn_type").select_option(label=hook_name, force=True)
        self.input("region").wait_for()

    def edit(self, conn_id: str) -> None:
        self.page.goto(f"{self.url}/connection/list/")
        row = self.page.get_by_role("row").filter(has_text=conn_id)
        row.locator("a[href*='/connection/edit/']").click()
        expect(self.input("login")).not_to_have_value("")

    def _place(self, name: str) -> str:
        return f"#{f'extra__pai__{name}' if name in FIELDS else name}"

    def _found(self, name: str) -> Locator:
        return self.page.locator(self._place(name))

    def _field(self, name: str) -> Locator:
        return self.form.locator("tr").filter(has=self._found(name))

    def _type(self, name: str, value: str) -> None:
        self.input(name).fill(value)

    def label(self, name: str) -> str:
        return self._field(name).locator("label").inner_text()

    def shown(self, name: str) -> Locator:
        return self._field(name)

    def save(self) -> None:
        self.form.get_by_role("button", name="Save").click()
        self.page.locator(".alert").filter(has_text=re.compile("(Added|Changed) Row")).wait_for()

    def test_button(self, conn_id: str) -> Locator:
        self.edit(conn_id)
        return self.page.locator("#test-connection")

    def task_link(self, dag_id: str, run_id: str, task_id: str, name: str) -> str:
        self.page.goto(f"{self.url}/dags/{dag_id}/grid?dag_run_id={run_id}&task_id={task_id}")
        return self.page.get_by_role("link", name=name).get_attribute("href") or ""
