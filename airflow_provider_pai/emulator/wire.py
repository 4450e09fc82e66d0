"""Handle one HTTP request: record it, apply faults, verify the signature, carry it out, answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

from . import experiments, registry, runs, versions  # noqa: F401  each registers its operations
from .errors import RefusedError
from .faults import INSTEAD, LONGEST, Fault, FaultPlan, Quirks
from .parameters import Query
from .routes import Call, Service, perform, read_query, route
from .signature import Arrived, Verifier, lower_headers

KEPT = 1000  # recorded requests
QUOTA_SECONDS = 3.0  # PAI counts requests over this time


@dataclass
class RecordedRequest:
    """A request that arrived. `status` is None while it is pending, and if no answer was sent."""

    action: str
    method: str
    path: str
    query: dict[str, str]
    time: float
    access_key_id: str | None
    client_port: int
    status: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return asdict(self)


@dataclass
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Wire:
    """Answers PAI's API for one account."""

    def __init__(self, service: Service, verifier: Verifier, faults: FaultPlan) -> None:
        self.service = service
        self.requests: deque[RecordedRequest] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()
        self.busiest: Counter[str] = Counter()
        self._lately: defaultdict[str, deque[float]] = defaultdict(deque)
        self.before_request: Callable[[str, int], object] | None = None
        self.broken: RefusedError | None = None
        """What every request is refused with, once a test's own callback has failed."""
        self._verifier = verifier
        self._faults = faults

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        arrived = Arrived(request.method, request.raw_path, lower_headers(request.raw_headers), body)
        routed = route(arrived.method, arrived.raw_path)
        action = routed[0] if routed else "Unknown"
        record = self._record(request, arrived, action)
        if self.before_request is not None:
            # In a thread, because it may call this server, as a test does.
            await asyncio.to_thread(self.before_request, action, self.counts[action])
        changes, fault = self._faults.due(action) if self.broken is None else ([], None)
        request_id = str(uuid.uuid4()).upper()
        call = Call(action, routed[1], Query(record.query), body, request_id) if routed else None
        failed = self._make(changes)
        reply = self._reply(arrived, call, request_id, fault, failed)
        reply.headers |= {
            "x-acs-request-id": request_id,
            "Date": formatdate(self.service.account.clock.now(), usegmt=True),
        }
        return await _deliver(request, reply, record, fault)

    def forget_requests(self) -> None:
        """Clear the record."""
        self.requests.clear()
        self.counts.clear()
        self.busiest.clear()
        self._lately.clear()

    def _record(self, request: web.BaseRequest, arrived: Arrived, action: str) -> RecordedRequest:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        record = RecordedRequest(
            action=action,
            method=arrived.method,
            path=arrived.raw_path.partition("?")[0],
            query=read_query(arrived.raw_path),
            time=time.time(),
            access_key_id=arrived.access_key_id,
            client_port=peer[1] if peer else 0,
        )
        self.requests.append(record)
        self.counts[action] += 1
        self._count_for_quota(action)
        return record

    def _count_for_quota(self, action: str) -> None:
        now, lately = time.monotonic(), self._lately[action]
        lately.append(now)
        while lately[0] < now - QUOTA_SECONDS:
            lately.popleft()
        self.busiest[action] = max(self.busiest[action], len(lately))

    def _make(self, changes: list[Fault]) -> RefusedError | None:
        """Make the changes that are due. Return what says that one of them failed."""
        try:
            for change in changes:
                self._change(change)
        except Exception as error:  # such as a run in an experiment that does not exist
            return RefusedError(
                400, "FaultFailed", f"A fault of the test failed: {type(error).__name__}: {error}"
            )
        return None

    def _change(self, change: Fault) -> None:
        account = self.service.account
        if change.kind == "insert_run":
            account.add_run(**change.run)
        elif change.kind == "delete_run":
            account.state.delete_run(change.run_id)
        elif change.kind == "label_run":
            account.label_run(change.run_id, change.labels)
        elif change.kind == "insert_version":
            account.add_model_version(**change.version)
        elif change.kind == "approve_version":
            account.approve_model_version(**change.version)
        else:
            account.unlabel_run(change.run_id, change.key)

    def _reply(
        self,
        arrived: Arrived,
        call: Call | None,
        request_id: str,
        fault: Fault | None,
        failed: RefusedError | None,
    ) -> Reply:
        quirks, host = self.service.quirks, arrived.headers.get("host", "")
        if fault and fault.kind in INSTEAD and failed is None:
            return _instead(fault, quirks, request_id, host)
        try:
            problem = self.broken or failed
            if problem is not None:
                raise problem
            if call is None:
                path = arrived.raw_path.partition("?")[0]
                raise RefusedError(404, "InvalidAction.NotFound", f"No operation is {arrived.method} {path}.")
            self._verifier.verify(arrived, call.action, self.service.account.clock.now())
            text = perform(self.service, call)
        except RefusedError as error:
            return _refusal(error, quirks, request_id, host)
        if fault and fault.kind == "patch":
            text = _patched(text, fault)
        return Reply(200, text.encode())


