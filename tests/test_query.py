"""A query: its labels and times on the wire, and the client's own check."""

from __future__ import annotations

import contextlib
import itertools
from datetime import date, datetime, timedelta, timezone
from typing import Any

import msgspec
import pendulum
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_pai.api import PaiUsageError, Run, RunQuery
from airflow_provider_pai.api.query import (
    check_keywords,
    check_text,
    format_time,
    parse_labels,
    parse_order,
    parse_time,
)

NOON = datetime(2025, 10, 20, 12, tzinfo=timezone.utc)
ZONES = st.timezones() | st.integers(-14 * 60 + 1, 14 * 60 - 1).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31), timezones=ZONES)

LABEL_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=",=:"), max_size=30).map(
    str.strip
)
LABELS = st.dictionaries(LABEL_TEXT.filter(bool), LABEL_TEXT, max_size=4)


# --- labels


@given(LABELS.filter(bool))
def test_labels_survive_the_wire_and_back(labels):
    wire = RunQuery(labels=labels).parameters()["Labels"]
    assert parse_labels(wire) == labels
    assert RunQuery(labels=wire) == RunQuery(labels=labels)


@given(LABELS.filter(bool), st.randoms())
def test_equal_labels_in_any_form_and_order_are_equal_queries(labels, random):
    pairs = list(labels.items())
    random.shuffle(pairs)
    text = " , ".join(f"{key} : {value}" for key, value in pairs)
    assert RunQuery(labels=dict(pairs)) == RunQuery(labels=text)
    assert RunQuery(labels=text).label_items == sorted(labels.items())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("is_evaluation:true", {"is_evaluation": "true"}),
        ("is_evaluation:true,LLM_evaluation:true", {"LLM_evaluation": "true", "is_evaluation": "true"}),
        (" a : b , c: ", {"a": "b", "c": ""}),
        ("a:b:c", {"a": "b:c"}),
        ({"a:b": "c"}, {"a:b": "c"}),
        ({"阶段": "评估 ✓"}, {"阶段": "评估 ✓"}),
        ({"k" * 128: "v" * 128}, {"k" * 128: "v" * 128}),
        ("a:1,a:1", {"a": "1"}),
        ({}, {}),
    ],
)
def test_labels_are_understood(labels, expected):
    assert parse_labels(labels) == expected
    assert list(parse_labels(labels)) == sorted(expected)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        ({"a,b": "c"}, "key:value"),
        ({"a": "b,c"}, "key:value"),
        ({"a=b": "c"}, "key:value"),
        ({"a": "b=c"}, "key:value"),
        ("a=b", "key:value"),
        ("a:b=c", "key:value"),
        ("is_evaluation", "'key:value'"),
        ("a:b,", "'key:value'"),
        ("a:b,,c:d", "'key:value'"),
        ("", "'key:value'"),
        (" ", "'key:value'"),
        (":", "'key:value'"),
        (":b", "'key:value'"),
        ({"": "b"}, "'key:value'"),
        ({"a": True}, "write 'true'"),
        ({"a": 1}, "write '1'"),
        ({1: "a"}, "write '1'"),
        ({None: "a"}, "text"),
        ({"a": None}, "text"),
        ({"a": ["b"]}, "text"),
        ({"a": b"b"}, "text"),
        ({"k" * 129: ""}, "128 bytes"),
        ({"k": "评" * 43}, "128 bytes"),
        ({"\ud800": "x"}, "surrogate"),
        ("a:1,a:2", "twice|once"),
        (["a:b"], "key:value"),
        (5, "key:value"),
    ],
    ids=repr,
)
def test_bad_labels_are_refused_with_what_to_write(labels, advice):
    with pytest.raises(PaiUsageError, match=advice):
        RunQuery(labels=labels)


@given(st.text(max_size=40))
def test_any_text_is_labels_or_a_usage_error(text):
    try:
        labels = parse_labels(text)
    except PaiUsageError:
        return
    assert labels
    assert parse_labels(labels) == labels


