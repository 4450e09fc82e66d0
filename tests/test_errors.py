"""The error tree: which errors are transient or retryable, and that errors survive a process border."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

from airflow_provider_pai import api
from airflow_provider_pai.api import errors
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiDecidedError,
    PaiError,
    PaiExperimentNotFoundError,
    PaiLabelNotSeenError,
    PaiModelNotFoundError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPagingError,
    PaiPermissionError,
    PaiRejectedError,
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
    PaiExperimentNotFoundError,
    PaiModelNotFoundError,
]
EVERY: list[PaiError] = [
    PaiError("plain"),
    PaiUsageError("write it so"),
    PaiConfigurationError("correct it so"),
    PaiDecidedError("it is Rejected"),
    PaiRejectedError("it was rejected"),
    PaiPagingError("in circles"),
    PaiTransportError("reset", sent=True),
    PaiResponseError("odd", status=200, request_id="R-1"),
    PaiNotJsonError("html", status=502),
    PaiLabelNotSeenError("not there", status=200),
    *(kind("the message", **API) for kind in API_KINDS),
]
TRANSIENT = {PaiTransportError, PaiNotJsonError, PaiPagingError, PaiThrottledError, PaiUnavailableError}
RETRYABLE = TRANSIENT | {PaiExperimentNotFoundError, PaiLabelNotSeenError, PaiModelNotFoundError}
PACKAGE = Path(errors.__file__).parent.parent
PROMISES_A_SECOND_TRY = re.compile(r"\b(later|again|retry)\b")


def test_every_error_of_the_tree_is_tested_here():
    assert {type(error).__name__ for error in EVERY} == set(errors.__all__)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_transient_errors_are_retryable_and_most_others_are_neither(error):
    assert error.transient is (type(error) in TRANSIENT)
    assert error.retryable is (type(error) in RETRYABLE)
    assert isinstance(error, PaiError)


def descendants(kind: type[PaiError]) -> set[type[PaiError]]:
    return {kind}.union(*map(descendants, kind.__subclasses__()))


@pytest.mark.parametrize("kind", descendants(PaiError), ids=lambda kind: kind.__name__)
def test_an_error_that_promises_a_second_try_is_retryable(kind):
    assert kind.retryable or not kind.transient
    promises = [text for text in texts(kind) if PROMISES_A_SECOND_TRY.search(text)]
    assert kind.retryable or promises == []


def texts(kind: type[PaiError]) -> list[str]:
    """The hint of an error, and every text that the package raises it with."""
    return [getattr(kind, "hint", ""), *RAISED.get(kind.__name__, [])]


def raised() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            parts = [part for argument in node.args for part in ast.walk(argument)]
            said = [part.value for part in parts if isinstance(part, ast.Constant)]
            found.setdefault(name, []).append(" ".join(map(str, said)))
    return found


RAISED = raised()


def test_the_texts_of_the_package_are_found():
    assert any("list again later" in text for text in texts(PaiPagingError))
    assert len(texts(PaiConfigurationError)) > 10


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_survives_copying_and_pickling(error, copied):
    twin = copied(error)
    assert type(twin) is type(error)
    assert (str(twin), twin.args, twin.__dict__) == (str(error), error.args, error.__dict__)


def test_retry_after_survives_pickling():
    error = PaiThrottledError("slow down", **API)
    error.retry_after = 1.5
    assert pickle.loads(pickle.dumps(error)).retry_after == 1.5
    assert PaiThrottledError("slow down", **API).retry_after is None


@pytest.mark.parametrize("kind", API_KINDS)
def test_an_api_error_has_everything_that_support_asks_for(kind):
    text = str(kind("the message", **API))
    for part in ("GetRun", "Some.Code", "the message", "HTTP 400", "R-1"):
        assert part in text
    assert "None" not in str(kind("m", action="GetRun", status=400, code="", request_id=None))


@pytest.mark.parametrize("kind", [PaiThrottledError, PaiAuthenticationError, PaiPermissionError])
def test_the_errors_that_a_user_can_correct_say_how(kind):
    assert kind.hint
    assert str(kind("m", **API)).endswith(kind.hint)


def test_a_usage_error_is_a_value_error():
    assert isinstance(PaiUsageError("x"), ValueError)


def test_the_drawing_in_the_docstring_is_the_tree():
    drawn = re.findall(r"(Pai\w+Error|PaiError)(?: \(ValueError\))?(?: +\((t|r)\))?", errors.__doc__ or "")
    marks = {(False, False): "", (True, True): "t", (False, True): "r"}
    assert set(drawn) == {(type(error).__name__, marks[error.transient, error.retryable]) for error in EVERY}


def test_every_public_error_is_exported():
    assert set(errors.__all__) <= set(api.__all__)
