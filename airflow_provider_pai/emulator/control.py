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
POST   `/_emulator/models`        add a model: what `add_model` takes; answers `{"ModelId": …}`
POST   `/_emulator/versions`      add a version: what `add_model_version` takes; answers
                                  `{"VersionName": …}`
PATCH  `/_emulator/versions`      decide about one, as a person does at PAI's console: what
                                  `approve_model_version` takes
PATCH  `/_emulator/credentials`   `{"accept": [{"access_key_id": …, "access_key_secret": …,
                                  "security_token": …, "expires_at": unix time,
                                  "bearer_token": …}], "revoke": [id], "clock_offset": s}`
====== ========================== ==========================================================

Success is 200 with JSON; a wrong body is 400 `{"error": …}` and changes nothing; an unknown path is 404, and
what a web page of another site sends is 403.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from aiohttp import web

from .account import Account
from .errors import RefusedError
from .faults import Fault, FaultPlan
from .signature import Key, Verifier
from .wire import Wire

PREFIX = "/_emulator/"
_LONGEST_OFFSET = 10 * 365 * 86400.0  # seconds: times beyond a few thousand years cannot be written
T = TypeVar("T")


class Control:
    """Answers the paths below `/_emulator/`."""

    def __init__(self, wire: Wire, verifier: Verifier, faults: FaultPlan) -> None:
        self._wire = wire
        self._verifier = verifier
        self._faults = faults
        self._clock = wire.service.account.clock
        account = wire.service.account
        self._endpoints: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): lambda _: self._faults.clear(),
            ("GET", "quirks"): lambda _: self._wire.service.quirks.as_dict(),
            ("PATCH", "quirks"): self._set_quirks,
            ("GET", "requests"): lambda _: self._requests(),
            ("DELETE", "requests"): lambda _: self._wire.forget_requests(),
            ("POST", "models"): lambda body: {"ModelId": _called(account.add_model, body)},
            ("POST", "versions"): lambda body: {"VersionName": _called(account.add_model_version, body)},
            ("PATCH", "versions"): lambda body: _called(account.approve_model_version, body),
            ("PATCH", "credentials"): self._set_credentials,
        }

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        raw = await request.read()
        endpoint = self._endpoints.get((request.method, request.raw_path[len(PREFIX) :].partition("?")[0]))
        if endpoint is None:
            return web.json_response({"error": "no such endpoint"}, status=404)
        try:
            body = json.loads(raw) if raw else None
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair could not be sent
            return web.json_response(endpoint(body) or {})
        except (AttributeError, LookupError, RecursionError, RefusedError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def _add_faults(self, body: Any) -> None:
        listed = _checked("the body", body, list[dict[str, Any]])
        self._faults.add([_fault(fields, self._wire.service.account) for fields in listed])

    def _set_quirks(self, body: Any) -> dict[str, Any]:
        quirks = self._wire.service.quirks
        wanted = _checked("the body", body, dict[str, Any])
        for target in (replace(quirks), quirks):  # a copy first: what is wrong changes nothing
            for name, value in wanted.items():
                setattr(target, name, value)
        return quirks.as_dict()

    def _requests(self) -> dict[str, Any]:
        recorded = [record.as_dict() for record in self._wire.requests]
        return {
            "counts": dict(self._wire.counts),
            "busiest": dict(self._wire.busiest),
            "requests": recorded,
        }

    def _set_credentials(self, body: Any) -> None:
        wanted = _checked("the body", body, dict[str, Any])
        unknown = wanted.keys() - {"accept", "revoke", "clock_offset"}
        if unknown:
            raise ValueError(f"credentials have no field {min(unknown)!r}")
        accept = _checked("accept", wanted.get("accept", []), list[dict[str, Any]])
        keys = [_made(Key, fields) for fields in accept]
        revoked = _checked("revoke", wanted.get("revoke", []), list[str])
        offset = _checked("clock_offset", wanted.get("clock_offset", self._clock.offset), float)
        if abs(offset) > _LONGEST_OFFSET:
            raise ValueError(f"clock_offset is at most {_LONGEST_OFFSET:.0f} seconds")
        for key in keys:
            self._verifier.accept(key)
        for access_key_id in revoked:
            self._verifier.revoke(access_key_id)
        self._clock.offset = float(offset)


def _fault(fields: dict[str, Any], account: Account) -> Fault:
    fault = _made(Fault, fields)
    if fault.status is not None and not 200 <= fault.status <= 599:
        raise ValueError(f"status is an HTTP status, 200 to 599, not {fault.status}")
    if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", fault.content_type, re.ASCII):
        raise ValueError(f"content_type is one such as text/html, not {fault.content_type!r}")
    if fault.kind == "insert_run":
        _check_arguments(account.add_run, fault.run, "run: ")
    elif fault.kind == "insert_version":
        _check_arguments(account.add_model_version, fault.version, "version: ")
    elif fault.kind == "approve_version":
        _check_arguments(account.approve_model_version, fault.version, "version: ")
    return fault


def _called(function: Callable[..., Any], body: Any) -> Any:
    """Call a method of the account with the fields of a JSON object."""
    arguments = _checked("the body", body, dict[str, Any])
    _check_arguments(function, arguments)
    return function(**arguments)


def _check_arguments(function: Callable[..., Any], fields: dict[str, Any], what: str = "") -> None:
    """Refuse unknown arguments, and those of a wrong type."""
    signature(function).bind(**fields)
    hints = get_type_hints(function)
    for name, value in fields.items():
        if name in hints:
            _checked(f"{what}{name}", value, hints[name])


def _made(kind: Callable[..., T], fields: dict[str, Any]) -> T:
    """Make a dataclass of a JSON object whose fields have the right types."""
    hints = get_type_hints(kind)
    for name, value in fields.items():
        if name in hints:
            _checked(name, value, hints[name])
    return kind(**fields)


def _checked(what: str, value: Any, hint: Any) -> Any:
    if not _fits(value, hint):
        raise ValueError(f"{what} is {json.dumps(value)[:100]}, not {getattr(hint, '__name__', hint)}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value from JSON is one that an annotation allows."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if kind is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # which NaN is not
    return hint is Any or type(value) is (NoneType if hint is None else hint)