def test_labels_that_a_server_may_read_differently_are_checked_here_and_not_sent():
    for key, value in [("a:b", "c"), ("a", "b:c"), (" a", "b"), ("a", "b ")]:
        query = RunQuery(labels={key: value, "plain": "yes"})
        assert query.parameters()["Labels"] == "plain:yes"
        assert query.parameters()["Verbose"] == "true"
        assert not query.matches(Run(run_id="run-1", labels={"plain": "yes"}))
        assert query.matches(Run(run_id="run-1", labels={"plain": "yes", key: value}))
        assert "Labels" not in RunQuery(labels={key: value}).parameters()


# --- times


@given(MOMENTS, ZONES)
def test_a_moment_in_any_zone_and_format_is_an_equal_query(moment, zone):
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    utc = moment.astimezone(timezone.utc)
    forms = [moment, moment.astimezone(zone), pendulum.instance(utc), utc.isoformat(), format_time(moment)]
    # Historic offsets with seconds (LMT) have no ISO 8601 form.
    forms += [moment.isoformat()] if moment.utcoffset().seconds % 60 == 0 else []
    for form in forms:
        assert RunQuery(created_after=form) == RunQuery(created_after=utc)
        assert RunQuery(created_after=form).created_after.tzinfo is timezone.utc


@given(MOMENTS)
def test_a_time_on_the_wire_is_utc_to_the_millisecond(moment):
    wire = format_time(moment)
    assert len(wire) == len("2021-01-30T12:51:33.028Z")
    late = moment.astimezone(timezone.utc) - parse_time(wire, "gmt_create_time")
    assert timedelta(0) <= late < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "text",
    ["2025-10-20T12:00:00Z", "2025-10-20T20:00:00+08:00", "2025-10-20 12:00:00+00:00", "20251020T120000Z"],
)
def test_iso_8601_texts_with_an_offset_are_times(text):
    assert parse_time(text, "created_after") == NOON


@pytest.mark.parametrize(
    "time",
    [datetime(2025, 10, 20), pendulum.naive(2025, 10, 20), "2025-10-20", "2025-10-20T08:30:00", "20251020"],
    ids=repr,
)
@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_naive_times_are_refused_with_what_to_write(time, name):
    with pytest.raises(PaiUsageError, match=rf"{name}=.*no time zone.*'2025-10-20T08:30:00Z'"):
        RunQuery(**{name: time})


@pytest.mark.parametrize(
    "time",
    [
        "",
        " ",
        "None",
        "yesterday",
        "P1D",
        "2025-10-20T00:00:00Z/P1D",
        "now",
        1700000000,
        True,
        date(2025, 1, 1),
        [],
    ],
    ids=repr,
)
def test_what_is_not_a_time_is_refused_with_what_to_write(time):
    with pytest.raises(PaiUsageError, match=r"created_after=.*Write one such as"):
        RunQuery(created_after=time)


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
    ids=repr,
)
def test_times_outside_the_calendar_are_usage_errors(time):
    with pytest.raises(PaiUsageError, match="created_after"):
        RunQuery(created_after=time)


@given(st.text(st.sampled_from("0123456789-:TZ+./WP "), max_size=30) | st.text(max_size=20))
def test_any_text_is_a_time_or_a_usage_error(text):
    with contextlib.suppress(PaiUsageError):
        assert parse_time(text, "created_after").tzinfo is timezone.utc


@pytest.mark.parametrize("gap", [timedelta(0), timedelta(microseconds=-1), timedelta(days=-1)])
def test_an_empty_window_is_refused(gap):
    with pytest.raises(PaiUsageError, match="no run could match") as caught:
        RunQuery(created_after=NOON, created_before=NOON + gap)
    assert ("data interval has no length" in str(caught.value)) == (gap == timedelta(0))


