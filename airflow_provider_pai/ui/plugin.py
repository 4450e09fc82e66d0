"""The plugin that the entry point ``airflow.plugins`` names; every process of Airflow loads it."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_pai.ui import GATES_PAGE

__all__ = ["HAS_PAGE", "PLUGIN"]

NAME = "PAI gates"


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Serve the page (ASGI). Only the API server comes here, so only it loads what serving needs."""
    from airflow_provider_pai.ui.site import site

    await site()(scope, receive, send)


class PaiGatesPlugin(AirflowPlugin):
    """Add the page to Airflow's menu."""

    name = "pai_gates"
    fastapi_apps = [{"app": page, "url_prefix": f"/{GATES_PAGE}", "name": NAME}]  # noqa: RUF012
    external_views = [  # noqa: RUF012 - Airflow's own way
        {
            "name": NAME,
            "href": f"{GATES_PAGE}/",  # without a slash before it: Airflow may be below a path
            "url_route": "pai-gates",
            "destination": "nav",
            "category": "browse",
        }
    ]


# Found out here, and not in _compat.py, which loads what tasks need.
HAS_PAGE = hasattr(AirflowPlugin, "external_views")
"""Whether this Airflow has a place for the page: from 3.1 on."""
PLUGIN = PaiGatesPlugin if HAS_PAGE else None
