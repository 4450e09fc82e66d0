"""What an answer means, whether its request is sent again, and how long that may take."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai import api
from airflow_provider_pai.api import (
    Credential,
    Failure,
    Outcome,
    PaiApiError,
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
    Request,
    Response,
    create_experiment,
    create_run,
    delete_experiment,
    delete_experiment_label,
    delete_run,
    delete_run_label,
    flow,
    get_default_workspace,
    get_experiment,
    get_run,
    list_experiments,
    list_run_metrics,
    list_runs,
    list_runs_page,
    list_workspaces,
    log_run_metrics,
    set_experiment_labels,
    update_experiment,
    update_run,
)
from airflow_provider_pai.api.query import RunQuery

READS = {
    "ListRuns": lambda: list_runs(RunQuery()),
    "one page of ListRuns": lambda: list_runs_page(),
    "GetRun": lambda: get_run("run-1"),
    "ListRunMetrics": lambda: list_run_metrics("run-1", "k"),
    "GetExperiment": lambda: get_experiment("exp-1"),
    "ListExperiment": lambda: list_experiments(),
    "ListWorkspaces": lambda: list_workspaces(),
    "GetDefaultWorkspace": lambda: get_default_workspace(),
    "GetModel": lambda: api.get_model("model-1"),
    "ListModels": lambda: api.list_models(),
    "GetModelVersion": lambda: api.get_model_version("model-1", "1.0.0"),
    "ListModelVersions": lambda: api.list_model_versions("model-1"),
}
WRITES = {
    "CreateRun": lambda: create_run("exp-1"),
    "UpdateRun": lambda: update_run("run-1", name="n"),
    "DeleteRun": lambda: delete_run("run-1"),
    "DeleteRunLabel": lambda: delete_run_label("run-1", "k"),
    "LogRunMetrics": lambda: log_run_metrics("run-1", {"k": 1}),
    "CreateExperiment": lambda: create_experiment("n", workspace_id="1"),
    "UpdateExperiment": lambda: update_experiment("exp-1", name="n"),
    "DeleteExperiment": lambda: delete_experiment("exp-1"),
    "SetExperimentLabels": lambda: set_experiment_labels("exp-1", {"a": "b"}),
    "DeleteExperimentLabel": lambda: delete_experiment_label("exp-1", "a"),
    "CreateModel": lambda: api.create_model("n", workspace_id="1"),
    "UpdateModel": lambda: api.update_model("model-1", name="n"),
    "DeleteModel": lambda: api.delete_model("model-1"),
    "DeleteModelLabels": lambda: api.delete_model_labels("model-1", "a"),
    "CreateModelVersion": lambda: api.create_model_version("model-1", "https://host/model"),
    "UpdateModelVersion": lambda: api.update_model_version("model-1", "1.0.0", approval_status="Approved"),
    "DeleteModelVersion": lambda: api.delete_model_version("model-1", "1.0.0"),
    "DeleteModelVersionLabels": lambda: api.delete_model_version_labels("model-1", "1.0.0", "a"),
}
each_read = pytest.mark.parametrize("ask", READS.values(), ids=READS.keys())
each_write = pytest.mark.parametrize("ask", WRITES.values(), ids=WRITES.keys())
each_operation = pytest.mark.parametrize("ask", (READS | WRITES).values(), ids=(READS | WRITES).keys())

DATE = datetime(2025, 10, 20, 8, 30, tzinfo=timezone.utc)
HTML = b"<html><head><title>502</title></head><body>Bad gateway</body></html>"
NOTHING = json.dumps({"Runs": [], "NextPageToken": 0}).encode()
REFUSED = Failure(reason="refused", sent=False)
RESET = Failure(reason="reset", sent=True)


def response(status: int, body: Any = b"", seconds: float = 0.0, **headers: Any) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return Response(status=status, headers=names, body=raw, seconds=seconds)


def error(status: int, code: str, **headers: Any) -> Response:
    body = {"RequestId": "R-1", "HostId": "h", "Code": code, "Message": "the message", "Recommend": "url"}
    return response(status, body, **headers)


THROTTLED = error(429, "Throttling.User")
UNAVAILABLE = error(503, "ServiceUnavailable")
OK = response(200, NOTHING)


def attempts(play: Any, ask: Any, outcome: Outcome) -> tuple[PaiError, list[Request]]:
    """The error and the requests of an operation that is always answered the same."""
    sent: list[Request] = []
    with pytest.raises(PaiError) as caught:
        play(ask(), lambda _: outcome, sent)
    return caught.value, sent


# --- what an answer means, and whether a retry can help

ONCE, AGAIN = 1, flow.ATTEMPTS
VERDICTS = [
    (error(400, "Throttling"), PaiThrottledError, AGAIN),
    (error(400, "Throttling.User"), PaiThrottledError, AGAIN),
    (error(400, "Throttling.Api"), PaiThrottledError, AGAIN),
    (error(400, "Rejected.Throttling"), PaiThrottledError, AGAIN),
    (error(503, "Throttling"), PaiThrottledError, AGAIN),
    (error(403, "Throttling.User"), PaiThrottledError, AGAIN),
    (error(429, ""), PaiThrottledError, AGAIN),
    (response(429, b""), PaiThrottledError, AGAIN),
    (response(429, HTML), PaiThrottledError, AGAIN),
    (error(500, "InternalError"), PaiUnavailableError, AGAIN),
    (error(500, "InternalServerErrorProblem"), PaiUnavailableError, AGAIN),
    (error(502, ""), PaiUnavailableError, AGAIN),
    (error(503, "ServiceUnavailable"), PaiUnavailableError, AGAIN),
    (error(599, "Anything.NotFound"), PaiUnavailableError, AGAIN),
    (error(400, "ServiceUnavailable"), PaiUnavailableError, AGAIN),
    (response(502, HTML), PaiUnavailableError, AGAIN),
    (response(504, b""), PaiUnavailableError, AGAIN),
    (response(500, b"[]"), PaiUnavailableError, AGAIN),
    (error(400, "SignatureNonceUsed"), PaiAuthenticationError, AGAIN),
    (response(200, HTML, content_type="text/html"), PaiNotJsonError, AGAIN),
    (response(200, b""), PaiNotJsonError, AGAIN),
    (response(204, b""), PaiNotJsonError, AGAIN),
    (response(200, b'{"Runs": ['), PaiNotJsonError, AGAIN),
    (response(302, b"", location="http://login.example"), PaiNotJsonError, AGAIN),
    (REFUSED, PaiTransportError, AGAIN),
    (RESET, PaiTransportError, AGAIN),
    (error(400, "SignatureDoesNotMatch"), PaiAuthenticationError, ONCE),
    (error(400, "IncompleteSignature"), PaiAuthenticationError, ONCE),
    (error(400, "MissingSecurityToken"), PaiAuthenticationError, ONCE),
    (error(400, "InvalidSecurityToken.Expired"), PaiAuthenticationError, ONCE),
    (error(403, "InvalidSecurityToken.Malformed"), PaiAuthenticationError, ONCE),
    (error(404, "InvalidAccessKeyId.NotFound"), PaiAuthenticationError, ONCE),
    (error(403, "InvalidAccessKeyId.Inactive"), PaiAuthenticationError, ONCE),
    (error(400, "InvalidTimeStamp.Format"), PaiAuthenticationError, ONCE),
    (error(401, "Whatever"), PaiAuthenticationError, ONCE),
    (error(403, "NoPermission"), PaiPermissionError, ONCE),
    (error(403, "Forbidden.RAM"), PaiPermissionError, ONCE),
    (error(400, "NoPermission"), PaiPermissionError, ONCE),
    (error(400, "Forbidden"), PaiPermissionError, ONCE),
    (error(403, "100400017"), PaiPermissionError, ONCE),
    (error(404, "RunNotFound"), PaiNotFoundError, ONCE),
    (error(404, ""), PaiNotFoundError, ONCE),
    (error(400, "WorkspaceNotExist"), PaiNotFoundError, ONCE),
    (error(400, "NotFoundErrorProblem"), PaiNotFoundError, ONCE),
    (error(400, "InvalidParameter"), PaiApiError, ONCE),
    (error(409, "Conflict"), PaiApiError, ONCE),
    (error(400, "BrandNew.Code"), PaiApiError, ONCE),
    (error(400, ""), PaiApiError, ONCE),
    (response(200, b"[]"), PaiResponseError, ONCE),
    (response(200, b"null"), PaiResponseError, ONCE),
]
IDS = [
    f"{outcome.status} {outcome.body[:70]!r}" if isinstance(outcome, Response) else outcome.reason
    for outcome, *_ in VERDICTS
]


@pytest.mark.parametrize(("outcome", "kind", "times"), VERDICTS, ids=IDS)
def test_a_read_raises_its_error_and_is_sent_again_only_if_that_can_help(play, outcome, kind, times):
    failure, sent = attempts(play, READS["ListRuns"], outcome)
    assert type(failure) is kind
    assert len(sent) == times
    assert failure.transient == (times == AGAIN and kind is not PaiAuthenticationError)


@each_read
@pytest.mark.parametrize("outcome", [THROTTLED, UNAVAILABLE, RESET, response(200, HTML)], ids=repr)
def test_every_read_is_sent_again_after_a_transient_fault(play, ask, outcome):
    assert len(attempts(play, ask, outcome)[1]) == flow.ATTEMPTS


@each_write
@pytest.mark.parametrize(
    "outcome", [THROTTLED, error(400, "Throttling"), REFUSED], ids=["429", "400", "refused"]
)
def test_a_write_that_cannot_have_been_carried_out_is_sent_again(play, ask, outcome):
    failure, sent = attempts(play, ask, outcome)
    assert failure.transient
    assert len(sent) == flow.ATTEMPTS


@each_write
@pytest.mark.parametrize(
    "outcome",
    [
        RESET,
        UNAVAILABLE,
        error(500, "InternalError"),
        error(400, "ServiceUnavailable"),
        error(400, "SignatureNonceUsed"),
        error(400, "InvalidParameter"),
        response(200, HTML),
        response(502, HTML),
        response(302, b""),
        response(200, b"{"),
    ],
    ids=repr,
)
def test_a_write_that_may_have_been_carried_out_is_sent_once(play, ask, outcome):
    assert len(attempts(play, ask, outcome)[1]) == 1


def test_after_a_transient_fault_the_answer_comes(play):
    sent: list[Request] = []
    faults = [REFUSED, THROTTLED, response(200, HTML), RESET, OK]
    assert play(list_runs(RunQuery()), faults, sent) == []
    assert len(sent) == flow.ATTEMPTS


def test_the_last_error_is_the_one_that_is_raised(play):
    with pytest.raises(PaiNotFoundError):
        play(list_runs(RunQuery()), [REFUSED, THROTTLED, error(404, "WorkspaceNotFound")])


# --- bodies of errors

CAMEL = {"RequestId": "R-1", "HostId": "h", "Code": "Some.Code", "Message": "the message", "Recommend": "u"}
XML = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><RequestId>R-1</RequestId><HostId>h</HostId>"
    "<Code>Some.Code</Code><Message>the message</Message></Error>"
)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (CAMEL, "Some.Code"),
        ({"code": "Some.Code", "message": "the message", "requestId": "R-1"}, "Some.Code"),
        ({"Code": 100400017, "Message": "the message", "RequestId": "R-1"}, "100400017"),
        ({**CAMEL, "AccessDeniedDetail": {"AuthAction": "pai:ListRuns"}}, "Some.Code"),
        (XML.encode(), "Some.Code"),
    ],
    ids=["camel", "lower", "numeric", "with details", "xml"],
)
@each_operation
def test_every_form_of_an_error_body_is_read(play, ask, body, code):
    failure, _ = attempts(play, ask, response(400, body, x_acs_request_id="HEADER"))
    assert isinstance(failure, PaiApiError)
    assert (failure.code, failure.message, failure.request_id, failure.status) == (
        code,
        "the message",
        "R-1",
        400,
    )
    assert failure.action in str(failure)
    for part in (code, "the message", "R-1", "HTTP 400"):
        assert part in str(failure)


def test_an_error_without_a_request_id_takes_the_headers(play):
    failure, _ = attempts(play, READS["GetRun"], response(400, {"Code": "C"}, x_acs_request_id="HEADER"))
    assert failure.request_id == "HEADER"


@pytest.mark.parametrize(
    "body",
    [
        {"Code": ["list"], "Message": {"a": 1}, "RequestId": 5},
        {"Code": None, "Message": None, "RequestId": None},
        {"CODE": "x", "code": None},
        {"Message": "m" * 100_000},
        {},
    ],
    ids=lambda body: repr(body)[:40],
)
def test_an_odd_error_body_is_still_an_error_with_its_status(play, body):
    failure, _ = attempts(play, READS["GetRun"], response(418, body))
    assert (type(failure), failure.status) == (PaiApiError, 418)
    assert len(str(failure)) < 5000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("Throttling.User", PaiThrottledError),
        ("ServiceUnavailable", PaiUnavailableError),
        ("NoPermission", PaiPermissionError),
        ("SignatureDoesNotMatch", PaiAuthenticationError),
        ("Some.Code", PaiApiError),
    ],
)
@each_operation
def test_an_error_sent_as_a_success_is_that_error(play, ask, code, kind):
    failure, _ = attempts(play, ask, response(200, {**CAMEL, "Code": code}))
    assert type(failure) is kind
    assert (failure.code, failure.request_id, failure.status) == (code, "R-1", 200)


def test_an_empty_page_and_an_empty_acknowledgement_are_not_errors(play):
    assert (
        play(list_runs(RunQuery()), [response(200, {"requestId": "R-1", "Runs": [], "TotalCount": 0})]) == []
    )
    assert play(delete_run("run-1"), [response(200, {"requestId": "R-1"})]) is None


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("name", [name for name in WRITES if name.startswith("Delete")])
def test_a_deletion_may_be_answered_by_nothing(play, name, status):
    assert play(WRITES[name](), [response(status, b"\r\n")]) is None


@pytest.mark.parametrize("name", ["UpdateRun", "LogRunMetrics", "UpdateExperiment", "SetExperimentLabels"])
def test_another_write_may_be_answered_by_nothing_where_the_status_says_so(play, name):
    assert play(WRITES[name](), [response(204)]) is None
    failure, sent = attempts(play, WRITES[name], response(200))
    assert (type(failure), len(sent)) == (PaiNotJsonError, 1)


CHINESE = '{"Code": "NoPermission", "Message": "没有权限", "RequestId": "R-1"}'
XML = "<?xml version='1.0'?><Error><Code>NoPermission</Code><Message>没有权限</Message></Error>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030"])
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=GBK", "text/x; charset=no"])
@pytest.mark.parametrize("text", [CHINESE, XML], ids=["json", "xml"])
def test_an_error_is_understood_in_whatever_encoding(play, encoding, kind, text):
    outcome = response(403, text.encode(encoding), content_type=kind)
    failure, _ = attempts(play, READS["GetRun"], outcome)
    assert type(failure) is PaiPermissionError
    assert failure.message == "没有权限"


def test_a_page_in_another_encoding_is_shown_as_it_reads(play):
    failure, _ = attempts(play, READS["GetRun"], response(200, "<html>网关错误</html>".encode("gbk")))
    assert "网关错误" in str(failure)


def test_a_byte_order_mark_does_not_hide_an_answer(play):
    assert play(list_runs(RunQuery()), [response(200, b"\xef\xbb\xbf" + NOTHING)]) == []


FORGERY = "denied\r\n[2026-01-01] INFO - all is well\x1b[2J\x1b[31m \u202ereversed \u2028 next\x00\x85"


@pytest.mark.parametrize(
    "outcome",
    [
        response(400, {"Code": FORGERY, "Message": FORGERY, "RequestId": FORGERY}),
        response(403, f"<Error><Code>X</Code><Message>{FORGERY}</Message></Error>".encode()),
        response(200, {"Code": FORGERY, "Message": FORGERY}),
        response(400, HTML, content_type=FORGERY, x_acs_request_id=FORGERY),
        response(200, FORGERY.encode(), content_type=FORGERY),
        response(429, {"Message": FORGERY}, x_acs_request_id=FORGERY),
        Failure(reason=FORGERY, sent=True),
    ],
)
def test_what_a_server_says_cannot_forge_a_log(play, outcome):
    failure, _ = attempts(play, READS["ListRuns"], outcome)
    for text in (str(failure), *map(str, vars(failure).values())):
        assert text.isprintable()
    assert "all is well" in str(failure)


def test_a_failure_that_stays_is_raised_inside_the_flow(play):
    def careful() -> Any:
        try:
            return (yield from get_run("run-1"))
        except PaiConfigurationError as error:
            return f"understood: {error}"

    wrong = Failure(reason="no such role", sent=False, error=PaiConfigurationError("no such role"))
    assert play(careful(), [wrong]) == "understood: no such role"


@pytest.mark.parametrize(
    "body", [{}, {"RequestId": "R-1"}, {"requestId": "R-1"}, {"RunId": "run-1"}, {"Name": "n"}]
)
def test_get_run_of_a_missing_run_is_not_found_even_as_a_success(play, body):
    failure, sent = attempts(play, READS["GetRun"], response(200, body, x_acs_request_id="R-1"))
    assert (type(failure), failure.request_id, len(sent)) == (PaiNotFoundError, "R-1", 1)
    assert "'run-1'" in str(failure)


def test_of_a_page_that_is_not_json_only_the_beginning_is_shown(play):
    body = b"<html>\r\n  <body>Sign in\xff to the proxy" + b"x" * 10_000
    failure, _ = attempts(play, READS["GetRun"], response(200, body, content_type="text/html"))
    assert "text/html" in str(failure)
    assert "<html> <body>Sign in" in str(failure)
    assert "proxy" in str(failure)
    assert len(str(failure)) < 600


# --- waiting between attempts


def waits(play: Any, outcome: Outcome) -> list[float]:
    return [request.wait for request in attempts(play, READS["ListRuns"], outcome)[1]]


def test_backoff_is_full_jitter_under_an_exponential_bound(play, monkeypatch):
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    monkeypatch.setattr(flow.random, "uniform", uniform)
    assert waits(play, UNAVAILABLE) == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert bounds == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 4.0)]


def test_backoff_never_passes_its_limit(play, monkeypatch):
    monkeypatch.setattr(flow, "ATTEMPTS", 12)
    monkeypatch.setattr(flow, "CALL_SECONDS", 10_000.0)
    monkeypatch.setattr(flow.random, "uniform", lambda _, high: high)
    assert max(waits(play, RESET)) == flow.BACKOFF_LIMIT_SECONDS


def test_backoff_differs_from_one_caller_to_the_next(play):
    assert len({tuple(waits(play, UNAVAILABLE)) for _ in range(5)}) > 1


@given(milliseconds=st.integers(0, 20_000))
def test_a_retry_after_is_milliseconds_and_a_lower_bound(play, milliseconds):
    outcome = error(429, "Throttling.User", x_acs_retry_after=milliseconds)
    failure, sent = attempts(play, READS["ListRuns"], outcome)
    assert failure.retry_after == milliseconds / 1000
    for request in sent[1:]:
        assert milliseconds / 1000 <= request.wait <= milliseconds / 1000 + flow.BACKOFF_SECONDS


@pytest.mark.parametrize("header", ["x_acs_retry_after", "retry_after"])
def test_callers_with_the_same_retry_after_do_not_all_come_back_at_once(play, header):
    outcome = error(429, "Throttling.User", **{header: 7})
    assert len({tuple(waits(play, outcome)) for _ in range(5)}) > 1


NOON = "Wed, 21 Oct 2026 12:00:00 GMT"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": " 0 "}, 0),
        ({"retry_after": "Wed, 21 Oct 2026 12:00:07 GMT", "date": NOON}, 7),
        ({"retry_after": "Wed, 21 Oct 2026 11:00:00 GMT", "date": NOON}, 0),
        ({"retry_after": "Wednesday, 21-Oct-26 12:00:07 GMT", "date": NOON}, 7),
        ({"retry_after": "60", "x_acs_retry_after": "7000"}, 7),
        ({"retry_after": "7", "x_acs_retry_after": "soon"}, 7),
    ],
)
@pytest.mark.parametrize("body", [HTML, {"Code": "Throttling.User"}], ids=["a gateway", "PAI"])
def test_a_gateways_retry_after_is_waited_for(play, status, headers, seconds, body):
    failure, sent = attempts(play, READS["ListRuns"], response(status, body, **headers))
    assert failure.retry_after == seconds
    assert len(sent) == flow.ATTEMPTS
    assert all(seconds <= request.wait <= seconds + flow.BACKOFF_SECONDS for request in sent[1:])


def test_a_retry_after_that_is_a_date_is_told_from_our_clock_where_the_server_shows_none(play):
    outcome = response(503, HTML, retry_after=NOON)
    noon = datetime(2026, 10, 21, 12, tzinfo=timezone.utc).timestamp()
    failure, _ = attempts(play, READS["ListRuns"], msgspec.structs.replace(outcome, received_at=noon - 9))
    assert failure.retry_after == 9


@pytest.mark.parametrize("status", [429, 503])
def test_a_gateways_retry_after_beyond_the_time_that_is_left_fails_at_once(play, status):
    slow = response(status, HTML, seconds=50.0, retry_after="40")
    failure, sent = attempts(play, READS["ListRuns"], slow)
    assert failure.retry_after == 40
    assert len(sent) == 2  # 50 s, 40 s of waiting, and then 50 s more: too late for a third


@pytest.mark.parametrize("status", [500, 502, 504])
def test_no_other_answer_says_when_to_come_back(play, status):
    failure, _ = attempts(play, READS["ListRuns"], response(status, HTML, retry_after="600"))
    assert failure.retry_after is None


@pytest.mark.parametrize("name", ["x_acs_retry_after", "retry_after"])
@pytest.mark.parametrize("header", ["soon", "", "nan", "-5", "\u0667", "Wed, 21 Oct 20266 07:28:00 GMT"])
def test_a_retry_after_that_is_not_a_time_falls_back_to_the_backoff(play, header, name):
    wait = waits(play, error(429, "Throttling", **{name: header}))
    assert len(wait) == flow.ATTEMPTS
    assert all(0 <= seconds <= 20 for seconds in wait)


@pytest.mark.parametrize("milliseconds", ["121000", "1e300", "inf"])
@pytest.mark.parametrize("ask", [READS["ListRuns"], WRITES["CreateRun"]])
def test_a_retry_after_beyond_the_total_limit_fails_at_once(play, ask, milliseconds):
    failure, sent = attempts(play, ask, error(429, "Throttling", x_acs_retry_after=milliseconds))
    assert type(failure) is PaiThrottledError
    assert failure.retry_after > flow.CALL_SECONDS
    assert len(sent) == 1


def test_attempts_and_waits_share_one_time_limit(play):
    slow = Failure(reason="timed out", sent=True, seconds=50.0)
    failure, sent = attempts(play, READS["ListRuns"], slow)
    assert type(failure) is PaiTransportError
    assert len(sent) == 3
    spent = 0.0
    for request in sent:
        spent += request.wait
        assert request.limit == pytest.approx(flow.CALL_SECONDS - spent)
        spent += 50.0


def test_each_page_of_a_listing_has_the_whole_time_limit(play):
    sent: list[Request] = []
    pages = [response(200, {"Runs": [], "NextPageToken": token}, seconds=100.0) for token in (1, 2, 0)]
    play(list_runs(RunQuery()), pages, sent)
    assert [request.limit for request in sent] == [flow.CALL_SECONDS] * 3


# --- the clock


def skewed(date: str | None = format_datetime(DATE, usegmt=True), **changes: Any) -> Response:
    outcome = error(400, "InvalidTimeStamp.Expired", **({"date": date} if date else {}))
    return msgspec.structs.replace(outcome, received_at=DATE.timestamp() + 3600, **changes)


@each_operation
def test_a_wrong_clock_is_corrected_once_and_the_request_sent_again_at_once(play, ask):
    failure, sent = attempts(play, ask, skewed())
    assert type(failure) is PaiAuthenticationError
    assert "clock" in str(failure)
    assert [request.clock_offset for request in sent] == [None, -3600.0]
    assert sent[1].wait == 0.0


def test_a_corrected_clock_costs_no_attempt(play):
    sent: list[Request] = []
    play(list_runs(RunQuery()), [UNAVAILABLE, skewed(), *[UNAVAILABLE] * 3, OK], sent)
    assert [request.clock_offset for request in sent] == [None, None, -3600.0, None, None, None]
    assert len(sent) == flow.ATTEMPTS + 1


@pytest.mark.parametrize(
    "date",
    [None, "", "yesterday", ",", "Mon, 99 Oct 2025 08:30:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300"],
)
def test_without_a_readable_date_the_clock_is_not_corrected(play, date):
    failure, sent = attempts(play, READS["ListRuns"], skewed(date))
    assert type(failure) is PaiAuthenticationError
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("code", "times"),
    [("InvalidSecurityToken.Expired", 1), ("SignatureDoesNotMatch", 1), (flow.NONCE_USED, 0)],
)
def test_another_credential_is_asked_for_once_and_not_for_a_used_nonce(play, code, times):
    key = Credential(access_key_id="id", access_key_secret="secret")
    refused = msgspec.structs.replace(error(400, code), renewable=key)
    _, sent = attempts(play, READS["ListRuns"], refused)
    assert [request.refused for request in sent if request.refused] == [key] * times
    assert len(sent) == (1 + times if times else flow.ATTEMPTS)


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}")
)
def test_any_date_header_is_a_time_or_none(text):
    date = response(200, date=text).date
    assert date is None or date.tzinfo is timezone.utc


# --- what is sent again


@each_operation
def test_attempts_differ_only_in_their_wait_and_limit(play, ask):
    _, sent = attempts(play, ask, THROTTLED)
    first = sent[0]
    assert (first.wait, first.limit, first.clock_offset) == (0.0, flow.CALL_SECONDS, None)
    for request in sent[1:]:
        assert msgspec.structs.replace(request, wait=first.wait, limit=first.limit) == first
        assert 0 < request.limit <= flow.CALL_SECONDS


@each_operation
def test_every_operation_asks_under_the_api_prefix_and_reads_by_get_alone(play, ask):
    request = next(ask())
    assert request.path.startswith("/api/v1/")
    assert request.path.isascii()
    assert (request.method == "GET") == (request.action in {name.rpartition(" ")[2] for name in READS})
    assert request.body == b"" or json.loads(request.body)
    assert all(isinstance(value, str) and value for value in request.query.values())


# --- damaged answers


def run(**fields: Any) -> dict[str, Any]:
    return {
        "RunId": "run-1",
        "Name": "n",
        "WorkspaceId": "1",
        "GmtCreateTime": "2021-01-30T12:51:33.028Z",
        "Labels": [{"Key": "a", "Value": "b", "GmtCreateTime": ""}],
        "Params": [{"Key": "p", "Value": "1"}],
        "Metrics": [{"Key": "k", "Value": 0.5, "Step": 1, "Timestamp": 5}],
        **fields,
    }


EXPERIMENT = {"ExperimentId": "exp-1", "Name": "e", "GmtCreateTime": "2021-01-30T12:51:33Z", "Labels": []}
WORKSPACE = {"WorkspaceId": "1", "WorkspaceName": "w", "IsDefault": True}
ENVELOPE = {"requestId": "R-1", "TotalCount": 1, "NextPageToken": 0}
GOOD: dict[str, Any] = {
    "ListRuns": {**ENVELOPE, "Runs": [run()]},
    "GetRun": run(requestId="R-1"),
    "CreateRun": {"requestId": "R-1", "RunId": "run-1"},
    "ListRunMetrics": {"requestId": "R-1", "Metrics": run()["Metrics"], "NextPageToken": 0},
    "CreateExperiment": {"requestId": "R-1", "ExperimentId": "exp-1"},
    "GetExperiment": EXPERIMENT,
    "ListExperiment": {**ENVELOPE, "Experiments": [EXPERIMENT]},
    "ListWorkspaces": {**ENVELOPE, "Workspaces": [WORKSPACE]},
    "GetDefaultWorkspace": WORKSPACE,
}
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "0", 10**400]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def mistyped(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which some part is replaced by anything."""
    if draw(st.integers(0, 3)) == 0:
        return draw(ANYTHING)
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: draw(mistyped(value[name]))}
    if isinstance(value, list) and value:
        return [draw(mistyped(value[0])), *value[1:]]
    return draw(ANYTHING)


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> bytes:
    """The bytes of a good answer after truncation, changed or inserted bytes, or changed types."""
    if draw(st.booleans()):
        return json.dumps(draw(mistyped(good))).encode()
    body = json.dumps(good).encode()
    place = draw(st.integers(0, len(body) - 1))
    kind = draw(st.sampled_from(["truncate", "flip", "insert", "digits"]))
    if kind == "truncate":
        return body[:place]
    if kind == "flip":
        return body[:place] + bytes([body[place] ^ draw(st.integers(1, 255))]) + body[place + 1 :]
    extra = draw(st.binary(min_size=1, max_size=4)) if kind == "insert" else b"9" * draw(st.integers(1, 5000))
    return body[:place] + extra + body[place:]


@each_operation
@given(data=st.data())
def test_a_damaged_answer_is_a_value_or_a_pai_error_within_bounded_requests(play, ask, data):
    good = GOOD.get(next(ask()).action, {"requestId": "R-1"})
    outcome = response(data.draw(st.sampled_from([200, 200, 200, 400, 503])), data.draw(damaged(good)))
    sent: list[Request] = []
    try:
        play(ask(), lambda _: outcome, sent)
    except PaiError as failure:
        assert str(failure)
    # A damaged token asks for one more page, which repeats it; a damaged total asks for more passes.
    assert len(sent) <= 2 * flow.ATTEMPTS


@given(
    st.dictionaries(
        st.sampled_from(["date", "x-acs-retry-after", "x-acs-request-id", "content-type"]), st.text()
    )
)
def test_damaged_headers_are_a_pai_error(play, headers):
    outcome = Response(status=400, headers=headers, body=error(400, "InvalidTimeStamp.Expired").body)
    throttled = Response(status=400, headers=headers, body=error(400, "Throttling").body)
    for answer in (outcome, throttled, Response(status=200, headers=headers, body=HTML)):
        failure, _ = attempts(play, READS["ListRuns"], answer)
        assert str(failure)