# --- the other filters


@pytest.mark.parametrize("name", ["workspace_id", "experiment_id", "name", "source_type", "source_id"])
@pytest.mark.parametrize("value", ["", 1.5, True, b"x", ["x"]], ids=repr)
def test_empty_and_non_text_filters_are_refused_by_name(name, value):
    with pytest.raises(PaiUsageError, match=rf"^{name}\b.*(empty|text)"):
        RunQuery(**{name: value})


@pytest.mark.parametrize("name", ["workspace_id", "experiment_id", "name", "source_type", "source_id"])
def test_a_text_that_no_request_can_carry_is_refused(name):
    with pytest.raises(PaiUsageError, match=name):
        RunQuery(**{name: "a\ud800"})


def test_a_workspace_id_may_be_a_number_as_extras_parse_it():
    assert RunQuery(workspace_id=145883) == RunQuery(workspace_id="145883")


@pytest.mark.parametrize("verbose", ["false", "true", None, 0], ids=repr)
def test_verbose_is_true_or_false_and_not_a_text(verbose):
    with pytest.raises(PaiUsageError, match=r"verbose=.*True or False"):
        RunQuery(verbose=verbose)


@pytest.mark.parametrize(
    ("keyword", "near"),
    [
        ("label", "'labels'"),
        ("workspace", "'workspace_id'"),
        ("created_afer", "'created_after'"),
        ("orderby", "'order_by'"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_known(keyword, near):
    with pytest.raises(PaiUsageError, match=rf"'{keyword}'.*Did you mean {near}.*experiment_id"):
        RunQuery.of(**{keyword: "x"})


def test_an_unknown_keyword_that_resembles_none_lists_the_known():
    with pytest.raises(PaiUsageError, match=r"'zzz'\. Known are: run_id, .*verbose"):
        RunQuery.of(zzz=1)
    check_keywords([], [])


@pytest.mark.parametrize("value", [None, "x", " "])
def test_check_text_passes_texts(value):
    check_text("name", value)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("GmtCreateTime", "GmtCreateTime ASC"),
        ("GmtCreateTime desc", "GmtCreateTime DESC"),
        (" GmtCreateTime   DESC , Name ", "GmtCreateTime DESC,Name ASC"),
        ("Name asc,GmtCreateTime desc", "Name ASC,GmtCreateTime DESC"),
    ],
)
def test_every_order_gets_a_direction(given_, expected):
    assert parse_order(given_) == expected
    assert RunQuery(order_by=given_) == RunQuery(order_by=expected)
    assert RunQuery(order_by=given_).parameters()["OrderBy"] == expected


@pytest.mark.parametrize(
    "order", ["", ",", "Name,", "RunId", "Name DOWN", "gmt_create_time", "Name ASC DESC", None, 5]
)
def test_what_is_not_an_order_is_refused_with_what_to_write(order):
    with pytest.raises(PaiUsageError, match=r"order_by=.*'GmtCreateTime DESC,Name ASC'"):
        RunQuery(order_by=order)


def test_the_wire_parameters_of_a_full_query():
    query = RunQuery(
        workspace_id="145883",
        experiment_id="exp-1",
        name="nightly",
        source_type="DLC",
        source_id="job-1",
        labels="is_evaluation:true",
        created_after=NOON,
        created_before=NOON + timedelta(days=1),
        order_by="GmtCreateTime DESC",
        verbose=False,
    )
    assert query.parameters() == {
        "WorkspaceId": "145883",
        "ExperimentId": "exp-1",
        "Name": "nightly",
        "SourceType": "DLC",
        "SourceId": "job-1",
        "Labels": "is_evaluation:true",
        "OrderBy": "GmtCreateTime DESC",
        "Verbose": "true",  # labels can only be checked when they come along
    }
    assert RunQuery(verbose=False).parameters() == {"OrderBy": "GmtCreateTime ASC", "Verbose": "false"}


def test_a_query_is_frozen():
    query = RunQuery(labels="a:b", created_after=NOON, workspace_id="1")
    with pytest.raises(AttributeError):
        query.name = "x"  # type: ignore[misc]


# --- the client's own check, against a predicate written from the API page

FEW = st.sampled_from(["a", "b", "A", "a ", "ab"])
FEW_MOMENTS = st.integers(-3, 3).map(lambda hours: NOON + timedelta(hours=hours))
RUNS = st.builds(
    Run,
    run_id=st.just("run-1"),
    name=st.none() | FEW,
    experiment_id=st.none() | FEW,
    workspace_id=st.none() | FEW,
    source_type=st.none() | FEW,
    source_id=st.none() | FEW,
    gmt_create_time=st.none() | FEW_MOMENTS,
    labels=st.dictionaries(FEW, FEW | st.just(""), max_size=4),
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        **{name: FEW for name in ("name", "experiment_id", "workspace_id", "source_type", "source_id")},
        "labels": st.dictionaries(FEW, FEW | st.just(""), min_size=1, max_size=2),
        "created_after": FEW_MOMENTS,
        "created_before": FEW_MOMENTS,
    },
)


