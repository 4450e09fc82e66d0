"""The page "PAI gates" in a real browser, on a real Airflow of each version that has a place for it.

One of them is below a path, and one is read once more by an API server with FAB's users. `make browser` runs
this in the newest Airflow's environment; the other Airflows run from theirs. The newest one's pictures are
left in .airflow/pictures.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
import requests
from browser import Browser, Locator, Ui3, chromium, expect
from outside import CHECKOUT, LocalPai, airflow_environment, local_pai, session, until
from past_verdicts import Past
from playwright.sync_api import ConsoleMessage, Error
from standalone import Airflow, kill_sessions, running

from airflow_provider_pai.api.metrics import log_metric_entries, metric_entry
from demo.standalone import LOOPBACK, PASSWORD, USER, end, free_port

SECONDS = 300
"""How long one Airflow may take to start, or one DAG run."""

pytestmark = pytest.mark.timeout(3 * SECONDS)

NEWEST, WITH_FAB = "3.3.2", "3.2.2"
VERSIONS = (NEWEST, WITH_FAB, "3.1.0")
PATHS = {NEWEST: "/data/airflow"}
PICTURES = CHECKOUT / ".airflow" / "pictures"
SECRET = "a secret of this test alone, by which it makes a token that has expired"

DAG_ID, TASK_ID, APPROVAL = "release", "gate", "approval"
GATE = f"{DAG_ID} \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} {TASK_ID}"
DAGS = """
import pendulum
from airflow.sdk import DAG

from airflow_provider_pai.operators import PaiApprovalOperator, PaiRunGateOperator

START = pendulum.datetime(2025, 1, 1, tz="UTC")


def gate(model):
    return PaiRunGateOperator(
        task_id="gate",
        labels=f"model:{model}",
        baseline_labels="champion:true",
        metrics={
            "accuracy": [">= 0.85", ">= baseline + 0.005"],
            "validation_accuracy": "max >= 0.85",
        },
    )


with DAG("release", schedule=None, start_date=START):
    gate("{{ dag_run.conf['judge'] }}")

with DAG("approval", schedule=None, start_date=START):
    PaiApprovalOperator(
        task_id="ask", verdict=gate("good").output, body="Look at it before it goes into service."
    )
"""
RUNS = {"champion": ("resnet-50", 0.93), "good": ("vit-small", 0.95), "weak": ("mobilenet-v3", 0.87)}
"""The label ``model`` of each run, its name, and its accuracy."""
HOSTILE = "<img src=x onerror=hacked=1><b>mobilenet</b>"
"""What the weak run is called in older verdicts. PAI refuses such a name; another task may hand it on."""
STEPS = 300
PASSING, FAILING = 60, 3
"""How many daily verdicts there are before that of today: first such that passed, then such that did not."""
VERDICTS = PASSING + FAILING + 2
WATCH = """
const ask = window.fetch;
let open = 0;
window.asked = [];
window.mostAtOnce = 0;
window.fetch = async (...given) => {
    window.asked.push(String(given[0]));
    window.mostAtOnce = Math.max(window.mostAtOnce, ++open);
    try { return await ask(...given); } finally { open -= 1; }
};
new MutationObserver(() => { window.readyAfter ??= performance.now(); })
    .observe(document, { subtree: true, attributeFilter: ["data-ready"] });
