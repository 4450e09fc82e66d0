# ruff: noqa: F401 - fixtures come by import
"""The plugin is there where Airflow has a place for it, and its files are served with a strict policy."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db

import airflow_provider_pai
from airflow_provider_pai.ui.plugin import PLUGIN, page

PAGE = Path(airflow_provider_pai.__file__).parent / "ui" / "page"
FILES = sorted(PAGE.iterdir())
has_pages = pytest.mark.skipif(VERSION < (3, 1), reason="a plugin may add pages from Airflow 3.1 on")


def get(path: str) -> tuple[int, dict[str, str], str]:
    """What the page's application answers: status, headers and text."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # the client stays, and says no more
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    asyncio.run(asyncio.wait_for(page(scope, receive, send), 60))
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers, body.decode()


def test_before_airflow_3_1_there_is_no_plugin_and_after_it_has_one_entry_in_the_menu() -> None:
    if VERSION < (3, 1):
        assert PLUGIN is None
        return
    (view,), (app,) = PLUGIN.external_views, PLUGIN.fastapi_apps
    assert view["href"] == app["url_prefix"].lstrip("/") + "/"


def test_a_process_of_airflow_that_loads_the_plugin_does_not_load_what_serves_it() -> None:
    code = (
        "import sys, typing, airflow.plugins_manager; before = set(sys.modules); "
        "import airflow_provider_pai.ui.plugin; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    ours = {name for name in done.stdout.split() if not name.startswith("airflow.")}
    assert ours - {"airflow_provider_pai"} == {"airflow_provider_pai.ui", "airflow_provider_pai.ui.plugin"}


@has_pages
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_served_with_the_policy(file: Path) -> None:
    status, headers, text = get(f"/{file.name}")
    assert (status, text) == (200, file.read_text("utf-8"))
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert not re.search(r"unsafe|http|\*", policy)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"


@has_pages
def test_the_address_of_the_folder_is_the_page_and_nothing_else_is_served() -> None:
    assert get("/")[2] == (PAGE / "index.html").read_text("utf-8")
    for path in ("/nothing", "/../plugin.py", "/%2e%2e/site.py"):
        assert get(path)[0] == 404


@has_pages
def test_plotly_is_served_where_it_is_installed_and_else_an_empty_script() -> None:
    status, headers, text = get("/plotly.js")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/javascript")
    try:
        import plotly
    except ImportError:
        assert text == ""
    else:
        assert plotly.__name__ in text[:200]
        assert headers["content-security-policy"].count("'sha256-") == 1  # of the style sheet that it brings


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_parses_html_or_knows_another_host(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    hosts = set(re.findall(r"https?://[\w.-]+", text))
    assert hosts <= {"http://www.w3.org"}  # the name of SVG
    assert max(map(len, text.splitlines())) <= 130  # nothing is minified