def fulfils(run: Run, query: dict[str, Any]) -> bool:
    record = run.to_dict()
    for name, wanted in query.items():
        if name == "labels":
            answer = set(wanted.items()).issubset(record["labels"].items())
        elif run.gmt_create_time is None and name.startswith("created"):
            answer = False
        elif name == "created_after":
            answer = not run.gmt_create_time < wanted
        elif name == "created_before":
            answer = not run.gmt_create_time >= wanted
        else:
            answer = record[name] == wanted
        if not answer:
            return False
    return True


@given(RUNS, QUERIES)
def test_matches_is_the_conjunction_of_all_conditions(run, query):
    assume(
        query.get("created_after", NOON - timedelta(days=1))
        < query.get("created_before", NOON + timedelta(days=1))
    )
    assert RunQuery(**query).matches(run) is fulfils(run, query)


@pytest.mark.parametrize(
    "names", [("created_after", "created_before"), ("created_after",), ("created_before",)]
)
def test_a_window_holds_its_start_and_not_its_end(names):
    start, end = NOON, NOON + timedelta(hours=1)
    window = {"created_after": start, "created_before": end}
    query = RunQuery(**{name: window[name] for name in names})
    instant = timedelta(microseconds=1)
    expected = {
        start - instant: "created_after" not in names,
        start: True,
        end - instant: True,
        end: "created_before" not in names,
    }
    found = {time: query.matches(Run(run_id="run-1", gmt_create_time=time)) for time in expected}
    assert found == expected


@given(RUNS, st.sampled_from(["name", "labels", "source_id"]))
def test_a_query_made_from_a_run_matches_it(run, name):
    wanted = getattr(run, name) or None
    assert RunQuery(**{name: wanted}).matches(run)


@given(st.lists(RUNS, max_size=6), st.sampled_from(["GmtCreateTime", "Name"]), st.booleans())
def test_sorting_follows_the_order_and_keeps_equals(runs, field, descending):
    runs = [msgspec.structs.replace(run, run_id=str(index)) for index, run in enumerate(runs)]
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)

    def rank(run: Run) -> Any:
        return (run.gmt_create_time or epoch) if field == "GmtCreateTime" else (run.name or "")

    ordered = list(runs)
    RunQuery(order_by=f"{field} {'DESC' if descending else 'ASC'}").sort(ordered)
    assert sorted(ordered, key=lambda run: run.run_id) == sorted(runs, key=lambda run: run.run_id)
    for left, right in itertools.pairwise(ordered):
        assert rank(left) >= rank(right) if descending else rank(left) <= rank(right)
        assert rank(left) != rank(right) or int(left.run_id) < int(right.run_id)