def _refusal(error: RefusedError, quirks: Quirks, request_id: str, host: str) -> Reply:
    if quirks.error_body == "xml":
        text = (
            f"<Error><RequestId>{request_id}</RequestId><HostId>{escape(host)}</HostId>"
            f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        )
        return Reply(error.status, text.encode(), "text/xml")
    fields = {
        "RequestId": request_id,
        "HostId": host,
        "Code": error.code,
        "Message": error.message,
        "Recommend": "",
    }
    if quirks.error_body in ("lower", "nested"):
        fields = {"requestId": request_id, "code": error.code, "message": error.message}
    body = {"error": fields} if quirks.error_body == "nested" else fields
    return Reply(error.status, json.dumps(body).encode())


def _instead(fault: Fault, quirks: Quirks, request_id: str, host: str) -> Reply:
    if fault.kind == "html":
        page = f"<html><head><title>{fault.status or 502}</title></head><body>Bad gateway</body></html>"
        return Reply(fault.status or 502, page.encode(), "text/html")
    if fault.kind == "body":
        raw = fault.body.encode() if isinstance(fault.body, str) else fault.body
        return Reply(fault.status or 200, raw, fault.content_type)
    status, code, message = {
        "throttle": (
            quirks.throttle_status,
            "Throttling.User",
            "Request was denied due to user flow control.",
        ),
        "server_error": (503, "ServiceUnavailable", "The request has failed due to a temporary failure."),
        "error": (403, "NoPermission", "You are not authorized to perform this operation."),
        "reset": (503, "", ""),
    }[fault.kind]
    error = RefusedError(fault.status or status, fault.code or code, fault.message or message)
    reply = _refusal(error, quirks, request_id, host)
    if fault.retry_after_ms is not None:
        reply.headers["x-acs-retry-after"] = str(fault.retry_after_ms)
    return reply


def _patched(text: str, fault: Fault) -> str:
    fields = {**json.loads(text), **fault.fields}
    return json.dumps({name: value for name, value in fields.items() if name not in fault.remove})


async def _deliver(
    request: web.BaseRequest, reply: Reply, record: RecordedRequest, fault: Fault | None
) -> web.StreamResponse:
    kind = fault.kind if fault else ""
    delay = min(fault.delay, LONGEST) if fault else 0.0
    if kind in ("reset", "reset_after"):
        _reset(request)
        return web.Response()
    if kind in ("truncate", "drip"):
        return await _piecewise(request, reply, record, kind, delay)
    if kind == "slow":
        await asyncio.sleep(delay)
    record.status = reply.status
    return web.Response(
        status=reply.status, body=reply.body, content_type=reply.content_type, headers=reply.headers
    )


async def _piecewise(
    request: web.BaseRequest, reply: Reply, record: RecordedRequest, kind: str, delay: float
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_type = reply.content_type
    response.content_length = len(reply.body)
    await response.prepare(request)
    record.status = reply.status
    if kind == "truncate":
        await response.write(reply.body[: len(reply.body) // 2])
        if request.transport:
            request.transport.close()
        return response
    pause = min(delay, LONGEST / max(len(reply.body), 1))
    for index in range(len(reply.body)):
        await response.write(reply.body[index : index + 1])
        await asyncio.sleep(pause)
    return response


def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    # Closing without lingering sends RST, as a crashed server or a proxy does.
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
