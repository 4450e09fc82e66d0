"""The assumptions about writing experiments, labels and metrics."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from airflow_provider_pai import api
from airflow_provider_pai.api.by_name import says_taken
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request
from airflow_provider_pai.api.models import Experiment, MaybeRun, MetricPage
from airflow_provider_pai.api.parameters import pairs, path, write
from airflow_provider_pai.conformance.asking import Answer, NotDecidable, short, until
from airflow_provider_pai.conformance.assumptions import Finding, as_assumed, assumption, different
from airflow_provider_pai.conformance.scene import Scene

__all__ = [
    "experiment_names",
    "label_characters",
    "late_labels",
    "logged_values",
    "metric_timestamp",
    "metric_values",
    "nan",
    "new_experiment",
    "new_label",
    "update_run",
]

LABELS = {
    "letters of any script": ("ключ", "值-é"),
    "spaces": ("a key", "a value"),
    "colons": ("a:b", "c:d"),
    "signs": ("a/b.c@d", "+-_#%&?"),
    "128 bytes": ("k" * 128, "v" * 128),
}
"""Labels that the provider accepts."""
MORE_LABELS = {"=": ("a=b", "c=d"), ",": ("a,b", "c,d"), "129 bytes": ("k" * 129, "v" * 129)}
"""Labels that the provider refuses."""


@assumption(
    "How soon is a new experiment visible?",
    assumed="Within a minute; until then `get_experiment` and `create_run` raise "
    "`PaiExperimentNotFoundError`, which Airflow may retry.",
    setting="Give the task that creates it, and the one that adds its first run, `retries`.",
)
def new_experiment(scene: Scene) -> Flow[Finding]:
    """Create an experiment and at once a run in it, and ask for the experiment until PAI shows it."""
    experiment_id = yield from scene.experiment()
    yield from scene.gone()

    def attempt(wait: float) -> Flow[bool | None]:
        request = Request(action="GetExperiment", path=path("experiments", experiment_id))
        try:
            answer = yield from scene.ask(request, Experiment, wait=wait)
        except api.PaiUnavailableError:
            return None  # the vendor's Terraform provider takes this for "not visible yet" too
        if answer.error is not None and not isinstance(answer.error, api.PaiNotFoundError):
            raise answer.error
        return None if answer.error is not None else True

    seen, waited = yield from until(attempt)
    if scene.first_run_refused:
        return different(f"at first CreateRun is refused: {scene.first_run_refused}")
    if not seen:
        return different(f"not within {waited:.0f} s")
    return as_assumed(f"after {waited:.0f} s" if waited else "at once")


@assumption(
    "May a workspace hold two experiments of one name?",
    assumed="Either. `get_or_create_experiment` looks for the name, creates, and looks again for up to a "
    "minute: where PAI refuses with 409, or with words such as `exists`, `duplicate` or `in use`; and where "
    "PAI shows the new experiment late. Of several it takes the oldest.",
    setting="If PAI refuses in other words, or shows an experiment later than that: create it in a task "
    "before those that would create it at the same time. Please report the code.",
)
def experiment_names(scene: Scene) -> Flow[Finding]:
    """Create a second experiment of the same name, once PAI lists the first."""
    experiment_id = yield from scene.experiment()

    def attempt(wait: float) -> Flow[bool | None]:
        return True if experiment_id in (yield from scene.named(wait=wait)) else None

    listed, waited = yield from until(attempt)
    if not listed:
        return different(f"ListExperiment does not show the experiment after {waited:.0f} s")
    shown = f"listed after {waited:.0f} s" if waited else "listed at once"
    error = yield from scene.twin()
    if error is None:
        return as_assumed(f"yes: the second gets an id of its own; {shown}")
    if isinstance(error, (api.PaiPermissionError, api.PaiAuthenticationError, api.PaiThrottledError)):
        raise error
    if says_taken(error):
        return as_assumed(f"no: {short(error)}; {shown}")
    return different(f"refused in words that the provider does not know: {short(error)}: {error.message}")


@assumption(
    "How soon does `ListRuns` find a new run by its label?",
    assumed="At once. A tracked task looks for its run by a label: in a retry, and once more after it has "
    "created one, in case another did so too.",
    setting="Give tracked tasks a `retry_delay` that is longer than that. A retry that comes before may "
    "create another run of the same label, and so may a try that starts at the same moment. Later tries "
    "write to the older one.",
)
def new_label(scene: Scene) -> Flow[Finding]:
    """Create a run with a label, and list until it is found by it."""
    other, *_ = yield from scene.runs()
    run_id = yield from scene.make_run("labelled", labels={"new": scene.mark})
    found, waited = yield from until(_finding(scene, f"new:{scene.mark}", run_id, other.run_id))
    if not found:
        return different(f"not found after {waited:.0f} s")
    return different(f"found after {waited:.0f} s") if waited else as_assumed("found at once")


def _finding(scene: Scene, label: str, run_id: str, other_id: str) -> Callable[[float], Flow[bool | None]]:
    """Return an attempt to find a run by its label, and not another that does not have it."""

    def attempt(wait: float) -> Flow[bool | None]:
        listing = (yield from scene.listing({"Labels": label}, wait=wait)).must()
        if other_id in listing.ids:
            raise NotDecidable("runs without the label are found too: see label_filter")
        return True if run_id in listing.ids else None

    return attempt


@assumption(
    "Which characters may a label have?",
    assumed="All but `=` and `,`, in 128 bytes. The client refuses others before a request.",
    setting="Use labels that PAI accepts.",
)
def label_characters(scene: Scene) -> Flow[Finding]:
    """Set labels of each kind, and check that they come back unchanged."""
    *_, run, _ = yield from scene.runs()

    def accepted(labels: dict[str, str]) -> Flow[bool]:
        request = write("PUT", "UpdateRun", path("runs", run.run_id), {"Labels": pairs(labels)})
        answer = yield from scene.ask(request, Acknowledgement)
        return answer.error is None

    more = []
    for kind, (key, value) in MORE_LABELS.items():
        if (yield from accepted({key: value})):
            more.append(kind)
    wanted = dict(LABELS.values())
    if not (yield from accepted(wanted)):
        refused = []
        for kind, (key, value) in LABELS.items():
            if not (yield from accepted({key: value})):
                refused.append(kind)
        return different(f"refused: {', '.join(refused) or 'only several together'}")

    def attempt(wait: float) -> Flow[bool | None]:
        answer = yield from scene.get_run(run.run_id, wait=wait)
        return True if wanted.items() <= answer.must().labels.items() else None

    kept, _ = yield from until(attempt)
    if not kept:
        return different("some labels come back changed, or not at all")
    return as_assumed("; ".join([f"accepted: {', '.join(LABELS)}", *[f"even {kind}" for kind in more]]))


@assumption(
    "Does `UpdateRun` merge labels and params, or replace them?",
    assumed="Either: `set_run_labels` reads first and sends the whole set.",
    setting="`update_run` sends only what it is given.",
)
def update_run(scene: Scene) -> Flow[Finding]:
    """Change one of two labels and one of two params."""
    before, after = {"kept": "1", "changed": "1"}, {"changed": "2"}
    run_id = yield from scene.make_run("updated", labels=before, params=before)
    yield from scene.do(api.update_run(run_id, labels=after, params=after))

    def attempt(wait: float) -> Flow[MaybeRun | None]:
        run = (yield from scene.get_run(run_id, wait=wait)).must()
        return run if run.labels.get("changed") == run.params.get("changed") == "2" else None

    run, waited = yield from until(attempt)
    if run is None:
        return different(f"neither: GetRun does not show the change after {waited:.0f} s")
    labels, params = ("merged" if "kept" in held else "replaced" for held in (run.labels, run.params))
    return as_assumed(f"labels are {labels}, params are {params}")


@assumption(
    "Is a label that was set later found by `ListRuns`?",
    assumed="Yes: no wait relies on creation times alone.",
    setting="Label runs when they are created.",
)
def late_labels(scene: Scene) -> Flow[Finding]:
    """Label a run that had no labels, and list until it is found."""
    other, *_, run = yield from scene.runs()
    yield from scene.do(api.update_run(run.run_id, labels={"late": scene.mark}))
    found, waited = yield from until(_finding(scene, f"late:{scene.mark}", run.run_id, other.run_id))
    if not found:
        return different(f"not found after {waited:.0f} s")
    return as_assumed(f"found after {waited:.0f} s" if waited else "found at once")


def _log(scene: Scene, run_id: str, *metrics: dict[str, Any]) -> Flow[Answer[Acknowledgement]]:
    target = f"{path('runs', run_id)}/metrics/action/log"
    body = {"Metrics": metrics}
    return scene.ask(write("POST", "LogRunMetrics", target, body), Acknowledgement)


def _logged(scene: Scene, run_id: str, key: str) -> Flow[tuple[dict[str, Any], Answer[MaybeRun]]]:
    """Return a metric as GetRun shows it, and GetRun's answer."""

    def attempt(wait: float) -> Flow[tuple[dict[str, Any], Answer[MaybeRun]] | None]:
        answer = yield from scene.get_run(run_id, wait=wait)
        answer.must()
        metrics = answer.fields.get("Metrics") or []
        return next(((metric, answer) for metric in metrics if metric.get("Key") == key), None)

    found, waited = yield from until(attempt)
    if found is None:
        raise NotDecidable(f"PAI accepted the metric but does not show it after {waited:.0f} s")
    return found


