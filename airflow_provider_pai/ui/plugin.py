"""The plugin that the entry point ``airflow.plugins`` names; every process of Airflow loads it."""

from __future__ import annotations

from typing import Any

from airflow_provider_pai._compat import has_pages
from airflow_provider_pai.ui import GATES_PAGE

__all__ = ["PLUGIN"]

NAME = "PAI gates"


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Serve the page (ASGI). Only the API server comes here, so only it loads what serving needs."""
    from airflow_provider_pai.ui.site import site

    await site()(scope, receive, send)


def plugin() -> Any:
    """Return the plugin's class, or ``None`` where Airflow has no place for a page."""
    if not has_pages():
        return None
    from airflow.plugins_manager import AirflowPlugin

    class PaiGatesPlugin(AirflowPlugin):
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

    return PaiGatesPlugin


PLUGIN = plugin()
