"""Arguments become parts of a request, or are refused before a request is sent."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.api import PaiUsageError, list_runs_page
from airflow_provider_pai.api.parameters import (
    finite,
    page_parameters,
    path,
    run_fields,
    segment,
    whole_number,
    write,
)

COMMON = {
    "name": ("myName", "Name", "myName"),
    "workspace_id": (145883, "WorkspaceId", "145883"),
    "experiment_id": ("exp-1", "ExperimentId", "exp-1"),
    "source_type": ("TrainingService", "SourceType", "TrainingService"),
    "source_id": ("job-1", "SourceId", "job-1"),
    "labels": (
        {"is_evaluation": "true", "LLM_evaluation": "true"},
        "Labels",
        "LLM_evaluation:true,is_evaluation:true",
    ),
    "verbose": (True, "Verbose", "true"),
    "gmt_create_time": ("2021-01-30T20:51:33.028+08:00", "GmtCreateTime", "2021-01-30T12:51:33.028Z"),
}
BY_TOKEN = {
    "order_by": ("GmtCreateTime desc,Name", "OrderBy", "GmtCreateTime DESC,Name ASC"),
    "page_token": (0, "PageToken", "0"),
    "max_results": (10, "MaxResults", "10"),
}
BY_NUMBER = {
    "page_number": (1, "PageNumber", "1"),
    "page_size": (10, "PageSize", "10"),
    "sort_by": ("Name", "SortBy", "Name"),
    "order": ("DESC", "Order", "DESC"),
}


@pytest.mark.parametrize("way", [BY_TOKEN, BY_NUMBER], ids=["by token", "by number"])
def test_all_documented_parameters_reach_the_wire_and_nothing_else(way):
    table = COMMON | way
    request = next(list_runs_page(**{name: value for name, (value, _, _) in table.items()}))
    assert request.query == {wire_name: wire for _, wire_name, wire in table.values()}
    assert (request.method, request.path, request.action, request.body) == (
        "GET",
        "/api/v1/runs",
        "ListRuns",
        b"",
    )


def test_there_are_fifteen_documented_parameters():
    assert len(COMMON | BY_TOKEN | BY_NUMBER) == 15


def test_without_parameters_nothing_is_sent_and_none_leaves_one_out():
    assert page_parameters() == {}
    assert page_parameters(**dict.fromkeys(COMMON | BY_TOKEN | BY_NUMBER)) == {}
    assert page_parameters(verbose=False) == {"Verbose": "false"}


@pytest.mark.parametrize("token", sorted(BY_TOKEN.keys() - {"order_by"}))
@pytest.mark.parametrize("number", sorted(BY_NUMBER.keys() - {"sort_by", "order"}))
def test_two_ways_to_page_contradict_each_other(token, number):
    with pytest.raises(PaiUsageError, match=f"{token} and {number}.*by token or by number"):
        page_parameters(**{token: 1, number: 1})


@pytest.mark.parametrize("other", ["sort_by", "order"])
def test_two_ways_to_order_contradict_each_other(other):
    with pytest.raises(PaiUsageError, match=f"order_by and {other}"):
        page_parameters(**{"order_by": "Name", other: BY_NUMBER[other][0]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("max_results", "page_number", "page_size")
            for value in (0, -1, "10", 1.0, True)
        ],
        *[("page_token", value) for value in (-1, "", 1.5, False)],
        *[("verbose", value) for value in ("true", 1, "False")],
        *[("sort_by", value) for value in ("RunId", "name", "")],
        *[("order", value) for value in ("desc", "DOWN", "")],
        *[("order_by", value) for value in ("", "RunId", 5)],
        *[("gmt_create_time", value) for value in ("2021-01-30", "", 5)],
        *[("labels", value) for value in ("", "a", "a=b", ["a:b"], {"a": 1})],
        *[
            (name, value)
            for name in ("name", "experiment_id", "source_type", "source_id")
            for value in ("", 5)
        ],
        ("workspace_id", ""),
    ],
    ids=repr,
)
def test_a_malformed_parameter_is_refused_before_anything_is_sent(name, value):
    with pytest.raises(PaiUsageError):
        list_runs_page(**{name: value})


@pytest.mark.parametrize(
    ("name", "near"), [("PageToken", "page_token"), ("max_result", "max_results"), ("label", "labels")]
)
def test_an_unknown_parameter_is_refused_with_the_nearest(name, near):
    with pytest.raises(PaiUsageError, match=f"{name}.*{near}"):
        list_runs_page(**{name: 1})


def test_a_token_is_opaque_and_goes_back_unchanged():
    assert page_parameters(page_token="eyJ/+=")["PageToken"] == "eyJ/+="
    assert page_parameters(page_token=20)["PageToken"] == "20"


# --- paths


@pytest.mark.parametrize(
    ("part", "encoded"),
    [
        ("run-1", "run-1"),
        ("a/b", "a%2Fb"),
        ("a b+c", "a%20b%2Bc"),
        ("?#%", "%3F%23%25"),
        ("阶段", "%E9%98%B6%E6%AE%B5"),
        ("...", "..."),
    ],
)
def test_a_segment_of_a_path_is_encoded(part, encoded):
    assert segment(part) == encoded
    assert path("runs", part) == f"/api/v1/runs/{encoded}"


@pytest.mark.parametrize("part", ["", ".", "..", None, 5, "\ud800"], ids=repr)
def test_what_would_change_the_resource_is_refused(part):
    with pytest.raises(PaiUsageError):
        path("runs", part)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_id_leaves_its_segment(part):
    if part in (".", ".."):
        return
    assert path("runs", part).count("/") == 4
    assert path("runs", part).isascii()


# --- bodies


def test_a_write_leaves_out_what_is_none_and_has_no_body_without_fields():
    assert json.loads(write("PUT", "UpdateRun", "/p", {"Name": None, "Labels": []}).body) == {"Labels": []}
    assert write("DELETE", "DeleteRun", "/p").body == b""


def test_params_become_text():
    fields = run_fields(None, None, {"lr": 0.1, "epochs": 3, "warm": True, "text": "x", "empty": ""})
    assert fields == {
        "Params": [
            {"Key": "lr", "Value": "0.1"},
            {"Key": "epochs", "Value": "3"},
            {"Key": "warm", "Value": "true"},
            {"Key": "text", "Value": "x"},
            {"Key": "empty", "Value": ""},
        ]
    }


@pytest.mark.parametrize(
    "params", [{"a": None}, {"a": [1]}, {"a": {}}, {1: "x"}, {"": "x"}, ["a"], {"a": "\ud800"}], ids=repr
)
def test_params_that_the_api_cannot_carry_are_refused(params):
    with pytest.raises(PaiUsageError, match=r"[Pp]aram"):
        run_fields(None, None, params)


@pytest.mark.parametrize("name", ["a", "A-1_b", "x" * 63])
def test_good_names_pass(name):
    assert run_fields(name, None, None) == {"Name": name}


@pytest.mark.parametrize("name", ["", "1a", "_a", "a b", "é", "x" * 64, "a\n", "a.b", 5, b"a"], ids=repr)
def test_bad_names_are_refused_with_the_rule(name):
    with pytest.raises(PaiUsageError, match="starts with a letter"):
        run_fields(name, None, None)


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.5, 2**53, Fraction(1, 2), 1e308])
def test_finite_numbers_are_metrics(value):
    assert finite("k", value) == value
    assert type(finite("k", value)) is float


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, True, "0.5", None, [1], 1j, Decimal("NaN"), 10**400],
    ids=lambda v: repr(v)[:20],
)
def test_what_is_not_a_finite_number_is_refused(value):
    with pytest.raises(PaiUsageError, match="finite"):
        finite("k", value)


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 0), (True, 1), (1.0, 1), ("1", 1), (None, 1)])
def test_what_is_not_a_whole_number_is_refused(value, least):
    with pytest.raises(PaiUsageError, match=f"page_size=.*at least {least}"):
        whole_number("page_size", value, least)
