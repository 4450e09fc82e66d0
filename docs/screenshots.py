"""Take the README's pictures anew: `make screenshots`. Needs Chromium, playwright and Pillow; see --help."""

from __future__ import annotations

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")  # root's Chromium has no sandbox
RUN = "first-look"  # a DAG run's id; the one that Airflow makes up is long
RUN_SECONDS = 600


@contextmanager
def web_interface() -> Iterator[str]:
    """Run `make ui`'s program; yields its address."""
    command = [sys.executable, "-u", "-m", "demo.ui", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=IMAGES.parent.parent)
    try:
        lines = iter(process.stdout or ())
        found = next(filter(None, (re.search(r"http://\S+", line) for line in lines)), None)
        if found is None:
            raise SystemExit("The web interface did not start.")
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()  # reads on, so that it can say its last words


def save(page: Page, name: str, part: str = "body") -> None:
    """Save a part of the page as a PNG of few colours, which these pages do not miss."""
    page.wait_for_timeout(2500)  # animations, and the graph's layout
    picture = Image.open(io.BytesIO(page.locator(part).screenshot())).convert("RGB")
    path = IMAGES / f"{name}.png"
    picture.quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def run_dag(page: Page, url: str, dag_id: str) -> None:
    """Run a DAG to its success, once."""
    runs = f"{url}/api/v2/dags/{dag_id}/dagRuns"
    if not page.request.get(f"{runs}/{RUN}").ok:
        page.request.post(runs, data={"dag_run_id": RUN, "logical_date": None}, fail_on_status_code=True)
    deadline = time.monotonic() + RUN_SECONDS
    state = ""
    while state not in ("success", "failed") and time.monotonic() < deadline:
        page.wait_for_timeout(2000)
        state = page.request.get(f"{runs}/{RUN}", fail_on_status_code=True).json()["state"]
    if state != "success":
        raise SystemExit(f"The run of {dag_id} is {state}, not a success; it had {RUN_SECONDS} s.")


def take(page: Page, url: str) -> None:
    """Log in, run the examples, and visit what is worth seeing."""
    page.goto(url)
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", "admin")
    page.keyboard.press("Enter")
    page.get_by_text("Dags", exact=True).first.wait_for()

    for dag_id in ("pai_list_runs", "pai_train_and_evaluate"):
        run_dag(page, url, dag_id)

    page.set_viewport_size({"width": 1400, "height": 640})
    page.goto(f"{url}/dags/pai_list_runs/runs/{RUN}/tasks/list_evaluations/details")
    page.get_by_role("link", name="PAI console").wait_for()
    save(page, "task-link")

    page.goto(f"{url}/dags/pai_train_and_evaluate/runs/{RUN}")
    page.get_by_label("Show Graph").click()
    page.get_by_label("Collapse Details Panel").click()
    page.get_by_text("train [3]").wait_for()
    page.add_style_tag(content=".react-flow__minimap { display: none }")  # it lies over a task
    page.get_by_label("Fit View").click()
    save(page, "graph")

    page.set_viewport_size({"width": 1400, "height": 1400})
    page.goto(f"{url}/connections")
    page.get_by_label("Edit Connection").click()
    page.locator("input[name=login]").wait_for()
    save(page, "connection", "[role=dialog]")
    page.get_by_text("Extra Fields", exact=True).click()
    save(page, "connection-extras", "[role=dialog]")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a `make ui` that runs already (default: start one)")
    parser.add_argument("--chromium", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    options = parser.parse_args()
    if options.chromium is None:
        raise SystemExit("No Chromium is on the PATH; install one, or name it with --chromium.")

    def drive(url: str) -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=options.chromium, args=list(QUIET))
            page = browser.new_context(device_scale_factor=2, locale="en", timezone_id="UTC").new_page()
            take(page, url)
            browser.close()

    if options.url:
        drive(options.url)
    else:
        with web_interface() as url:
            drive(url)


if __name__ == "__main__":
    main()