@assumption(
    "How does PAI send NaN?",
    assumed="As a bare word, as text, or as null. The client refuses to log it, since JSON has no NaN.",
    setting="Log finite values only: otherwise a gate uses the value that PAI shows in place of NaN.",
)
def nan(scene: Scene) -> Flow[Finding]:
    """Log NaN as text, as other clients may, and read it back."""
    *_, run = yield from scene.runs()
    answer = yield from _log(scene, run.run_id, {"Key": "nan", "Value": "NaN", "Step": 0})
    if answer.error is not None:
        return as_assumed(f"refused as text: {answer.refusal}")
    metric, _ = yield from _logged(scene, run.run_id, "nan")
    value = metric.get("Value")
    if not math.isnan(msgspec.convert({"Metrics": [metric]}, MetricPage).metrics[0].value):
        return different(f"it comes back as {value!r}")
    spelling = {str: "as text", float: "as a bare word"}.get(type(value), "as null")
    return as_assumed(f"comes back {spelling}")


@assumption(
    "How many values may a request of `LogRunMetrics` carry?",
    assumed="2,000. A tracked run whose values are refused sends fewer in a request from then on.",
    setting="If it is fewer: give `log_run_metrics` fewer values at once.",
)
def logged_values(scene: Scene) -> Flow[Finding]:
    """Log 2,000 values in one request, or half as many, until PAI takes them."""
    *_, run = yield from scene.runs()
    values = most = 2000
    while True:
        metrics = [{"Key": "many", "Value": step / 8, "Step": step} for step in range(values)]
        answer = yield from _log(scene, run.run_id, *metrics)
        if answer.error is None:
            return (as_assumed if values == most else different)(f"{values:,} are accepted")
        if values == 1:
            return different(f"a metric is refused: {answer.refusal}")
        values //= 2


