"""The conformance command: its findings in each setting of the emulator, and that it removes what it made."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from airflow_db import SECRET  # before anything of Airflow
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_pai.conformance.__main__ import main
from airflow_provider_pai.conformance.survey import ASSUMPTIONS
from airflow_provider_pai.emulator import Fault, PaiEmulator, Quirks

ROOT = Path(__file__).parent.parent
NAMES = [assumption.name for assumption in ASSUMPTIONS]
ALWAYS_OPEN = {"throttling", "console_page"}

WHOLE_NUMBERS = {
    "max_results": [1, 3, 1000],
    "hidden_experiment": [2, 10**6],
    "unlisted_experiment": [1, 10**6],
    "unlisted_label": [1, 10**6],
    "logged_values": [100, 2000],
    "hidden_model": [2, 10**6],
    "hidden_version": [1, 10**6],
}
"""The values that are tried of quirks that are numbers."""
CHANGED = {
    ("page_token", "repeated"): {"token_repeats"},
    ("total_count", "absent"): {"total_count", "version_pages"},
    ("labels_filter", "ignored"): {"label_filter"},
    ("label_characters", "narrow"): {"label_characters"},
    ("late_labels", "lost"): {"late_labels"},
    ("unlisted_label", 1): {"new_label"},
    ("unlisted_label", 10**6): {"label_filter", "late_labels", "new_label"},
    ("name_match", "never"): {"name_match"},
    ("order", "ignored"): {"order_by"},
    ("order", "by_name"): {"order_by"},
    ("verbose", "never"): {"verbose"},
    ("default_workspace", "required"): {"default_workspace"},
    ("missing_run", "500"): {"missing_run"},
    ("hidden_experiment", 10**6): {"new_experiment"},
    ("unlisted_experiment", 10**6): {"experiment_names"},
    ("name_taken", "invalid"): {"experiment_names", "model_names", "version_names"},
    ("name_taken", "server_error"): {"experiment_names", "model_names", "version_names"},
    ("hidden_model", 10**6): {"new_version", "model_names", "model_name_match"},
    ("hidden_version", 10**6): {"new_version"},
    ("model_name_match", "never"): {"model_names", "model_name_match"},
    ("model_labels", "ignored"): {"model_labels"},
    ("version_uri", "encoded"): {"version_kept"},
    ("missing_version", "500"): {"missing_version"},
    ("error_body", "nested"): {"error_body"},
    ("non_finite", "zero"): {"nan"},
    ("logged_values", 100): {"logged_values"},
    ("metric_timestamp", "zero"): {"metric_timestamp"},
}
"""Which assumptions a quirk makes different. Other quirks change none."""


SEEN = {
    ("page_token", "offset"): ("page_token", "offset (2, 4), number; at the end 0"),
    ("page_token", "index"): ("page_token", "page index (1, 2), number; at the end 0"),
    ("token_type", "string"): ("page_token", "offset (2, 4), text; at the end '0'"),
    ("last_token", "absent"): ("page_token", "offset (2, 4), number; at the end no token"),
    ("last_token", "null"): ("page_token", "offset (2, 4), number; at the end None"),
    ("empty_pages", "between"): ("empty_pages", "2 of 5 pages are empty"),
    ("empty_pages", "last"): ("empty_pages", "1 of 4 pages are empty"),
    ("name_match", "exact"): ("name_match", "exactly"),
    ("name_match", "fuzzy"): ("name_match", "in part"),
    ("label_split", "first"): ("label_colons", "at the first colon"),
    ("label_split", "last"): ("label_colons", "at the last colon"),
    ("labels_filter", "ignored"): ("label_colons", "in both ways"),
    ("label_characters", "narrow"): ("label_colons", "PAI refuses such labels: InvalidParameter"),
    ("label_characters", "any"): (
        "label_characters",
        "accepted: letters of any script, spaces, colons, signs, 128 bytes; even =; even ,; even 129 bytes",
    ),
    ("created_filter", "exact"): ("gmt_create_time", "exactly"),
    ("created_filter", "since"): ("gmt_create_time", "since"),
    ("created_filter", "prefix"): ("gmt_create_time", "as a prefix"),
    ("created_filter", "ignored"): ("gmt_create_time", "ignored"),
    ("verbose", "always"): ("verbose", "they come with true, and with false, and with no Verbose"),
    ("verbose", "honoured"): ("verbose", "they come with true alone"),
    ("update_labels", "replace"): ("update_run", "labels are replaced, params are replaced"),
    ("update_labels", "merge"): ("update_run", "labels are merged, params are merged"),
    ("hidden_experiment", 2): ("new_experiment", "after 0 s"),
    ("experiment_names", "unique"): (
        "experiment_names",
        "no: HTTP 409 ExperimentAlreadyExists; listed at once",
    ),
    ("experiment_names", "repeatable"): (
        "experiment_names",
        "yes: the second gets an id of its own; listed at once",
    ),
    ("unlisted_experiment", 1): (
        "experiment_names",
        "no: HTTP 409 ExperimentAlreadyExists; listed after 0 s",
    ),
    ("unlisted_label", 1): ("new_label", "found after 0 s"),
    ("unlisted_label", 10**6): ("new_label", "not found after 0 s"),
    ("name_taken", "duplicate"): (
        "experiment_names",
        "no: HTTP 400 DuplicateErrorProblem; listed at once",
    ),
    ("missing_run", "200"): ("missing_run", "HTTP 200 without a name"),
    ("error_body", "lower"): ("error_body", "HTTP 404 JSON with code, ExperimentNotFound"),
    ("error_body", "xml"): ("error_body", "HTTP 404 XML, ExperimentNotFound"),
    ("non_finite", "string"): ("nan", "comes back as text"),
    ("non_finite", "literal"): ("nan", "comes back as a bare word"),
    ("non_finite", "null"): ("nan", "comes back as null"),
    ("logged_values", 2000): ("logged_values", "2,000 are accepted"),
    ("logged_values", 100): ("logged_values", "62 are accepted"),
    ("metric_timestamp", "milliseconds"): ("metric_timestamp", "milliseconds since 1970"),
    ("metric_timestamp", "seconds"): ("metric_timestamp", "seconds since 1970"),
    ("metric_values", "float64"): ("metric_values", "64 bits: 0.93 is 0.93"),
    ("metric_values", "float32"): ("metric_values", "32 bits: 0.93 is 0.9300000071525574"),
    ("hidden_model", 2): ("new_version", "after 0 s"),
    ("hidden_version", 1): ("new_version", "after 0 s"),
    ("model_names", "unique"): ("model_names", "no: HTTP 409 ModelAlreadyExists"),
    ("model_names", "repeatable"): ("model_names", "yes: the second gets an id of its own"),
    ("model_name_match", "exact"): ("model_name_match", "exactly"),
    ("model_name_match", "fuzzy"): ("model_name_match", "in part"),
    ("model_labels", "labels"): ("model_labels", "as Labels"),
    ("model_labels", "tags"): ("model_labels", "as Tags"),
    ("model_labels", "both"): ("model_labels", "as Labels and Tags"),
    ("registry_labels", "kept"): ("registry_labels", "other labels are kept"),
    ("registry_labels", "replaced"): ("registry_labels", "other labels are lost"),
    ("version_filters", "honoured"): ("version_filters", "both"),
    ("version_filters", "ignored"): ("version_filters", "ignored: ApprovalStatus, Label"),
    ("version_pending", "said"): ("version_kept", "unchanged; Pending"),
    ("version_pending", "left_out"): ("version_kept", "unchanged; no approval"),
    ("version_uri", "encoded"): (
        "version_kept",
        "https://example.com/airflow-provider-pai-conformance/a b?c=d#e comes back as "
        "https://example.com/airflow-provider-pai-conformance/a%20b%3Fc%3Dd%23e",
    ),
    ("version_metrics", "object"): ("version_metrics", "as an object"),
    ("version_metrics", "text"): ("version_metrics", "as a text"),
    ("missing_version", "200"): ("missing_version", "HTTP 200 without a name"),
    ("order", "honoured"): (
        "order_by",
        "honoured; by default newest first, without a direction oldest first",
    ),
}
"""What the command reports for a setting of the emulator, besides the verdict."""


def choices(quirk: str) -> list[Any]:
    hint = get_type_hints(Quirks)[quirk]
    return list(get_args(hint)) if get_origin(hint) is Literal else WHOLE_NUMBERS[quirk]


QUIRKS = {field.name: choices(field.name) for field in dataclasses.fields(Quirks)}
USUAL = Quirks().as_dict()
UNUSUAL = [(quirk, value) for quirk, values in QUIRKS.items() for value in values if value != USUAL[quirk]]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not pause: an emulator in this process does everything at once."""
    monkeypatch.setattr("airflow_provider_pai.conformance.asking.PACE_SECONDS", 0.0)
    monkeypatch.setattr("airflow_provider_pai.conformance.asking.PAUSES", (0.0, 0.001, 0.001))
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.001)


