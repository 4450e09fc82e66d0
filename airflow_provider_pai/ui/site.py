"""Static files for the API server: the page's own, and plotly.js where the extra ``ui`` is installed."""

from __future__ import annotations

import functools
import re
from base64 import b64encode
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

__all__ = ["site"]

PAGE = Path(__file__).with_name("page")
SHEET = re.compile(r"\.textContent=(['\"`])(\.maplibregl[^\\]*?)\1")
MAY = "default-src 'none'; script-src 'self'; style-src 'self'{}; img-src 'self' data:; connect-src 'self'"
MAY_NOT = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


def plotly() -> Path | None:
    """Return the file of plotly.js that the Python package plotly brings."""
    spec = find_spec("plotly")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    return next(
        (file for folder in folders if (file := folder / "package_data" / "plotly.min.js").exists()), None
    )


def policy(library: Path | None) -> str:
    """Return the Content-Security-Policy: the page may use its own files and Airflow's API, and no more.

    plotly.js adds the style sheet of its maps to each page, and before 4 a picture of its own (``data:``),
    which asks for nothing. The policy lets them be, because a browser reports what it blocks as an error.
    """
    sheets = SHEET.findall(library.read_text("utf-8")) if library else []
    hashes = [b64encode(sha256(sheet.encode()).digest()).decode() for _, sheet in sheets]
    may = MAY.format("".join(map(" 'sha256-{}'".format, hashes)))
    return f"{may}; {MAY_NOT}"


@functools.cache
def site() -> Any:
    """Return the application (ASGI) that serves the files, each with the headers of the page."""
    library = plotly()
    added = {
        "Content-Security-Policy": policy(library),
        "Cache-Control": "no-cache",  # the browser asks each time, and is sent only what has changed
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in added.items()]

    def charts(request: Any) -> Response:
        if library is None:  # an empty script: then the page shows its tables alone
            return Response(media_type="text/javascript")
        folder = StaticFiles(directory=library.parent)  # answers 304 where the browser has the file
        return folder.file_response(library, library.stat(), request.scope)

    files = Starlette(
        routes=[Route("/plotly.js", charts), Mount("/", StaticFiles(directory=PAGE, html=True))]
    )

    async def with_headers(scope: Any, receive: Any, send: Any) -> None:
        async def send_them(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await files(scope, receive, send_them)

    return with_headers
