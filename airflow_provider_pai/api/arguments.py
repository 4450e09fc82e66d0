"""Check arguments that people, templates and other tasks bring: each must be what it was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_pai.api.errors import PaiUsageError

__all__ = [
    "check_choice",
    "check_filters",
    "check_given",
    "check_keywords",
    "check_no_dict_as_text",
    "check_text",
    "encodable",
    "nearest",
    "of_native_rendering",
    "parse_run_ids",
]

NARROWING = (
    *("run_id", "workspace_id", "experiment_id", "name", "source_type", "source_id", "labels"),
    *("created_after", "created_before", "among"),
    *("approval_status", "domain", "format_type", "framework_type", "model_type", "origin", "task"),
    "version_name",
)
"""What narrows a question, which asks for any run without it."""
DICT_AS_TEXT = re.compile(r"""\s*(\{\s*(["'\d].*)?\}|\[\s*(["'{].*)?\])\s*""", re.DOTALL)


def check_given(name: str, value: Any) -> None:
    """Refuse nothing in an argument that was given: a task or a template brought it by mistake.

    Taken for an argument that was left out, it would make a question ask for any run.
    """
    if value is None or (isinstance(value, (str, Mapping)) and not value):
        came = "empty" if value == "" else value
        any_ = " to ask for any" if name in NARROWING else ""
        raise PaiUsageError(
            f"{name} is {came}. Leave it out{any_}, or check the task or template it came from."
        )


def check_no_dict_as_text(name: str, value: Any) -> None:
    """Refuse a dict, or a list, that a template turned into text."""
    if isinstance(value, str) and DICT_AS_TEXT.fullmatch(value):
        raise PaiUsageError(
            f"{name} came as the text {value[:100]!r}: a template turns a dict into text. Hand the task's "
            f"output on ({name}=task.output), or set render_template_as_native_obj=True on the DAG."
        )


def check_text(name: str, value: Any) -> None:
    """Refuse a value that is not a text, and an empty text, which templates make by mistake."""
    if value is None:
        return
    if not isinstance(value, str):
        raise PaiUsageError(
            f"{name}={value!r} is a {type(value).__name__}; write it as text.{of_native_rendering(value)}"
        )
    check_given(name, value)
    encodable(name, value)


def of_native_rendering(value: Any) -> str:
    """Return where a value may come from that was a text, for an error about it."""
    known = isinstance(value, (int, float, tuple))
    return " render_template_as_native_obj=True makes such values of texts." if known else ""


def encodable(what: str, text: str) -> bytes:
    """Return a text as UTF-8. Refuse half a surrogate pair, which some systems leave in texts."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PaiUsageError(
            f"{what} {text!r} holds half a surrogate pair, which no request can carry."
        ) from None


def check_keywords(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keywords that are not known.

    :raises PaiUsageError: with the known keywords, and the nearest one, in its text.
    """
    known = list(known)
    for keyword in given:
        if keyword not in known:
            raise PaiUsageError(
                f"Unknown keyword {keyword!r}. {nearest(keyword, known)}Known are: {', '.join(known)}."
            )


def check_filters(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse unknown keywords, and those that hold nothing: one that is there was meant.

    :raises PaiUsageError: with what to write instead in its text.
    """
    check_keywords(given, known)
    for name, value in given.items():
        check_given(name, value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return a text that is one of ``choices``.

    :raises PaiUsageError: with the choices, and the nearest one, in its text.
    """
    choices = list(choices)
    if value not in choices:
        advice = nearest(value, choices) if isinstance(value, str) else ""
        raise PaiUsageError(f"{name}={value!r} must be one of {', '.join(choices)}. {advice}".rstrip())
    return str(value)


def nearest(text: str, known: Iterable[str]) -> str:
    """Return an error's question for the known text that is nearest to one, or nothing."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(text).lower(), by_lower, n=1)
    return f"Did you mean {by_lower[near[0]]!r}? " if near else ""


def parse_run_ids(run_id: Any) -> tuple[str, ...]:
    """Return run ids without repeats, from one or several, such as the output of a mapped task.

    :raises PaiUsageError: no id at all, or what is no id.
    """
    if isinstance(run_id, (str, Mapping)) or not isinstance(run_id, Iterable):
        run_id = (run_id,)
    ids = tuple(dict.fromkeys(map(_run_id, run_id)))
    if not ids:
        raise PaiUsageError("run_id is []. Leave it out, or check the task or template it came from.")
    return ids


def _run_id(run_id: Any) -> str:
    check_given("run_id", run_id)
    check_no_dict_as_text("run_id", run_id)
    if isinstance(run_id, Mapping):
        raise PaiUsageError(
            f"run_id holds a record with {', '.join(map(str, run_id))}; hand on its id: run['run_id']."
        )
    check_text("run_id", run_id)
    return str(run_id)
