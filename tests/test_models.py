"""Records are decoded from every answer that PAI may give, and any other answer is refused."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.api import (
    Metric,
    PaiError,
    PaiResponseError,
    Response,
    Run,
    RunQuery,
    get_experiment,
    get_run,
    list_run_metrics,
    list_runs,
    list_runs_page,
    list_workspaces,
    models,
    reading,
)
from airflow_provider_pai.api.models import last_values

SPECIMEN = Path(__file__).parent / "data" / "list-runs-success.json"
CREATED = datetime(2021, 1, 30, 12, 51, 33, 28000, timezone.utc)


def records(kind: type) -> list[type]:
    """Every kind of record there is, and every kind of page."""
    return [record for below in kind.__subclasses__() for record in (below, *records(below))]


def ok(body: bytes | dict[str, Any], **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(
        status=200, headers={name.replace("_", "-"): text for name, text in headers.items()}, body=raw
    )


@pytest.fixture
def decode(play):
    """One run of a page, from its JSON fields."""

    def decode(**fields: Any) -> Run:
        (run,) = play(list_runs_page(), [ok({"Runs": [{"RunId": "run-1", **fields}]})]).runs
        return run

    return decode


def test_the_specs_own_success_response_decodes_unchanged(play):
    page = play(list_runs_page(), [ok(SPECIMEN.read_bytes())])
    assert page.request_id == "ADF6D849-*****-7E7030F0CE53"
    assert (page.total_count, page.next_page_token) == (1, 0)
    assert page.runs == [
        Run(
            run_id="run-1qJhzJ2YXgX****",
            name="testrun",
            experiment_id="exp-1zpfthdx******",
            workspace_id="145883",
            source_type="TrainingService",
            source_id="train9s0afvjkf",
            owner_id="1631044****3440",
            user_id="",
            accessibility="PRIVATE",
            gmt_create_time=CREATED,
            gmt_modified_time=CREATED,
            labels={"": ""},
            params={"": ""},
            metrics=[Metric("", 0.0, 0, 0)],
        )
    ]


def test_the_specs_own_success_response_is_a_listing_of_one(play):
    runs = play(list_runs(RunQuery(workspace_id="145883", name="testrun")), [ok(SPECIMEN.read_bytes())])
    assert [run.run_id for run in runs] == ["run-1qJhzJ2YXgX****"]


def test_fields_that_nobody_knows_are_ignored_at_every_level(play):
    page = json.loads(SPECIMEN.read_bytes())
    run = page["Runs"][0]
    for level in (page, run, run["Labels"][0], run["Params"][0], run["Metrics"][0]):
        level["BrandNew"] = {"deep": [1, None]}
    assert play(list_runs_page(), [ok(page)]) == play(list_runs_page(), [ok(SPECIMEN.read_bytes())])


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
@pytest.mark.parametrize("name", sorted(json.loads(SPECIMEN.read_bytes())["Runs"][0].keys() - {"RunId"}))
def test_any_field_of_a_run_but_its_id_may_be_absent_or_null(play, name, absent):
    page = json.loads(SPECIMEN.read_bytes())
    run = page["Runs"][0]
    run[name] = None
    if absent:
        del run[name]
    (decoded,) = play(list_runs_page(), [ok(page)]).runs
    attribute = msgspec.structs.fields(Run)
    names = {field.encode_name: field.name for field in attribute}
    if name in names:
        expected: Any = {"labels": {}, "params": {}, "metrics": []}.get(names[name])
        assert getattr(decoded, names[name]) == expected


@pytest.mark.parametrize(
    "envelope", [{}, {"Runs": None}, {"Runs": []}, {"TotalCount": None, "NextPageToken": None}]
)
def test_an_envelope_may_lack_everything(play, envelope):
    page = play(list_runs_page(), [ok(envelope)])
    assert (page.runs, page.total_count, page.next_page_token) == ([], None, None)


def test_null_in_pairs_and_metrics_is_an_empty_text_and_nan(decode):
    run = decode(
        Labels=[{"Key": "a", "Value": None}, {"Key": "b"}],
        Params=[{"Key": "p", "Value": None}],
        Metrics=[{"Key": "m", "Value": None, "Step": None, "Timestamp": None}],
    )
    assert (run.labels, run.params) == ({"a": "", "b": ""}, {"p": ""})
    assert math.isnan(run.metrics[0].value)
    assert (run.metrics[0].step, run.metrics[0].timestamp) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"RunId": 5},
        {"RunId": None},
        {"Labels": {}},
        {"Labels": ["a:b"]},
        {"Labels": [{"Value": "without a key"}]},
        {"Params": [{"Key": 5, "Value": "x"}]},
        {"Labels": [{"Key": "k", "Value": ["v"]}]},
        {"Metrics": [{"Value": 1}]},
        {"Metrics": [{"Key": "k", "Value": 1, "Step": 1.5}]},
        {"Metrics": [{"Key": "k", "Value": 1, "Step": "first"}]},
        {"Metrics": {"k": 1}},
    ],
    ids=repr,
)
def test_a_wrong_type_is_refused_and_the_request_named(play, fields):
    body = {"requestId": "FROM-BODY", "Runs": [{"RunId": "run-1", **fields}]}
    with pytest.raises(PaiResponseError, match="FROM-BODY") as caught:
        play(list_runs_page(), [ok(body, x_acs_request_id="FROM-HEADER")])
    assert (caught.value.request_id, caught.value.status) == ("FROM-BODY", 200)
    assert not caught.value.transient
    assert caught.value.__cause__ is None


HALF_PAST = datetime(2021, 1, 30, 12, 51, tzinfo=timezone.utc)
ODD: list[tuple[dict[str, Any], Any, str]] = [
    ({"Name": 5}, "5", ""),
    ({"Name": ["a"]}, None, "Name"),
    ({"WorkspaceId": 145883}, "145883", ""),
    ({"GmtModifiedTime": ""}, None, ""),
    ({"GmtModifiedTime": "0001-01-01T00:00:00+12:00"}, None, "GmtModifiedTime"),
    ({"GmtCreateTime": "2021-01-30T12:51Z"}, HALF_PAST, ""),
    ({"GmtCreateTime": "2021-01-30T20:51+08:00"}, HALF_PAST, ""),
    ({"GmtCreateTime": 1700000000}, None, "GmtCreateTime"),
    ({"GmtCreateTime": "yesterday"}, None, "GmtCreateTime"),
    ({"GmtCreateTime": "2021-01-30T12:51:33"}, None, "GmtCreateTime"),
    ({"GmtCreateTime": "9999-12-31T23:59:59-12:00"}, None, "GmtCreateTime"),
    ({"Labels": [{"Key": "k", "Value": True}, {"Key": "n", "Value": 1}]}, {"k": "true", "n": "1"}, ""),
    ({"Params": [{"Key": "lr", "Value": 0.1}]}, {"lr": "0.1"}, ""),
    ({"Metrics": [{"Key": "k", "Value": "0.5"}]}, [("k", 0.5, None, None)], ""),
    ({"Metrics": [{"Key": "k", "Value": 1, "Step": "1"}]}, [("k", 1, 1, None)], ""),
    ({"Metrics": [{"Key": "k", "Value": 1, "Step": 1.0}]}, [("k", 1, 1, None)], ""),
    ({"Metrics": [{"Key": "k", "Value": 1, "Timestamp": 1.5}]}, [("k", 1, None, None)], "Timestamp"),
    ({"Metrics": [{"Key": "k", "Value": math.inf}]}, [("k", math.inf, None, None)], ""),
    ({"Metrics": [{"Key": "k", "Value": True}]}, [("k", None, None, None)], ""),
    ({"Metrics": [{"Key": "k", "Value": [1]}]}, [("k", None, None, None)], "Value"),
    ({"Metrics": [{"Key": "k"}]}, [("k", None, None, None)], ""),
]


@pytest.mark.parametrize(("fields", "read", "says"), ODD, ids=[repr(fields) for fields, _, _ in ODD])
def test_one_odd_record_hides_no_other(play, caplog, fields, read, says):
    reading._say.cache_clear()
    records = [{"RunId": "run-1", "Name": "a"}, {"RunId": "run-2", **fields}]
    page = play(list_runs_page(), [ok({"Runs": records, "TotalCount": "2", "NextPageToken": 0})])
    assert ([run.run_id for run in page.runs], page.total_count) == (["run-1", "run-2"], 2)
    (name,) = fields
    found = getattr(page.runs[1], re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
    if name == "Metrics":
        found = [(m.key, None if math.isnan(m.value) else m.value, m.step, m.timestamp) for m in found]
    assert found == read
    assert [record.args[1] for record in caplog.records] == ([says] if says else [])


def test_a_number_beyond_a_double_is_infinite(play):
    body = b'{"Runs": [{"RunId": "run-1", "Metrics": [{"Key": "k", "Value": -1e400}]}]}'
    assert play(list_runs_page(), [ok(body)]).runs[0].metrics[0].value == -math.inf


@pytest.mark.parametrize("total", ["many", 1.5, True, []])
def test_a_total_count_that_is_no_number_is_not_told(play, total):
    assert play(list_runs_page(), [ok({"Runs": [], "TotalCount": total})]).total_count is None


@pytest.mark.parametrize("created", ["yesterday", "", None])
def test_a_window_of_time_refuses_a_run_that_may_or_may_not_be_in_it(play, created):
    records = [{"RunId": "run-1", "Name": "other"}, {"RunId": "run-2", "Name": "a"}]
    body = {"Runs": [{**record, "GmtCreateTime": created} for record in records]}
    query = RunQuery(name="a", created_after="2021-01-30T00:00:00Z")
    with pytest.raises(PaiResponseError, match="creation time of the run 'run-2'"):
        play(list_runs(query), [ok(body)])
    assert len(play(list_runs(RunQuery(name="a")), [ok(body)])) == 1


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"5", b'"text"', b'{"Runs": 5}', b'{"Runs": [null]}', b'{"Runs": [[]]}']
)
def test_a_wrong_shape_is_refused_with_the_headers_request_id(play, body):
    with pytest.raises(PaiResponseError) as caught:
        play(list_runs_page(), [ok(body, x_acs_request_id="FROM-HEADER")])
    assert caught.value.request_id == "FROM-HEADER"


def test_an_answer_without_any_request_id_says_so(play):
    with pytest.raises(PaiResponseError, match="request id not given") as caught:
        play(list_runs_page(), [ok(b"[]")])
    assert caught.value.request_id is None


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("NaN", math.nan),
        ('"NaN"', math.nan),
        ("null", math.nan),
        ("Infinity", math.inf),
        ('"Infinity"', math.inf),
        ("-Infinity", -math.inf),
        ('"-Infinity"', -math.inf),
        ("0", 0.0),
        ("-0.0", 0.0),
        ("1e-320", 1e-320),
    ],
)
def test_every_spelling_of_a_metrics_value_is_understood(play, spelling, expected):
    body = f'{{"Runs": [{{"RunId": "run-1", "Metrics": [{{"Key": "k", "Value": {spelling}}}]}}]}}'
    (run,) = play(list_runs_page(), [ok(body.encode())]).runs
    value = run.metrics[0].value
    assert type(value) is float
    assert value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (0.0, 0.0)]
)
def test_to_dict_spells_what_json_cannot_carry(value, text):
    run = Run(run_id="run-1", metrics=[Metric("k", value)])
    assert json.loads(json.dumps(run.to_dict(), allow_nan=False))["metrics"] == {"k": text}


def test_to_dict_has_every_name_with_iso_times():
    run = Run(run_id="run-1", gmt_create_time=CREATED, labels={"a": "b"}, params={"p": "1"})
    expected = dict.fromkeys(Run.__struct_fields__)
    expected |= {"run_id": "run-1", "labels": {"a": "b"}, "params": {"p": "1"}, "metrics": {}}
    expected |= {"gmt_create_time": "2021-01-30T12:51:33.028000+00:00"}
    assert run.to_dict() == expected


@pytest.mark.parametrize("offset", ["Z", "+00:00", "+08:00", "-03:30"])
def test_times_are_held_in_utc(decode, offset):
    created = decode(GmtCreateTime=f"2021-01-30T12:51:33.028{offset}").gmt_create_time
    assert created.tzinfo is timezone.utc
    assert created == datetime.fromisoformat(f"2021-01-30T12:51:33.028{offset.replace('Z', '+00:00')}")


METRICS = st.builds(
    Metric,
    st.sampled_from(["accuracy", "loss"]),
    st.floats(width=32),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
)
WIRE_RUNS = st.fixed_dictionaries(
    {"RunId": st.text(min_size=1)},
    optional={
        "Name": st.none() | st.text(),
        "GmtCreateTime": st.none()
        | st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=8))])).map(
            lambda time: time.isoformat()
        ),
        "Labels": st.none()
        | st.lists(st.fixed_dictionaries({"Key": st.text(), "Value": st.text()}), max_size=3),
        "Metrics": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {
                    "Key": st.text(max_size=2),
                    "Value": st.none() | st.floats() | st.sampled_from(["NaN", "-Infinity"]),
                },
                optional={"Step": st.none() | st.integers(0, 5)},
            ),
            max_size=4,
        ),
    },
)


@given(WIRE_RUNS)
def test_every_run_that_decodes_goes_to_xcom_as_strict_json(play, fields):
    # json.dumps writes NaN and Infinity as bare words here, as some servers do.
    try:
        (run,) = play(list_runs_page(), [ok({"Runs": [fields]})]).runs
    except PaiResponseError:
        assert fields.get("GmtCreateTime", "")[:4] in ("0001", "9999")  # outside the years of datetime in UTC
        return
    record = run.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@given(st.lists(METRICS, max_size=8))
def test_the_last_value_is_that_of_the_highest_step_then_timestamp_then_position(metrics):
    expected: dict[str, float] = {}
    for key in {metric.key for metric in metrics}:
        ranked = [
            (metric.step or 0, metric.timestamp or 0, position, metric.value)
            for position, metric in enumerate(metrics)
            if metric.key == key
        ]
        expected[key] = max(ranked, key=lambda entry: entry[:3])[3]
    actual = last_values(metrics)
    assert {key: repr(value) for key, value in actual.items()} == {
        key: repr(value) for key, value in expected.items()
    }


def test_zero_steps_and_values_count_like_any_other():
    metrics = [Metric("k", 5.0, step=1), Metric("k", 0.0, step=2), Metric("j", 0.0, step=0)]
    assert last_values(metrics) == {"k": 0.0, "j": 0.0}


def test_a_page_of_metrics_and_one_of_workspaces_decode(play):
    metrics = {"Metrics": [{"Key": "k", "Value": 1, "Step": 0, "Timestamp": 5}], "NextPageToken": "0"}
    assert play(list_run_metrics("run-1", "k"), [ok(metrics)]) == [Metric("k", 1.0, 0, 5)]
    workspaces = {
        "TotalCount": 1,
        "Workspaces": [
            {"WorkspaceId": "1", "WorkspaceName": "w", "GmtCreateTime": "any", "EnvTypes": ["prod"]}
        ],
    }
    assert [workspace.workspace_id for workspace in play(list_workspaces(), [ok(workspaces)])] == ["1"]


def test_an_experiments_labels_are_a_dict_and_its_times_are_utc(play):
    body = {
        "ExperimentId": "exp-1",
        "Labels": [{"Key": "a", "Value": "b"}],
        "GmtCreateTime": "2021-01-30T20:51:33.028+08:00",
    }
    experiment = play(get_experiment("exp-1"), [ok(body)])
    assert (experiment.labels, experiment.gmt_create_time) == ({"a": "b"}, CREATED)
    assert experiment.gmt_create_time.utcoffset() == timedelta(0)


def test_get_run_gives_a_plain_run_which_survives_copy_and_pickle(play):
    run = play(get_run("run-1"), [ok(json.loads(SPECIMEN.read_bytes())["Runs"][0])])
    assert type(run) is Run
    assert copy.deepcopy(run) == run
    assert pickle.loads(pickle.dumps(run)) == run


def test_a_surrogate_in_an_answer_does_not_crash(play):
    body = b'{"Runs": [{"RunId": "run-1", "Name": "\\ud800"}]}'
    with contextlib.suppress(PaiError):
        json.dumps([run.to_dict() for run in play(list_runs_page(), [ok(body)]).runs]).encode()


@pytest.mark.parametrize("kind", records(models.Record), ids=lambda kind: kind.__name__)
def test_every_record_has_a_plain_json_form_under_its_own_names(kind):
    required = {field.name: "text" for field in msgspec.structs.fields(kind) if field.required}
    plain = kind(**{name: required[name] if name != "value" else math.inf for name in required}).to_dict()
    assert tuple(plain) == kind.__struct_fields__
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