@assumption(
    "What unit has a metric's `Timestamp`?",
    assumed="Any: the client sends it unchanged, and leaves it out by default.",
    setting="If PAI adds none by itself: `log_run_metrics(timestamp=…)`.",
)
def metric_timestamp(scene: Scene) -> Flow[Finding]:
    """Log a metric without a time, and compare what comes back with PAI's clock."""
    *_, run = yield from scene.runs()
    answer = yield from _log(scene, run.run_id, {"Key": "timed", "Value": 1.5})
    if answer.error is not None:
        return different(f"a metric without one is refused: {answer.refusal}")
    metric, read = yield from _logged(scene, run.run_id, "timed")
    timestamp = metric.get("Timestamp")
    if not timestamp:
        return different(f"PAI adds none by itself: {timestamp!r}")
    date = read.response.date
    now = date.timestamp() if date is not None else read.response.received_at
    units = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
    day = 86_400
    unit = next((name for name, per in units.items() if abs(timestamp / per - now) < day), None)
    return as_assumed(f"{unit} since 1970" if unit else f"unknown: {timestamp}")


@assumption(
    "How many bits of a metric's value does PAI keep?",
    assumed="64 or 32: a rule takes a value of 32 bits as the shortest decimal that it stands for, so that "
    "0.9300000071525574 is 0.93.",
    setting="If PAI changes values more than that: leave room for it in the limits of your rules.",
)
def metric_values(scene: Scene) -> Flow[Finding]:
    """Log a value that 32 bits do not hold, and read it back."""
    *_, run = yield from scene.runs()
    (yield from _log(scene, run.run_id, {"Key": "valued", "Value": 0.93, "Step": 0})).must()
    metric, _ = yield from _logged(scene, run.run_id, "valued")
    value = metric.get("Value")
    kept = {0.93: "64 bits", struct.unpack("f", struct.pack("f", 0.93))[0]: "32 bits"}.get(value)
    return as_assumed(f"{kept}: 0.93 is {value!r}") if kept else different(f"0.93 comes back as {value!r}")