"""


def learn(pai: LocalPai) -> dict[str, str]:
    """Leave runs in the local PAI whose validation accuracy has many steps, and return their ids."""
    experiment = pai.experiment("digits")
    made = {}
    for model, (name, accuracy) in RUNS.items():
        labels = {"model": model, **({"champion": "true"} if model == "champion" else {})}
        made[model] = pai.run(experiment, name, **labels)
        pai.measure(made[model], accuracy=accuracy)
        entries = [
            metric_entry("validation_accuracy", accuracy - 0.4 / (1 + step / 20) + step % 7 / 200, step)
            for step in range(STEPS)
        ]
        for first in range(0, STEPS, 100):
            pai.client.run(log_metric_entries(made[model], entries[first : first + 100]))
    return made


class World:
    """One Airflow with the verdicts of a gate, whose newest did not pass, and a browser that is logged in."""

    def __init__(self, version: str, airflow: Airflow, pai: LocalPai) -> None:
        self.version = version
        self.airflow = airflow
        self.runs = learn(pai)
        airflow.call("POST", "/api/v2/connections", pai.connection("pai_default"))
        until(lambda: airflow.has_dags(DAG_ID, APPROVAL), "the DAGs", SECONDS)
        self.passed, self.failed = (self._decide(model) for model in ("good", "weak"))
        self.now = datetime.now(timezone.utc)
        good, weak = (Past(airflow.home, DAG_ID, run_id) for run_id in (self.passed, self.failed))
        for day in range(1, FAILING + 1):
            weak.copy(self.run_of(day), self._date(day), self._as_of(day))
        for day in range(FAILING + 1, FAILING + PASSING + 1):
            good.copy(self.run_of(day), self._date(day), self._as_of(day))
        good.move(self._date(FAILING + PASSING + 1))

    def _decide(self, model: str) -> str:
        run_id = self.airflow.start(DAG_ID, judge=model)
        state = until(lambda: self.airflow.state(DAG_ID, run_id), "the end of the gate's DAG run", SECONDS)
        assert state == "success", self.airflow.states(DAG_ID, run_id)
        return run_id

    def _as_of(self, day: int) -> Any:
        def change(key: str, value: Any) -> Any:
            for check in value["checks"] if key == "return_value" else ():
                check["value"] -= day * 7 % 5 / 1000
            text = json.dumps(value)
            return json.loads(text.replace(RUNS["weak"][0], HOSTILE) if day == FAILING else text)

        return change

    def _date(self, day: int) -> str:
        return f"{self.day(day)} 02:30:00.000000"

    def day(self, day: int) -> str:
        """Return the date of so many days ago."""
        return (self.now - timedelta(days=day)).date().isoformat()

    def run_of(self, day: int) -> str:
        """Return the id of the DAG run of so many days ago."""
        return f"scheduled__{self.day(day)}T02:30:00+00:00"

    def page(self, view: str = "", *parts: object) -> str:
        """Return an address of the page."""
        place = "/".join(quote(str(part), safe="") for part in parts)
        return f"{self.airflow.url}/pai/gates/{f'?{view}={place}' if view else ''}"

    def gate(self) -> str:
        """Return the address of the gate over time."""
        return self.page("gate", DAG_ID, TASK_ID)

    def verdict(self, run_id: str) -> str:
        """Return the address of a verdict."""
        return self.page("verdict", DAG_ID, run_id, TASK_ID, -1)


@contextmanager
def world_of(version: str, home: Path) -> Iterator[World]:
    """Run an Airflow of this version, and let its gate decide."""
    (home / "dags").mkdir()
    (home / "dags" / "gates.py").write_text(DAGS)
    programs = CHECKOUT / ".venvs" / version / "bin"
    mark = uuid.uuid4().hex
    path = PATHS.get(version, "")
    try:
        with (
            local_pai(mark) as pai,
            running(
                home, mark, {"API_AUTH__JWT_SECRET": SECRET}, programs, seconds=SECONDS, path=path
            ) as airflow,
        ):
            yield World(version, airflow, pai)
    finally:
        kill_sessions(mark)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", params=VERSIONS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(request.param, tmp_path_factory.mktemp("airflow")) as world:
        yield world


class Reader:
    """A person with a browser: what the page showed, and what the browser complained about."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.ui = Ui3(browser, url)
        self.page = self.ui.page
        self.page.context.add_init_script(WATCH)
        self.page.on("console", self._note)
        self.page.on("pageerror", self._note_error)
        self.errors: list[str] = []

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "/pai/gates/" in message.location.get("url", "") + self.page.url:
            self.errors.append(message.text)

    def _note_error(self, error: Error) -> None:
        if "/pai/gates/" in f"{error.stack} {self.page.url}":  # and no error of Airflow's own pages
            self.errors.append(str(error))

    def read(self, address: str) -> Locator:
        """Open an address of the page, and return its main part when all of it is there."""
        self.page.goto(address)
        return self.shown()

    def shown(self) -> Locator:
        """Return the page's main part when all of it is there."""
        main = self.page.locator("main[data-ready]")
        main.wait_for()
        return main


