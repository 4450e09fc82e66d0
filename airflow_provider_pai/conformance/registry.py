"""The assumptions about the model registry."""

from __future__ import annotations

import json
from typing import TypeVar

from airflow_provider_pai import api
from airflow_provider_pai.api.by_name import says_taken
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request
from airflow_provider_pai.api.model_records import MaybeModel, MaybeModelVersion
from airflow_provider_pai.api.parameters import pairs, path, write
from airflow_provider_pai.conformance.asking import Answer, NotDecidable, short, until
from airflow_provider_pai.conformance.assumptions import Finding, as_assumed, assumption, different
from airflow_provider_pai.conformance.registered import ACCURACY, URI
from airflow_provider_pai.conformance.scene import Scene

__all__ = [
    "missing_version",
    "model_labels",
    "model_name_match",
    "model_names",
    "new_version",
    "registry_labels",
    "version_filters",
    "version_kept",
    "version_metrics",
    "version_names",
    "version_pages",
]

Shown = TypeVar("Shown", bound=MaybeModel | MaybeModelVersion)
NO_VERDICT = api.PaiPermissionError, api.PaiAuthenticationError, api.PaiThrottledError


@assumption(
    "How soon is a new model or version visible?",
    assumed="Within a minute; until then `get_model`, `create_model_version` and `get_model_version` raise "
    "`PaiModelNotFoundError`, which Airflow may retry.",
    setting="Give the task that registers a version `retries`.",
)
def new_version(scene: Scene) -> Flow[Finding]:
    """Create a model and at once a version of it, and ask for further versions until PAI shows them."""
    yield from scene.version_gone()
    if scene.first_version_refused:
        return different(f"at first CreateModelVersion is refused: {scene.first_version_refused}")
    names = yield from scene.versions()
    model_id = yield from scene.model()

    def attempt(wait: float) -> Flow[bool | None]:
        request = Request(action="GetModel", path=path("models", model_id))
        shown: list[object] = [(yield from _shown(scene.ask(request, MaybeModel, wait=wait)))]
        for name in names:  # all are asked for, so that one that is late delays no other
            shown.append((yield from _shown(_version(scene, name))))
        listed, _ = yield from scene.listed_versions({})
        return True if None not in shown and {*listed} >= {*names} else None

    seen, waited = yield from until(attempt)
    if not seen:
        return different(f"not within {waited:.0f} s")
    return as_assumed(f"after {waited:.0f} s" if waited else "at once")


def _shown(asked: Flow[Answer[Shown]]) -> Flow[Answer[Shown] | None]:
    """Return the answer, or nothing where PAI does not find what was asked for."""
    try:
        answer = yield from asked
    except api.PaiUnavailableError:
        return None  # the vendor's Terraform provider takes this for "not found" too, of runs
    if answer.error is not None and not isinstance(answer.error, api.PaiNotFoundError):
        raise answer.error
    return None if answer.error is not None or not answer.must().items else answer


def _version(scene: Scene, name: str, *, wait: float = 0.0) -> Flow[Answer[MaybeModelVersion]]:
    target = path("models", (yield from scene.model()), "versions", name)
    request = Request(action="GetModelVersion", path=target)
    return (yield from scene.ask(request, MaybeModelVersion, wait=wait))


@assumption(
    "May a workspace hold two models of one name?",
    assumed="Either, by the rules of `experiment_names`: `get_or_create_model` looks for the name, creates, "
    "and looks again for up to a minute. Of several it takes the one that has versions, or the oldest while "
    "none has; where more than one has versions it fails.",
    setting="If PAI refuses in other words, or shows a model later than that: create it before the tasks "
    "that would create it at the same time. Please report the code.",
)
def model_names(scene: Scene) -> Flow[Finding]:
    """Create a second model of the same name, once PAI lists the first."""
    model_id = yield from scene.model()
    yield from scene.version_gone()

    def attempt(wait: float) -> Flow[bool | None]:
        return True if model_id in (yield from scene.named_models(wait=wait)) else None

    listed, waited = yield from until(attempt)
    if not listed:
        return different(f"ListModels does not show the model by its name after {waited:.0f} s")
    error = yield from scene.model_twin()
    if error is None:
        return as_assumed("yes: the second gets an id of its own")
    return _taken(error, "no")


def _taken(error: api.PaiApiError, answer: str) -> Finding:
    if isinstance(error, NO_VERDICT):
        raise error
    if says_taken(error):
        return as_assumed(f"{answer}: {short(error)}")
    return different(f"refused in words that the provider does not know: {short(error)}: {error.message}")


