"""The emulator's own endpoints, for tests in another process. They need no signature, since the server
listens on loopback only.

====== ========================== ==========================================================
method path                       meaning
====== ========================== ==========================================================
POST   `/_emulator/faults`        add faults: a JSON list of `Fault` fields
DELETE `/_emulator/faults`        remove all faults
GET    `/_emulator/quirks`        the current quirks
PATCH  `/_emulator/quirks`        set some: `{"page_token": "index"}`; answers with all
GET    `/_emulator/requests`      `{"counts": {action: n}, "busiest": {action: the most in any
                                  3 seconds}, "requests": [the last 1000]}`
DELETE `/_emulator/requests`      clear the record of requests
PATCH  `/_emulator/credentials`   `{"accept": [{"access_key_id": …, "access_key_secret": …,
                                  "security_token": …, "expires_at": unix time,
                                  "bearer_token": …}], "revoke": [id], "clock_offset": s}`
====== ========================== ==========================================================

Success is 200 with JSON; a wrong body is 400 `{"error": …}`, an unknown path 404.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .clock import Clock
from .faults import Fault, FaultPlan
from .signature import Key, Verifier
from .wire import Wire

PREFIX = "/_emulator/"


class Control:
    """Answers the paths below `/_emulator/`."""

    def __init__(self, wire: Wire, verifier: Verifier, faults: FaultPlan, clock: Clock) -> None:
        self._wire = wire
        self._verifier = verifier
        self._faults = faults
        self._clock = clock
        self._endpoints: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): lambda _: self._faults.clear(),
            ("GET", "quirks"): lambda _: self._wire.service.quirks.as_dict(),
            ("PATCH", "quirks"): self._set_quirks,
            ("GET", "requests"): lambda _: self._requests(),
            ("DELETE", "requests"): lambda _: self._wire.forget_requests(),
            ("PATCH", "credentials"): self._set_credentials,
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        raw = await request.read()
        endpoint = self._endpoints.get((request.method, request.raw_path[len(PREFIX) :].partition("?")[0]))
        if endpoint is None:
            return web.json_response({"error": "no such endpoint"}, status=404)
        try:
            return web.json_response(endpoint(json.loads(raw) if raw else None) or {})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def _add_faults(self, body: list[dict[str, Any]]) -> None:
        self._faults.add([Fault(**fields) for fields in body])

    def _set_quirks(self, body: dict[str, Any]) -> dict[str, Any]:
        quirks = self._wire.service.quirks
        for name, value in body.items():
            setattr(quirks, name, value)
        return quirks.as_dict()

    def _requests(self) -> dict[str, Any]:
        recorded = [record.as_dict() for record in self._wire.requests]
        return {
            "counts": dict(self._wire.counts),
            "busiest": dict(self._wire.busiest),
            "requests": recorded,
        }

    def _set_credentials(self, body: dict[str, Any]) -> None:
        for fields in body.get("accept", []):
            self._verifier.accept(Key(**fields))
        for access_key_id in body.get("revoke", []):
            self._verifier.revoke(access_key_id)
        self._clock.offset = float(body.get("clock_offset", self._clock.offset))
