"""Register a version of a model so that a repetition finds it, and decide about one without overwriting.

PAI counts the versions of a model, and would add another one for each request. So a version carries labels
that say what it is the version of, such as a run's id, and is looked up by them.

Source: the vendor's API pages for CreateModelVersion, GetModelVersion, ListModelVersions and
UpdateModelVersion of AIWorkSpace 2021-02-04.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai.api import by_name
from airflow_provider_pai.api.arguments import check_choice
from airflow_provider_pai.api.errors import (
    PaiDecidedError,
    PaiError,
    PaiModelNotFoundError,
    PaiNotFoundError,
    PaiUsageError,
)
from airflow_provider_pai.api.flow import Flow, begun
from airflow_provider_pai.api.model_parameters import APPROVAL_STATUSES, METRICS_BYTES
from airflow_provider_pai.api.model_records import ModelVersion
from airflow_provider_pai.api.model_versions import (
    ModelVersionFields,
    create_model_version,
    delete_model_version,
    get_model_version,
    list_model_versions,
    update_model_version,
)
from airflow_provider_pai.api.parameters import required, text
from airflow_provider_pai.api.query import Labels, parse_labels

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "EXPECTED",
    "UNDECIDED",
    "Decision",
    "Registration",
    "metrics_document",
    "metrics_in",
    "register_model_version",
    "set_model_version_approval",
]

UNDECIDED = "Pending"
EXPECTED = (*APPROVAL_STATUSES, "any")
"""What a version's approval may be expected to be before it is set."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The version that was registered, and whether it was created now. Else it had been there before."""

    version: ModelVersion
    created: bool


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The approval of a version, and what it was before. ``changed`` is False if it was so already."""

    version_name: str
    approval_status: str
    before: str
    changed: bool


def register_model_version(
    model_id: str,
    uri: str,
    *,
    found_by: Labels,
    version_name: str | None = None,
    format_type: str | None = None,
    framework_type: str | None = None,
    labels: Labels | None = None,
    **fields: Unpack[ModelVersionFields],
) -> Flow[Registration]:
    """Return the version of a model that carries ``found_by`` and holds ``uri``; add it where there is none.

    A repetition finds the version again, also where the answer of the creation was lost, and leaves it as it
    is. Of two that are added at the same time the older one stays, and who made the other deletes it. Where
    PAI shows a new version late, this waits for up to a minute.

    The parameters are those of :func:`create_model_version`, and:

    :param found_by: labels that say what this is a version of, such as ``{"pai_run_id": "run-1"}``. The
        version gets them beside ``labels``.
    :raises PaiError: the version can neither be found nor added.
    """
    key = parse_labels(found_by)
    if not key:
        raise PaiUsageError("found_by has no label; name one, such as 'pai_run_id:run-1'.")
    given = {} if labels is None else parse_labels(labels)
    if other := [name for name, value in key.items() if given.get(name, value) != value]:
        raise PaiUsageError(f"labels has another {other[0]!r} than found_by; leave it out there.")
    creation = begun(  # refuses wrong arguments before anything is sent
        create_model_version(
            model_id,
            uri,
            version_name=version_name,
            format_type=format_type,
            framework_type=framework_type,
            labels={**given, **key},
            **fields,
        )
    )
    seen: dict[str, ModelVersion] = {}
    made: list[str] = []

    def search() -> Flow[list[ModelVersion]]:
        try:
            found = yield from list_model_versions(model_id, labels=key)
        except PaiModelNotFoundError:  # the model may be too new; who adds the version is told so
            return []
        ours = [version for version in found if version.uri in (None, uri)]
        seen.update((version.version_name, version) for version in ours)
        return ours

    def create() -> Flow[str]:
        made.append((yield from creation))
        return made[0]

    name = yield from by_name.get_or_create(
        search,
        create(),
        identity=lambda version: version.version_name,
        after_loss=by_name.VISIBLE_AFTER,
    )
    if made and made[0] != name:
        with suppress(PaiNotFoundError):
            yield from delete_model_version(model_id, made[0])
    asked = ModelVersion(version_name=name, uri=uri, approval_status=fields.get("approval_status"))
    return Registration(version=seen.get(name, asked), created=made == [name])


def set_model_version_approval(
    model_id: str,
    version_name: str,
    approval_status: str,
    *,
    reason: str | None = None,
    expected: str = UNDECIDED,
) -> Flow[Decision]:
    """Approve or reject a version, unless somebody else has decided meanwhile.

    The version is read right before it is changed, since PAI changes it without a condition. If it already
    is what was asked for, nothing is changed. The reason is added to the version's description.

    :param expected: what the approval has to be before: Pending, Approved, Rejected, or ``any``.
    :raises PaiDecidedError: it is something else; nothing was changed.
    :raises PaiModelNotFoundError: there is no such version, or it was created less than a minute ago.
    """
    wanted = check_choice("approval_status", approval_status, APPROVAL_STATUSES)
    check_choice("expected", expected, EXPECTED)
    text("reason", reason)
    version = yield from get_model_version(model_id, required("version_name", version_name))
    before = _approval(version)
    if before == wanted:
        return Decision(version_name=version_name, approval_status=wanted, before=before, changed=False)
    if expected not in (before, "any"):
        raise PaiDecidedError(_decided(model_id, version, wanted, expected))
    description = "\n".join(filter(None, [version.version_description, reason and f"{wanted}: {reason}"]))
    change: ModelVersionFields = {"approval_status": wanted}
    if reason:
        change["version_description"] = description
    try:
        yield from update_model_version(model_id, version_name, **change)
    except PaiError as error:
        if not error.transient:
            raise
        now = yield from get_model_version(model_id, version_name)  # the answer may have been lost
        if _approval(now) != wanted:
            raise
    return Decision(version_name=version_name, approval_status=wanted, before=before, changed=True)


def _approval(version: ModelVersion) -> str:
    return version.approval_status or UNDECIDED


def _decided(model_id: str, version: ModelVersion, wanted: str, expected: str) -> str:
    when = f", last changed at {version.gmt_modified_time.isoformat()}" if version.gmt_modified_time else ""
    said = f" Its description: {version.version_description!r}." if version.version_description else ""
    return (
        f"The version {version.version_name} of the model {model_id} is {_approval(version)}, not {expected}"
        f"{when}: somebody else decided, and it was not made {wanted}.{said} To overwrite that, write "
        f"expected={_approval(version)!r}."
    )


def metrics_document(
    metrics: Mapping[str, Any], first: Iterable[str] = ()
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return metrics in PAI's form for a version, and the names of those that were left out.

    Left out are values that are not finite numbers, and those beyond the 8,192 bytes that PAI takes. The
    metrics named by ``first`` are the last to be left out. Without any metric there is no document.
    """
    order = dict.fromkeys([*(name for name in first if name in metrics), *metrics])
    kept: dict[str, Any] = {}
    size = len(msgspec.json.encode({"Results": [{"Metrics": {}}]})) - 1  # the first has no comma
    for name in order:
        value = metrics[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        more = len(msgspec.json.encode({name: value})) - 1  # its braces go, a comma comes
        if number and size + more <= METRICS_BYTES:
            kept[name] = value
            size += more
    left = [name for name in order if name not in kept]
    return ({"Results": [{"Metrics": kept}]} if kept else None), left


def metrics_in(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metrics in PAI's form for a version as one dict."""
    results = (document or {}).get("Results")
    values: dict[str, Any] = {}
    for result in results if isinstance(results, list) else []:
        if isinstance(result, Mapping) and isinstance(result.get("Metrics"), Mapping):
            values |= result["Metrics"]
    return values