@assumption(
    "Does `ModelName` of ListModels match exactly or in part?",
    assumed="Either: sends it, and the client checks for equality.",
    setting="If a model's own name does not find it: give tasks its id.",
)
def model_name_match(scene: Scene) -> Flow[Finding]:
    """Ask for the whole name and for a part of it."""
    model_id = yield from scene.model()
    base = {"WorkspaceId": (yield from scene.workspace()), "SortBy": "GmtCreateTime", "Order": "ASC"}

    def found(name: str, wait: float = 0.0) -> Flow[bool | None]:
        page = (yield from scene.list_models_page({**base, "ModelName": name}, wait=wait)).must()
        return True if model_id in [model.model_id for model in page.models] else None

    whole, waited = yield from until(lambda wait: found(scene.name, wait))
    if not whole:
        return different(f"the name {scene.name} does not find its model after {waited:.0f} s")
    return as_assumed("in part" if (yield from found(scene.name[:-2])) else "exactly")


@assumption(
    "Where do the `Labels` that CreateModel is given show?",
    assumed="As `Labels` or as `Tags` of GetModel and ListModels: both are read.",
    setting="`set_model_labels`, once the model exists.",
)
def model_labels(scene: Scene) -> Flow[Finding]:
    """Look for the label of the model in both answers."""
    model_id = yield from scene.model()
    request = Request(action="GetModel", path=path("models", model_id))

    def attempt(wait: float) -> Flow[Answer[MaybeModel] | None]:
        return _shown(scene.ask(request, MaybeModel, wait=wait))

    answer, waited = yield from until(attempt)
    if answer is None:
        raise NotDecidable(f"GetModel does not show the model after {waited:.0f} s")
    label = {"Key": "conformance", "Value": scene.mark}
    shown = [
        name
        for name in ("Labels", "Tags")
        if any(label.items() <= entry.items() for entry in answer.fields.get(name) or [])
    ]
    return as_assumed(f"as {' and '.join(shown)}") if shown else different("they do not show")


@assumption(
    "Which name does a version get if it is created without one, and what happens if a name is taken?",
    assumed="PAI counts up, and its answer has the name. A name that is taken is refused, with 409 or with "
    "words such as `exists`.",
    setting="If PAI refuses in other words, or not at all: leave `version_name` out. Please report the code.",
)
def version_names(scene: Scene) -> Flow[Finding]:
    """Compare the names that PAI gave, and create a version whose name is taken."""
    first, second, third = yield from scene.versions()
    model_id = yield from scene.model()
    body = {"Uri": URI, "VersionName": third}
    request = write("POST", "CreateModelVersion", path("models", model_id) + "/versions", body)
    try:
        error = (yield from scene.ask(request, Acknowledgement)).error
    except api.PaiUnavailableError as unavailable:
        error = unavailable
    if error is None:
        return different(f"the name {third} is accepted twice")
    return _taken(error, f"{first}, {second}; a taken one")


@assumption(
    "Do the pages of ListModelVersions, by number and oldest first, hold each version once, and say how many "
    "there are?",
    assumed="Yes: asks for them in this order, so that a new version comes last, and drops repeats. Reads on "
    "until a page is empty, or short with all versions seen.",
    setting="None. Without `TotalCount`, a version that is deleted while the listing is read can hide "
    "another one.",
)
def version_pages(scene: Scene) -> Flow[Finding]:
    """List three versions in pages of two."""
    names = yield from scene.versions()
    yield from scene.shown_versions({}, names)
    seen, total = yield from scene.listed_versions({"PageSize": "2"})
    if {*seen} != {*names}:
        return different(f"{len({*names} - {*seen})} of {len(names)} versions are lost")
    if len(seen) > len(names):
        return different("a version comes twice")
    if total != len(names):
        return different("no TotalCount" if total is None else f"TotalCount is {total} for {len(names)}")
    return as_assumed("oldest first" if seen == names else f"in another order: {', '.join(seen)}")


@assumption(
    "Does ListModelVersions honour `ApprovalStatus` and `Label`?",
    assumed="Either: sends them, and the client checks every version.",
    setting="If versions are missing: list without these filters.",
)
def version_filters(scene: Scene) -> Flow[Finding]:
    """Approve the first version, and ask for approved ones, and for the label of the third."""
    names = yield from scene.versions()
    first, _, third = names
    model_id = yield from scene.model()
    yield from scene.shown_versions({}, names)
    yield from scene.do(api.update_model_version(model_id, first, approval_status="Approved"))
    ignored = []
    for name, value, wanted in (
        ("ApprovalStatus", "Approved", first),
        ("Label", f"only-{scene.mark}", third),
    ):
        try:
            shown = yield from scene.shown_versions({name: value}, [wanted])
        except NotDecidable as error:
            return different(f"{name}: {error}")
        if shown != [wanted]:
            ignored.append(name)
    return as_assumed(f"ignored: {', '.join(ignored)}" if ignored else "both")