@pytest.fixture(scope="module")
def logged_in(world: World, browser: Browser) -> Iterator[Reader]:
    reader = Reader(browser, world.airflow.url)
    reader.ui.log_in()
    yield reader
    reader.page.context.close()


@pytest.fixture
def reader(logged_in: Reader) -> Iterator[Reader]:
    """The administrator, whose browser has nothing to complain about."""
    logged_in.errors.clear()
    yield logged_in
    assert logged_in.errors == []


def test_the_button_of_a_gate_that_did_not_pass_says_what_failed_since_when_and_against_what(
    world: World, reader: Reader
) -> None:
    href = reader.ui.task_link(DAG_ID, world.failed, TASK_ID, "Verdict")
    assert href == world.verdict(world.failed)
    main = reader.read(href)
    expect(main.get_by_role("heading", level=1)).to_have_text(f"{GATE} ✗ did not pass")
    weak, champion = (f"{RUNS[model][0]} ({world.runs[model]})" for model in ("weak", "champion"))
    expect(main.locator(".findings li")).to_have_text(
        "accuracy 0.87 is below 0.935 (baseline 0.93 + 0.005) by 0.065. "
        f"It has failed since {world.day(FAILING)} 02:30 UTC ({FAILING + 1} DAG runs). "
        f"Judged run: {weak}, compared with the baseline {champion}."
    )
    console = main.locator(".findings").get_by_role("link", name=weak).get_attribute("href") or ""
    assert console.startswith("https://pai.console.aliyun.com/")
    checks = main.get_by_role("table", name="Checks").locator("tbody tr")
    expect(checks).to_have_count(3)
    expect(checks.first).to_contain_text("✗ did not pass")
    expect(checks.filter(has_text="✓ passed")).to_have_count(2)