@dataclasses.dataclass
class Report:
    """The exit status and the output of the command."""

    status: int
    output: str
    errors: str

    @property
    def found(self) -> dict[str, tuple[str, str]]:
        """Verdict and finding, by the assumption's name."""
        lines = re.findall(r"^(\w+) +(as assumed|different|not decidable) +(.*)$", self.output, re.MULTILINE)
        assert len({name for name, _, _ in lines}) == len(lines)
        return {name: (verdict, seen) for name, verdict, seen in lines}

    def named(self, verdict: str) -> set[str]:
        """The assumptions with this verdict."""
        return {name for name, (its, _) in self.found.items() if its == verdict}


@pytest.fixture
def ask(pai_emulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run the command against the emulator in this process; it must leave nothing there."""
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai_emulator.connection_uri)

    def run(*arguments: str, leaves: bool = False) -> Report:
        before = contents(pai_emulator)
        report = Report(main(list(arguments)), *capsys.readouterr())
        assert SECRET not in report.output + report.errors
        assert (contents(pai_emulator) != before) == leaves
        return report

    return run


def contents(emulator: PaiEmulator) -> tuple[list[Any], list[str], list[Any]]:
    """The runs, the experiments and the models in the emulator."""
    return emulator.runs(), experiments(emulator), emulator.models()


NOTHING: tuple[list[Any], list[str], list[Any]] = ([], [], [])


def experiments(emulator: PaiEmulator) -> list[str]:
    return [body["ExperimentId"] for body in emulator.state.experiments(emulator.workspace_id)]


# --- findings ----------------------------------------------------------------------------------------


def test_everything_is_as_assumed(ask: Any, pai_emulator: Any) -> None:
    report = ask()
    assert report.status == 0
    assert list(report.found) == NAMES
    assert report.named("not decidable") == ALWAYS_OPEN
    assert report.named("different") == set()
    for quirk, value in USUAL.items():
        name, seen = SEEN.get((quirk, value), ("console_page", report.found["console_page"][1]))
        assert report.found[name][1] == seen
    assert f"{pai_emulator.url}, workspace 145883;" in report.output
    assert "38 assumptions: 36 as assumed, 0 different, 2 not decidable." in report.output
    assert re.fullmatch(
        r"Removed airflow-provider-pai-conformance-\w{8}, with its runs and versions.\n", report.errors
    )


def test_it_asks_for_little(ask: Any, pai_emulator: Any) -> None:
    ask()
    counts = pai_emulator.request_counts
    assert counts["ListRuns"] <= 31
    assert sum(counts.values()) <= 115


def test_a_new_experiment_is_asked_for_at_once(ask: Any, pai_emulator: Any) -> None:
    ask()
    first = [request.action for request in pai_emulator.requests][:5]
    assert first == ["ListRuns", "CreateExperiment", "CreateRun", "DeleteRun", "GetExperiment"]


@pytest.mark.any_airflow
@pytest.mark.parametrize(("quirk", "value"), UNUSUAL)
def test_each_quirk_changes_what_it_should(ask: Any, pai_emulator: Any, quirk: str, value: Any) -> None:
    setattr(pai_emulator.quirks, quirk, value)
    report = ask()
    expected = CHANGED.get((quirk, value), set())
    assert list(report.found) == NAMES
    assert report.named("different") == expected
    assert report.status == (1 if expected else 0)
    if (quirk, value) in SEEN:
        name, seen = SEEN[quirk, value]
        assert report.found[name][1] == seen
    for name in expected:
        (assumption,) = (assumption for assumption in ASSUMPTIONS if assumption.name == name)
        assert f"assumed: {assumption.assumed}\n" in report.output
        assert f"setting: {assumption.setting}\n" in report.output


def test_the_tables_name_existing_quirks() -> None:
    assert all(value in QUIRKS[quirk] for quirk, value in (*CHANGED, *SEEN))


@pytest.mark.any_airflow
@given(st.fixed_dictionaries({quirk: st.sampled_from(values) for quirk, values in QUIRKS.items()}))
@example({**USUAL, "page_token": "repeated", "max_results": 1, "experiment_names": "repeatable"})
@settings(max_examples=12)
def test_it_ends_whatever_pai_does(quirks: dict[str, Any]) -> None:
    with (
        PaiEmulator(quirks=Quirks(**quirks)) as emulator,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", emulator.connection_uri)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert main([]) in (0, 1)
        assert "unforeseen" not in output.getvalue()
        assert contents(emulator) == NOTHING


@pytest.mark.any_airflow
def test_a_page_that_is_too_large(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.add_runs(150)
    assert ask().found["page_size"] == (
        "as assumed",
        "100: accepted; 1000, 1001: fewer runs come; the longest page had 100 runs",
    )
    pai_emulator.quirks.max_results_rule = "refuse"
    assert ask().found["page_size"][1].startswith("100: accepted; 1000, 1001: refused;")
    pai_emulator.quirks.max_results = 50
    report = ask()
    assert (report.status, report.found["page_size"]) == (1, ("different", "100 is refused, 50 is accepted"))


def test_other_peoples_runs_disturb_nothing_and_stay(ask: Any, pai_emulator: Any) -> None:
    labels = {"conformance": "other", "part": "a", "late": "other"}
    pai_emulator.add_runs(30, name=lambda index: f"run-{index}", labels=labels)
    pai_emulator.add_experiment("airflow-provider-pai-conformance-00000000")
    report = ask()
    assert report.status == 0
    assert report.named("not decidable") == ALWAYS_OPEN


def test_a_clock_that_goes_wrong_changes_nothing(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.clock_offset = 40_000.0
    report = ask()
    assert report.named("not decidable") == ALWAYS_OPEN
    assert report.found["metric_timestamp"][1] == "milliseconds since 1970"


FAULTS = {
    "page_token": (Fault("patch", "ListRuns", after=2, fields={"NextPageToken": 0}), "3 of 5 runs are lost"),
    "update_run": (
        Fault("body", "UpdateRun", after=4, body="{}"),
        "neither: GetRun does not show the change",
    ),
    "new_experiment": (
        Fault("error", "CreateRun", status=404, code="NotFoundErrorProblem"),
        "at first CreateRun is refused: HTTP 404 NotFoundErrorProblem",
    ),
    "metric_timestamp": (
        Fault("error", "LogRunMetrics", after=2, status=400, code="MissingTimestamp"),
        "a metric without one is refused: HTTP 400 MissingTimestamp",
    ),
    "metric_values": (
        Fault("patch", "GetRun", after=4, fields={"Metrics": [{"Key": "valued", "Value": 0.9}]}),
        "0.93 comes back as 0.9",
    ),
    "version_filters": (
        Fault("patch", "ListModelVersions", after=5, times=3, fields={"Versions": []}),
        "ApprovalStatus: ListModelVersions does not show 0.1.0 after",
    ),
    "registry_labels": (
        Fault("error", "CreateModelVersionLabels", after=1, status=400, code="LabelExists"),
        "a label that exists is refused: HTTP 400 LabelExists",
    ),
    "version_metrics": (
        Fault("patch", "GetModelVersion", after=6, fields={"Metrics": {}}),
        "{'Results': [{'Metrics': {'accuracy': 0.93}}]} comes back as {}",
    ),
    "missing_run": (Fault("error", "GetRun", after=5, status=400, code="InvalidRun"), "HTTP 400 InvalidRun"),
}
"""Findings that need one damaged answer, since no setting of the emulator causes them."""


@pytest.mark.any_airflow
@pytest.mark.parametrize("name", FAULTS)
def test_what_no_quirk_shows(ask: Any, pai_emulator: Any, name: str) -> None:
    fault, seen = FAULTS[name]
    pai_emulator.inject(fault)
    report = ask()
    assert report.status == 1
    assert report.named("different") == {name}
    assert report.found[name][1].startswith(seen)


def test_what_can_be_different_has_been_seen_different() -> None:
    seen = {name for names in CHANGED.values() for name in names} | set(FAULTS) | {"page_size"}
    never = {"empty_pages", "token_or_number", "gmt_create_time", "label_colons"}  # every answer is handled
    assert seen | never | ALWAYS_OPEN == set(NAMES)


def test_an_answer_that_cannot_be_read_is_different(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.inject("patch", action="GetDefaultWorkspace", fields={"WorkspaceId": ["145883"]})
    report = ask()
    assert report.named("different") == {"default_workspace"}
    seen = report.found["default_workspace"][1]
    assert seen.startswith("GetDefaultWorkspace: the answer is not what the API page promises")


def test_an_answer_that_surprises_stops_no_other(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.inject("patch", action="ListRuns", after=10, fields={"Runs": [{"RunId": "run-1"}]})
    report = ask()
    assert report.status == 0
    assert report.found["gmt_create_time"][1] == "unforeseen, please report it: KeyError: 'GmtCreateTime'"
    assert report.named("not decidable") == ALWAYS_OPEN | {"gmt_create_time"}


def test_runs_that_never_show_leave_most_open(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.inject("patch", action="ListRuns", times=None, fields={"Runs": []})
    report = ask()
    assert report.status == 0
    assert report.found["page_token"][1].startswith("ListRuns does not show the new runs after ")
    assert report.found["missing_run"][0] == report.found["error_body"][0] == "as assumed"


def test_throttling_is_reported_if_it_comes(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.quirks.throttle_status = 429
    pai_emulator.inject("throttle", action="GetRun", retry_after_ms=7)
    report = ask()
    assert report.status == 0
    assert report.found["throttling"] == ("as assumed", "came by chance: HTTP 429, retry after 7 ms")


# --- what PAI refuses to this key, or does not do at all ---------------------------------------------


OF_VERSIONS = {
    *("version_names", "version_pages", "version_filters", "registry_labels", "version_metrics"),
    "version_kept",
    "missing_version",
}
OF_MODELS = OF_VERSIONS | {"new_version", "model_names", "model_name_match", "model_labels"}
WITHOUT = {
    "UpdateRun": {"label_characters", "update_run", "late_labels"},
    "LogRunMetrics": {"nan", "logged_values", "metric_timestamp", "metric_values"},
    "GetRun": {
        *("update_run", "nan", "metric_timestamp", "metric_values", "missing_run", "label_characters"),
    },
    "GetExperiment": {"new_experiment"},
    "ListExperiment": {"experiment_names"},
    "GetDefaultWorkspace": {"default_workspace"},
    "GetModel": {"new_version", "model_labels"},
    "ListModels": {"model_names", "model_name_match"},
    "GetModelVersion": {
        *("new_version", "registry_labels", "version_metrics", "missing_version", "version_kept"),
    },
    "ListModelVersions": {"new_version", "version_pages", "version_filters"},
    "UpdateModelVersion": {"version_filters"},
    "CreateModelVersionLabels": {"registry_labels"},
    "CreateModelVersion": OF_VERSIONS | {"new_version", "model_names"},
    "CreateModel": OF_MODELS,
    "CreateExperiment": set(NAMES) - OF_MODELS - {"page_size", "error_body", "default_workspace"},
    "CreateRun": set(NAMES)
    - OF_MODELS
    - {"page_size", "error_body", "default_workspace", "experiment_names"},
}


@pytest.mark.any_airflow
@pytest.mark.parametrize("action", WITHOUT)
def test_a_narrow_policy_leaves_the_rest_decidable(ask: Any, pai_emulator: Any, action: str) -> None:
    pai_emulator.add_run("other")
    pai_emulator.inject("error", action=action, times=None)
    report = ask()
    assert report.status == 0
    assert report.named("not decidable") == WITHOUT[action] | ALWAYS_OPEN
    for name in WITHOUT[action] - ALWAYS_OPEN:
        assert report.found[name][1] == f"no permission for {action}"


KINDS = ["throttle", "server_error", "error", "html", "reset", "reset_after", "truncate"]
PLACES = [
    *[("CreateExperiment", 0), ("CreateRun", 3), ("ListRuns", 6), ("UpdateRun", 2), ("DeleteRun", 2)],
    *[("CreateModel", 0), ("CreateModelVersion", 1), ("DeleteModelVersion", 2), ("ListModels", 0)],
]


@pytest.mark.any_airflow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_midway_leaves_nothing(ask: Any, pai_emulator: Any, kind: str) -> None:
    pai_emulator.quirks.experiment_with_runs = "refused"  # else a forgotten run would go unnoticed
    pai_emulator.quirks.model_with_versions = "refused"
    for action, after in PLACES:
        if kind == "error" and action.startswith("Delete"):
            continue  # another test covers what may not be removed
        pai_emulator.inject(Fault(kind, action, after=after))
        report = ask()
        assert list(report.found) == NAMES
        # If the answer was lost and the experiment does not show, the command names it to be safe.
        perhaps = re.search(
            r"NOT REMOVED: perhaps an? (\w+) airflow-provider-pai-conformance-", report.errors
        )
        unknown = kind in ("server_error", "html", "reset")
        left = {"CreateExperiment": "experiment", "CreateModel": "model"}.get(action) if unknown else None
        assert (perhaps and perhaps[1]) == left
        assert report.status == (2 if perhaps else 0)


def test_it_stops_where_pai_does_not_answer(ask: Any, pai_emulator: Any) -> None:
    for action in ("GetRun", "LogRunMetrics", "UpdateRun"):
        pai_emulator.inject("server_error", action=action, times=None)
    report = ask()
    assert report.status == 2
    assert "Stopped: PaiUnavailableError: UpdateRun: ServiceUnavailable" in report.errors


def test_what_cannot_be_removed_is_reported(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.inject("error", action="DeleteRun", times=None)
    report = ask(leaves=True)
    assert report.status == 2
    (run,) = pai_emulator.runs()  # the command created nothing more after this
    assert f"NOT REMOVED: the experiment {run['ExperimentId']} (" in report.errors
    assert f"and its runs {run['RunId']}, because: DeleteRun: NoPermission" in report.errors
    pai_emulator.clear_faults()
    report = ask(*removal_arguments(report), leaves=True)
    assert (report.status, report.found) == (0, {})
    assert contents(pai_emulator) == NOTHING


def test_a_twin_of_the_model_is_removed(ask: Any, signals: Any, pai_emulator: Any) -> None:
    pai_emulator.quirks.model_names = "repeatable"
    pai_emulator.inject("reset_after", action="CreateModel", after=1)
    report = ask()
    assert (report.status, report.found["model_names"][0]) == (0, "not decidable")
    signals({("CreateModel", 2): signal.SIGTERM})
    assert ask().status == 128 + signal.SIGTERM


def test_a_model_that_cannot_be_removed_is_named_and_removed_later(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.inject("error", action="DeleteModel", times=None)
    report = ask(leaves=True)
    (model,) = pai_emulator.models()
    assert (report.status, experiments(pai_emulator)) == (2, [])
    assert f"NOT REMOVED: the model {model['ModelId']}, because: DeleteModel: NoPermission" in report.errors
    pai_emulator.clear_faults()
    assert ask(*removal_arguments(report), leaves=True).status == 0
    assert contents(pai_emulator) == NOTHING


def test_a_twin_of_the_experiment_is_removed(ask: Any, signals: Any, pai_emulator: Any) -> None:
    pai_emulator.quirks.experiment_names = "repeatable"
    pai_emulator.inject("reset_after", action="CreateExperiment", after=1)
    report = ask()
    assert (report.status, report.found["experiment_names"][0]) == (0, "not decidable")
    pai_emulator.quirks.unlisted_experiment = 1
    signals({("CreateExperiment", 2): signal.SIGTERM})
    assert ask().status == 128 + signal.SIGTERM


def test_all_twins_that_an_earlier_command_left_are_removed(ask: Any, pai_emulator: Any) -> None:
    pai_emulator.quirks.experiment_with_runs = "refused"
    pai_emulator.quirks.experiment_names = "repeatable"
    name = "airflow-provider-pai-conformance-00000000"
    for experiment_id in [pai_emulator.add_experiment(name) for _ in range(3)]:
        pai_emulator.add_run(experiment_id=experiment_id)
    assert ask("--remove", name, leaves=True).status == 0
    assert contents(pai_emulator) == NOTHING


def removal_arguments(report: Report) -> list[str]:
    """The arguments that, as the command says, remove what is left."""
    return report.errors.strip().rpartition("add to this command: ")[2].split()


def test_nothing_else_is_removed(ask: Any, pai_emulator: Any, capsys: Any) -> None:
    pai_emulator.add_run(experiment_id=pai_emulator.add_experiment("precious"))
    with pytest.raises(SystemExit):
        main(["--remove", "precious"])
    assert "named airflow-provider-pai-conformance-" in capsys.readouterr().err
    report = ask("--remove", "airflow-provider-pai-conformance-00000000")
    assert report.status == 2
    assert "because: no experiment of this name shows" in report.errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"password": "wrong-secret"},
            "PaiAuthenticationError: ListRuns: SignatureDoesNotMatch",
        ),
        (
            {"host": "http://127.0.0.1:9"},
            "PaiTransportError: ListRuns: no answer from 127.0.0.1:9",
        ),
        (
            {"host": "", "extra": "{}"},
            "PaiConfigurationError: The connection 'pai_default' has",
        ),
        (
            {"conn_type": "http"},
            "PaiConfigurationError: The connection 'pai_default' is of type",
        ),
    ],
)
def test_a_connection_that_is_wrong(
    pai_emulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, fields: Any, message: str
) -> None:
    good = {"conn_type": "pai", "login": "emulator", "password": SECRET, "host": pai_emulator.url}
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", json.dumps({**good, **fields}))
    assert main([]) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith(f"Cannot start: {message}")
    assert "secret" not in (output + errors).replace("its secret", "")
    assert "CreateExperiment" not in pai_emulator.request_counts


def test_without_a_workspace_it_uses_the_default_one(
    ask: Any, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = pai_emulator.connection_uri.partition("&workspace_id")[0]
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
    for value in QUIRKS["default_workspace"]:
        pai_emulator.quirks.default_workspace = value
        report = ask()
        assert "the default workspace;" in report.output
        assert report.named("not decidable") == ALWAYS_OPEN
        assert report.status == (value == "required")


def test_another_workspace_and_an_artifact_uri(ask: Any, pai_emulator: Any) -> None:
    report = ask(
        "--workspace-id", "145884", "--artifact-uri", "oss://bucket/path", "--conn-id", "pai_default"
    )
    assert report.status == 0
    assert report.found["default_workspace"] == (
        "not decidable",
        "the default workspace 145883 holds no runs",
    )
    report = ask("--artifact-uri", "https://bucket/path")
    assert "CreateExperiment: InvalidParameter: The parameter ArtifactUri" in report.found["page_token"][1]


# --- interruptions ----------------------------------------------------------------------------------------


@pytest.fixture
def heard() -> Iterator[None]:
    """Let signals end processes, even where the tests run under nohup or in the background of a shell."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals(heard: None, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Send a process signals while some requests are on their way: ``{(action, count): signal}``."""
    pai_emulator.quirks.experiment_with_runs = "refused"  # else a forgotten run would go unnoticed
    pai_emulator.quirks.model_with_versions = "refused"
    # A request that is on its way is still carried out, so its effect shows a moment later.
    monkeypatch.setattr("airflow_provider_pai.conformance.asking.PAUSES", (0.0, 0.1, 0.5, 5.0))

    def send(wanted: dict[tuple[str, int], int], process: int = os.getpid()) -> None:
        def requested(action: str, count: int) -> None:
            if (number := wanted.pop((action, count), None)) is not None:
                os.kill(process, number)

        pai_emulator.clear_requests()
        pai_emulator.before_request(requested)

    return send


POINTS = {
    signal.SIGINT: [("CreateExperiment", 1), ("ListRuns", 2), ("ListRuns", 9), ("UpdateRun", 1)],
    signal.SIGTERM: [("CreateExperiment", 1), ("CreateRun", 6), ("ListRuns", 28), ("LogRunMetrics", 2)],
    signal.SIGHUP: [
        *[("CreateRun", 1), ("DeleteRun", 1), ("ListRuns", 20), ("GetExperiment", 1)],
        *[("CreateModel", 1), ("CreateModelVersion", 3)],
    ],
}
"""When each signal comes. PAI carries out the request, and the command never reads the answer."""


@pytest.mark.any_airflow
@pytest.mark.parametrize("number", POINTS)
def test_an_interruption_leaves_nothing(ask: Any, signals: Any, number: signal.Signals) -> None:
    for point in POINTS[number]:
        signals({point: number})
        report = ask()
        assert report.status == 128 + number
        assert len(report.found) < len(NAMES)
        assert report.errors.startswith(
            "Interrupted: removing what was created; a second interrupt leaves it.\nRemoved "
        )


def test_the_first_signal_does_not_stop_the_removal(ask: Any, signals: Any) -> None:
    signals({("DeleteRun", 4): signal.SIGTERM})
    report = ask()
    assert (report.status, list(report.found)) == (0, NAMES)


@pytest.mark.any_airflow
def test_the_second_signal_leaves_what_is_left_and_says_so(ask: Any, signals: Any, pai_emulator: Any) -> None:
    signals({("ListRuns", 12): signal.SIGINT, ("DeleteRun", 3): signal.SIGINT})
    report = ask(leaves=True)
    assert report.status == 2
    assert "because: interrupted" in report.errors
    assert experiments(pai_emulator)[0] in report.errors
    left = pai_emulator.runs()
    assert left
    assert all(run["RunId"] in report.errors for run in left)
    assert ask(*removal_arguments(report), leaves=True).status == 0
    assert contents(pai_emulator) == NOTHING


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.any_airflow), signal.SIGTERM]
)
def test_the_command_needs_no_database_and_can_be_interrupted(
    pai_emulator: Any, signals: Any, tmp_path: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "AIRFLOW_CONN_PAI_DEFAULT": pai_emulator.connection_uri}
    # Another test of this session may have made the database of this process's home.
    environment |= {"AIRFLOW_HOME": str(tmp_path / "airflow"), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_pai.conformance", "--conn-id", "pai_default"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        signals({("CreateRun", 4): number}, process.pid)
        try:
            report = Report(0, *process.communicate(timeout=100))
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "\nInterrupted: " in f"\n{report.errors}"  # Airflow may have warned of its own settings before
    assert "Traceback" not in report.errors
    assert SECRET not in report.output + report.errors
    assert contents(pai_emulator) == NOTHING


# --- the documents ------------------------------------------------------------------------------------------


def test_the_document_and_the_checks_are_the_same_list() -> None:
    text = (ROOT / "docs" / "fidelity.md").read_text("utf-8")
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines()[2:]]
    documented = [(name, question, assumed, setting) for name, question, _, assumed, setting in rows]
    assert documented == [(f"`{it.name}`", it.question, it.assumed, it.setting) for it in ASSUMPTIONS]


@pytest.mark.any_airflow
def test_the_sample_in_the_document_is_what_the_command_says(ask: Any) -> None:
    text = (ROOT / "docs" / "conformance.md").read_text("utf-8")
    sample = text.partition("```text\n")[2].partition("```")[0]

    def alike(output: str) -> str:
        return re.sub(r"127\.0\.0\.1:\d+|conformance-\w{8}", "…", output)

    output = ask().output
    assert alike(sample) == alike(output[output.index("http://") :])  # Airflow 2 logs here too