@assumption(
    "Do CreateModelLabels and CreateModelVersionLabels keep labels that they do not name?",
    assumed="Either: `set_model_labels` and `set_model_version_labels` read first and send the whole set.",
    setting="If PAI refuses a label that exists: delete it first.",
)
def registry_labels(scene: Scene) -> Flow[Finding]:
    """Add a label to the second version, together with a new value for the one that it has."""
    _, second, _ = yield from scene.versions()
    target = path("models", (yield from scene.model()), "versions", second) + "/labels"

    def add(labels: dict[str, str]) -> Flow[Answer[Acknowledgement]]:
        request = write("POST", "CreateModelVersionLabels", target, {"Labels": pairs(labels)})
        return scene.ask(request, Acknowledgement)

    def carried(key: str, value: str) -> Flow[dict[str, str]]:
        def attempt(wait: float) -> Flow[dict[str, str] | None]:
            answer = yield from _shown(_version(scene, second, wait=wait))
            labels = {} if answer is None else answer.must().labels
            return labels if labels.get(key) == value else None

        labels, waited = yield from until(attempt)
        if labels is None:
            raise NotDecidable(f"GetModelVersion does not show the label {key}:{value} after {waited:.0f} s")
        return labels

    (yield from add({"added": "1"})).must()
    kept = "kept" in (yield from carried("added", "1"))
    again = yield from add({"added": "2"})
    if again.error is not None:
        return different(f"a label that exists is refused: {again.refusal}")
    yield from carried("added", "2")
    return as_assumed("other labels are kept" if kept else "other labels are lost")


def _read(scene: Scene, number: int) -> Flow[Answer[MaybeModelVersion]]:
    """Return one of the versions as GetModelVersion shows it."""
    name = (yield from scene.versions())[number]

    def attempt(wait: float) -> Flow[Answer[MaybeModelVersion] | None]:
        return _shown(_version(scene, name, wait=wait))

    answer, waited = yield from until(attempt)
    if answer is None:
        raise NotDecidable(f"GetModelVersion does not show the version after {waited:.0f} s")
    return answer


@assumption(
    "Does a version's `Uri` come back as it was sent, and what is its approval if none was sent?",
    assumed="The uri unchanged, by which a registration that is repeated knows its version; and `Pending`, "
    "or no approval, which means the same.",
    setting="If the uri changes: give the task that registers a `version_name`, so that a repetition fails "
    "and does not add another version. If the approval is another one: give `approval`.",
)
def version_kept(scene: Scene) -> Flow[Finding]:
    """Read the uri and the approval of the second version, which was created without one."""
    version = (yield from _read(scene, 1)).must()
    if version.uri != URI:
        return different(f"{URI} comes back as {version.uri}")
    if version.approval_status not in (None, "", "Pending"):
        return different(f"without one the approval is {version.approval_status}")
    return as_assumed(f"unchanged; {version.approval_status or 'no approval'}")


@assumption(
    "How do a version's metrics come back?",
    assumed="As a JSON object, or as a text that holds one.",
    setting="If PAI changes them: read the run's metrics instead.",
)
def version_metrics(scene: Scene) -> Flow[Finding]:
    """Read the metrics that the first version was created with."""
    answer = yield from _read(scene, 0)
    metrics = answer.fields.get("Metrics")
    if metrics == ACCURACY:
        return as_assumed("as an object")
    try:
        as_text = isinstance(metrics, str) and json.loads(metrics) == ACCURACY
    except ValueError:
        as_text = False
    return as_assumed("as a text") if as_text else different(f"{ACCURACY} comes back as {metrics!r}")


@assumption(
    "How does a missing version show in `GetModelVersion`?",
    assumed="As 404, as a code with NotFound or NotExist, or as HTTP 200 without a name: "
    "`PaiModelNotFoundError`.",
    setting="None: a task that asks for a missing version is retried, or fails with another error.",
)
def missing_version(scene: Scene) -> Flow[Finding]:
    """Ask for the version that was created and deleted."""
    name = yield from scene.version_gone()

    def attempt(wait: float) -> Flow[Finding | None]:
        answer = yield from _version(scene, name, wait=wait)
        if isinstance(answer.error, api.PaiNotFoundError):
            return as_assumed(answer.refusal)
        if answer.error is not None:
            return different(answer.refusal)
        return None if answer.must().items else as_assumed(f"HTTP {answer.response.status} without a name")

    try:
        finding, waited = yield from until(attempt)
    except api.PaiUnavailableError as error:
        first, *_ = yield from scene.versions()  # a 5xx means "not found" only if PAI answers for others
        (yield from _version(scene, first)).must()
        return different(short(error))
    if finding is None:
        raise NotDecidable(f"the deleted version still shows after {waited:.0f} s")
    return finding