def test_the_history_by_step_has_a_chart_with_the_limit_and_a_table(world: World, reader: Reader) -> None:
    main = reader.read(world.verdict(world.failed))
    section = main.locator("section").filter(
        has=reader.page.get_by_role("heading", name="validation_accuracy")
    )
    expect(section.locator(".legendtext")).to_have_text(
        [RUNS["weak"][0], f"baseline {RUNS['champion'][0]}", "limit max >= 0.85"]
    )
    expect(section.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(3)
    rows = section.locator("tbody tr")
    expect(rows.first).to_contain_text("0.47")
    expect(section).to_contain_text(re.compile(rf"\d+ of {STEPS} steps are kept"))
    highest = max(0.87 - 0.4 / (1 + step / 20) + step % 7 / 200 for step in range(STEPS))
    expect(rows.filter(has_text=f"{highest:.6g}").first).to_be_attached()


def test_a_gate_that_passed_says_by_how_much(world: World, reader: Reader) -> None:
    main = reader.read(reader.ui.task_link(DAG_ID, world.passed, TASK_ID, "Verdict"))
    expect(main.get_by_role("heading", level=1)).to_have_text(f"{GATE} ✓ passed")
    expect(main.locator(".findings li")).to_have_count(3)
    expect(main.locator(".findings")).to_contain_text(
        "accuracy 0.95 is above 0.935 (baseline 0.93 + 0.005) by 0.015."
    )
    expect(main.locator(".findings")).not_to_contain_text("failed since")


def test_the_gate_over_time_shows_fifty_verdicts_and_older_ones_on_demand_each_read_once(
    world: World, reader: Reader
) -> None:
    main = reader.read(world.gate())
    seconds = reader.page.evaluate("readyAfter") / 1000
    print(f"\n{world.version}: the newest 50 verdicts are there {seconds:.1f} s after the page was asked for")
    expect(main).to_contain_text(f"{50 - FAILING - 1} of the newest 50 of {VERDICTS} verdicts passed.")
    assert len(reader.page.evaluate("asked")) == 51
    main.get_by_role("button", name="Show 50 older verdicts").click()
    expect(main).to_contain_text(f"{PASSING + 1} of {VERDICTS} verdicts passed.")
    asked = reader.page.evaluate("asked")
    assert len(asked) == len(set(asked)) == VERDICTS + 1
    assert reader.page.evaluate("mostAtOnce") == 6
    accuracy = main.locator("section").first
    expect(accuracy.locator("tbody tr")).to_have_count(2 * VERDICTS)
    expect(accuracy.locator("tbody tr").filter(has_text="✗ did not pass")).to_have_count(FAILING + 1)
    expect(accuracy.locator(".legendtext")).to_have_text(
        ["accuracy", "limit >= 0.85", "limit >= baseline + 0.005", "baseline accuracy"]
    )
    points = accuracy.locator(".scatterlayer .trace").first.locator("path.point")
    expect(points).to_have_count(VERDICTS)
    assert len(set(points.evaluate_all("all => all.map(one => one.getAttribute('d'))"))) == 2  # ● and ✗
    main.get_by_role("link", name=world.day(1)).first.click()
    expect(reader.shown().get_by_role("heading", level=1)).to_contain_text("✗ did not pass")
    assert reader.page.url == world.verdict(world.run_of(1))


def test_a_name_that_is_html_stays_text(world: World, reader: Reader) -> None:
    main = reader.read(world.verdict(world.run_of(FAILING)))
    expect(main.locator(".findings")).to_contain_text(HOSTILE)
    expect(main.locator(".legendtext").filter(has_text=HOSTILE)).to_have_count(1)
    expect(main.locator("img, b")).to_have_count(0)
    expect(reader.read(world.gate())).to_contain_text(HOSTILE)
    assert reader.page.evaluate("typeof hacked") == "undefined"


def test_the_menu_leads_to_all_gates_and_a_link_out_of_the_frame(world: World, reader: Reader) -> None:
    reader.page.goto(world.airflow.url)
    reader.page.get_by_role("button", name="Browse").click()
    reader.page.get_by_role("menuitem", name="PAI gates").click()
    frame = reader.page.frame_locator("iframe")
    row = frame.get_by_role("row").filter(has_text=GATE)
    expect(row).to_contain_text("✗ did not pass")
    expect(row).to_contain_text(RUNS["weak"][0])
    row.get_by_role("link", name="did not pass").click()
    expect(reader.shown().locator(".findings")).to_contain_text("is below")
    assert reader.page.url == world.verdict(world.failed)


def test_the_colours_are_those_of_airflow_and_follow_live(world: World, reader: Reader) -> None:
    reader.read(world.verdict(world.failed))
    root = reader.page.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    reader.page.emulate_media(color_scheme="dark")
    expect(root).to_have_attribute("data-theme", "dark")
    other = reader.page.context.new_page()
    other.goto(world.page())
    other.evaluate("localStorage.theme = 'light'")
    expect(root).to_have_attribute("data-theme", "light")
    other.evaluate("localStorage.removeItem('theme')")
    expect(root).to_have_attribute("data-theme", "dark")
    expect(reader.page.locator(".legendtext").first).to_have_css("fill", "rgb(236, 236, 240)")
    reader.page.emulate_media(color_scheme="light")
    other.close()


def test_a_keyboard_and_a_narrow_window_are_enough(world: World, reader: Reader) -> None:
    wide = reader.page.viewport_size
    reader.page.set_viewport_size({"width": 375, "height": 800})
    for address in (world.gate(), world.verdict(world.failed), world.page()):
        reader.read(address)
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= 375
    for _ in range(9):
        reader.page.keyboard.press("Tab")
        focused = reader.page.locator("a:focus")
        if focused.count() and "did not pass" in focused.inner_text():
            break
    reader.page.keyboard.press("Enter")
    expect(reader.shown().locator(".findings")).to_contain_text("is below")
    reader.page.set_viewport_size(wide)


def test_without_the_extra_there_are_tables_and_the_extras_name(world: World, reader: Reader) -> None:
    reader.page.route("**/plotly.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    main = reader.read(world.gate())
    expect(main.locator("figure").first).to_contain_text("pip install 'airflow-provider-pai[ui]'")
    expect(main.locator("section").first.locator("tbody tr").first).to_contain_text("0.87")
    reader.page.unroute("**/plotly.js")


def test_the_policy_allows_only_the_page_itself_and_the_server_answers_with_no_data(world: World) -> None:
    answers = [session().get(world.page() + name, timeout=60) for name in ("", "page.js", "plotly.js")]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy
    assert "plotly.js v" in answers[2].text[:200]
    assert session().get(world.page() + "nothing", timeout=60).status_code == 404


def test_an_expired_session_leads_to_the_login_and_back(world: World, browser: Browser) -> None:
    reader = Reader(browser, world.airflow.url)
    reader.ui.log_in()
    key = "token" if reader.page.evaluate("localStorage.getItem('token')") else None
    (cookie,) = [one for one in reader.page.context.cookies() if one["name"] == "_token"] or [None]
    token = reader.page.evaluate("localStorage.getItem('token')") if key else cookie["value"]
    claims = jwt.decode(token, options={"verify_signature": False})
    ago = {name: claims[name] - 10**6 for name in ("iat", "nbf", "exp")}
    expired = jwt.PyJWS().encode(json.dumps({**claims, **ago}).encode(), SECRET, algorithm="HS512")
    if key:
        reader.page.evaluate("token => { localStorage.token = token; }", expired)
    else:
        reader.page.context.add_cookies([{**cookie, "value": expired}])
    reader.page.goto(world.verdict(world.failed))
    reader.page.fill("input[name=username]", USER)
    reader.page.fill("input[name=password]", PASSWORD)
    reader.page.keyboard.press("Enter")
    expect(reader.shown().locator(".findings")).to_contain_text("is below")
    assert reader.page.url == world.verdict(world.failed)
    reader.page.context.close()


FAB_USERS = {
    "reader": "Viewer",  # whom FAB does not let see plugins, and so no entry in the menu
    "stranger": "Public",
}


@pytest.fixture(scope="module")
def fab(world: World) -> Iterator[str]:
    """The address of an API server with FAB's users, over the same metadata database."""
    if world.version != WITH_FAB:
        pytest.skip("one Airflow is tried with FAB")
    mark, port = uuid.uuid4().hex, free_port()
    url = f"http://{LOOPBACK}:{port}"
    settings = {
        "API__BASE_URL": url,
        "API_AUTH__JWT_SECRET": SECRET,
        "CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "FAB__CONFIG_FILE": str(world.airflow.home / "fab.py"),
    }
    (world.airflow.home / "fab.py").write_text("WTF_CSRF_ENABLED = True\nRATELIMIT_ENABLED = False\n")
    programs = CHECKOUT / ".venvs" / "fab" / "bin"
    environment = airflow_environment(world.airflow.home, mark, settings, programs)
    users = [
        f"users create -u {name} -p {PASSWORD} -r {role} -f A -l B -e {name}@example.org"
        for name, role in FAB_USERS.items()
    ]
    try:
        command = [str(programs / "python"), "-m", "demo.commands", "fab-db migrate", *users]
        subprocess.run(command, env=environment, cwd=CHECKOUT, check=True, timeout=SECONDS)
        with (world.airflow.home / "fab.log").open("w") as log:
            server = subprocess.Popen(
                [str(programs / "airflow"), "api-server", "--host", LOOPBACK, "--port", str(port)],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until(lambda: answers(f"{url}/api/v2/monitor/health"), "an API server with FAB", SECONDS)
        yield url
        end(server)
    finally:
        kill_sessions(mark)


def answers(url: str) -> bool:
    """Tell whether somebody answers at an address."""
    with suppress(requests.RequestException):
        return session().get(url, timeout=30).ok
    return False


@pytest.mark.parametrize("user", FAB_USERS)
def test_with_fab_a_user_sees_what_the_role_may_read(
    world: World, browser: Browser, fab: str, user: str
) -> None:
    reader = Reader(browser, fab)
    reader.page.goto(world.verdict(world.failed).replace(world.airflow.url, fab))
    reader.page.fill("input[name=username]", user)
    reader.page.fill("input[name=password]", PASSWORD)
    reader.errors.clear()  # there was nobody to log in yet
    reader.page.keyboard.press("Enter")
    main = reader.shown()
    if user == "reader":
        expect(main.locator(".findings")).to_contain_text("accuracy 0.87 is below 0.935")
        main.locator(".js-plotly-plot .legendtext").first.wait_for()  # by the lowest plotly, which is here
        expect(reader.read(f"{fab}/pai/gates/")).to_contain_text(GATE)
        assert reader.errors == []
    else:
        expect(main.get_by_role("alert")).to_contain_text("You may not read this")
        expect(main).not_to_contain_text("0.87")
    reader.page.context.close()


def test_a_person_sees_the_verdict_and_approves_the_run(world: World, reader: Reader) -> None:
    airflow, page, run_id = world.airflow, reader.page, world.airflow.start(APPROVAL)
    airflow.wait_until_asked(APPROVAL, run_id, "ask")
    page.set_viewport_size({"width": 1200, "height": 690})
    page.goto(f"{airflow.url}/dags/{APPROVAL}/runs/{run_id}/tasks/ask/required_actions")
    expect(page.get_by_text("Approve vit-small?")).to_be_visible()
    expect(page.get_by_text("The gate passed: vit-small")).to_be_visible()
    row = page.locator("table tr").filter(has_text=">= baseline + 0.005").locator("td")
    passed, champion = world.runs["good"], world.runs["champion"]
    expect(row).to_have_text(
        ["accuracy", ">= baseline + 0.005", "0.95", "0.935", f"0.93 of {champion}", "pass"]
    )
    if world.version == NEWEST:
        page.screenshot(path=PICTURES / "approval.png")
    page.get_by_role("button", name=f"Approve {passed} (verdict ").click()
    state = until(lambda: airflow.state(APPROVAL, run_id), "the end of the approval", SECONDS)
    assert state == "success", airflow.states(APPROVAL, run_id)
    assert "approved in Airflow by" in airflow.xcom(APPROVAL, run_id, "ask")["reason"]


def test_the_pictures_of_the_docs(world: World, reader: Reader) -> None:
    if world.version != NEWEST:
        pytest.skip("the docs show the newest Airflow")
    page = reader.page
    for name, address, theme, height in (
        ("gate-verdict", world.verdict(world.failed), "light", 1440),
        ("gate-verdict-dark", world.verdict(world.failed), "dark", 1440),
        ("gate-over-time", world.gate(), "light", 1240),
    ):
        page.set_viewport_size({"width": 1200, "height": height})
        page.emulate_media(color_scheme=theme)
        reader.read(address)
        page.locator(".js-plotly-plot .legendtext").first.wait_for()
        page.screenshot(path=PICTURES / f"{name}.png")
    page.emulate_media(color_scheme="light")
