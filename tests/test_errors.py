"""The error tree: what passes and what stays, and that errors survive the borders of a process."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from airflow_provider_pai.api import errors
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPagingError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
    PaiUsageError,
)

API = {"action": "GetRun", "status": 400, "code": "Some.Code", "request_id": "R-1"}
API_KINDS = [
    PaiApiError,
    PaiThrottledError,
    PaiUnavailableError,
    PaiAuthenticationError,
    PaiPermissionError,
    PaiNotFoundError,
]
EVERY: list[PaiError] = [
    PaiError("plain"),
    PaiUsageError("write it so"),
    PaiConfigurationError("mend it so"),
    PaiPagingError("in circles"),
    PaiTransportError("reset", sent=True),
    PaiResponseError("odd", status=200, request_id="R-1"),
    PaiNotJsonError("html", status=502),
    *(kind("the message", **API) for kind in API_KINDS),
]
TRANSIENT = {PaiTransportError, PaiNotJsonError, PaiThrottledError, PaiUnavailableError}


def test_every_error_of_the_tree_is_tested_here():
    assert {type(error).__name__ for error in EVERY} == set(errors.__all__)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_only_what_may_pass_is_transient(error):
    assert error.transient is (type(error) in TRANSIENT)
    assert isinstance(error, PaiError)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_survives_copying_and_pickling(error, copied):
    twin = copied(error)
    assert type(twin) is type(error)
    assert (str(twin), twin.args, twin.__dict__) == (str(error), error.args, error.__dict__)


def test_what_a_throttled_error_was_told_travels_with_it():
    error = PaiThrottledError("slow down", **API)
    error.retry_after = 1.5
    assert pickle.loads(pickle.dumps(error)).retry_after == 1.5
    assert PaiThrottledError("slow down", **API).retry_after is None


@pytest.mark.parametrize("kind", API_KINDS)
def test_an_api_error_tells_everything_support_asks_for(kind):
    text = str(kind("the message", **API))
    for part in ("GetRun", "Some.Code", "the message", "HTTP 400", "R-1"):
        assert part in text
    assert "None" not in str(kind("m", action="GetRun", status=400, code="", request_id=None))


@pytest.mark.parametrize("kind", [PaiThrottledError, PaiAuthenticationError, PaiPermissionError])
def test_the_errors_that_a_user_can_mend_say_how(kind):
    assert kind.hint
    assert str(kind("m", **API)).endswith(kind.hint)


def test_a_usage_error_is_a_value_error():
    assert isinstance(PaiUsageError("x"), ValueError)


def test_the_drawing_in_the_docstring_is_the_tree():
    drawn = re.findall(r"(Pai\w+Error|PaiError)(?: \(ValueError\))?(?: +(\(t\)))?", errors.__doc__ or "")
    assert {(name, bool(mark)) for name, mark in drawn} == {
        (type(error).__name__, error.transient) for error in EVERY
    }
