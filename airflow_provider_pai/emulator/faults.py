"""Quirks: how this PAI behaves where the documentation is silent. Faults: what goes wrong on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

LONGEST = 120.0  # seconds that any fault may hold a connection


@dataclass
class Quirks:
    """What PAI's documentation leaves open, each as a setting; see docs/fidelity.md.

    Assign to a field at any time. A value outside a field's choices raises ValueError, an unknown field
    AttributeError.
    """

    page_token: Literal["offset", "index", "repeated"] = "offset"
    """What NextPageToken counts: runs or pages; or it always names the second page."""
    token_type: Literal["integer", "string"] = "integer"
    """How NextPageToken is written; the spec says integer."""
    last_token: Literal["0", "absent", "null"] = "0"
    """NextPageToken when all was returned; the spec says 0."""
    empty_pages: Literal["never", "between", "last"] = "never"
    """Pages without entries but with a token: between any two pages, or one after the last entry."""
    total_count: Literal["given", "absent"] = "given"
    """Whether lists have TotalCount, which the spec calls optional."""
    max_results: int = 100
    """The largest MaxResults or PageSize that is allowed."""
    max_results_rule: Literal["clamp", "refuse"] = "clamp"
    """What happens to a larger one: fewer results, or an error 400."""
    update_labels: Literal["replace", "merge"] = "replace"
    """What UpdateRun does with Labels and Params that it does not name."""
    label_characters: Literal["documented", "narrow", "any"] = "documented"
    """Which labels are allowed: all but `=` and `,` in 128 bytes; only `A-Za-z0-9_.-`; or any."""
    late_labels: Literal["found", "lost"] = "found"
    """Whether ListRuns finds a run by a label that was set after the run was created."""
    unlisted_label: int = 0
    """How many ListRuns requests for a label leave a run out to which CreateRun or UpdateRun gave it."""
    name_match: Literal["exact", "fuzzy", "never"] = "exact"
    """How Name filters: by equality, as a substring, or so that no run is found."""
    labels_filter: Literal["exact", "ignored"] = "exact"
    """Whether ListRuns honours Labels."""
    label_split: Literal["first", "last"] = "first"
    """Which colon of `a:b:c` separates key and value in the Labels filter."""
    created_filter: Literal["exact", "since", "prefix", "ignored"] = "exact"
    """How the GmtCreateTime filter compares."""
    order: Literal["honoured", "ignored", "by_name"] = "honoured"
    """Whether lists honour OrderBy, SortBy and Order; else they keep the default order, or sort by name."""
    verbose: Literal["honoured", "always", "never"] = "honoured"
    """When ListRuns returns labels, params and metrics: as Verbose says, always, or never."""
    default_workspace: Literal["meant", "required"] = "meant"
    """What ListRuns does without a workspace: it uses the default one, or answers with an error 400."""
    missing_run: Literal["404", "200", "500"] = "404"
    """How GetRun answers for a missing run: an error 404, a body without Name, or an error 500. The vendor's
    Terraform provider handles the last two."""
    hidden_experiment: int = 0
    """How many GetExperiment requests after CreateExperiment fail with NotFoundErrorProblem. The vendor's
    Terraform provider waits for up to a minute."""
    unlisted_experiment: int = 0
    """How many ListExperiment requests after CreateExperiment leave the new experiment out."""
    experiment_names: Literal["unique", "repeatable"] = "unique"
    """Whether a workspace holds one experiment of a name, or several. The vendor's Terraform provider and its
    Python SDK for PAI say that names are unique."""
    name_taken: Literal["conflict", "duplicate", "invalid", "server_error"] = "conflict"
    """The error for a name that is taken, which is not documented: 409 ExperimentAlreadyExists, 400
    DuplicateErrorProblem, 400 InvalidParameter, or 500 InternalServerErrorProblem."""
    experiment_with_runs: Literal["deleted", "refused"] = "deleted"
    """What DeleteExperiment does if there are still runs: it deletes them, or answers with an error 400."""
    hidden_model: int = 0
    """How many GetModel and ListModels requests after CreateModel do not show the new model."""
    hidden_version: int = 0
    """How many GetModelVersion and ListModelVersions requests after CreateModelVersion do not show it."""
    model_names: Literal["unique", "repeatable"] = "unique"
    """Whether a workspace holds one model of a name, or several. `name_taken` has the error."""
    model_name_match: Literal["exact", "fuzzy", "never"] = "exact"
    """How ListModels' ModelName filters: by equality, as a substring, or so that no model is found."""
    model_labels: Literal["labels", "tags", "both", "ignored"] = "labels"
    """Where the Labels given to CreateModel show: in Labels, in Tags, in both, or nowhere, because the SDK
    calls that parameter deprecated."""
    model_with_versions: Literal["deleted", "refused"] = "deleted"
    """What DeleteModel does if there are still versions: it deletes them, or answers with an error 400."""
    registry_labels: Literal["kept", "replaced"] = "kept"
    """What CreateModelLabels and CreateModelVersionLabels do with labels that they do not name."""
    version_filters: Literal["honoured", "ignored"] = "honoured"
    """Whether ListModelVersions honours its filters."""
    version_metrics: Literal["object", "text"] = "object"
    """How Metrics and the other documents of a version come back: as JSON objects, or as texts of JSON."""
    version_pending: Literal["said", "left_out"] = "said"
    """Whether a version that nobody has decided about says that it is Pending."""
    version_uri: Literal["kept", "encoded"] = "kept"
    """Whether a version's Uri comes back as it was sent, or percent-encoded."""
    missing_version: Literal["404", "200", "500"] = "404"
    """How GetModelVersion answers for a missing version: an error 404, a body without fields, or an error
    500, as GetRun may."""
    error_body: Literal["camel", "lower", "xml", "nested"] = "camel"
    """Error bodies: `Code`, `code`, XML `<Error>`, or `code` within an `error`, which is not documented."""
    throttle_status: Literal[400, 429] = 400
    """The HTTP status of throttling."""
    non_finite: Literal["string", "null", "literal", "zero"] = "string"
    """How a metric's NaN is written: `"NaN"`, `null`, a bare `NaN`, which is not JSON, or as `0`."""
    metric_values: Literal["float64", "float32"] = "float64"
    """How many bits of a metric's value come back. The vendor's SDKs for Java and Go declare 32."""
    logged_values: int = 2000
    """How many values a LogRunMetrics may carry; more are refused with an error 400."""
    metric_timestamp: Literal["milliseconds", "seconds", "zero"] = "milliseconds"
    """The Timestamp of a metric that was logged without one: the time in some unit, or 0."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _QUIRK_TYPES:
            raise AttributeError(f"there is no quirk {name!r}")
        hint = _QUIRK_TYPES[name]
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"the quirk {name} is one of {get_args(hint)}, not {value!r}")
        if hint is int and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"the quirk {name} is a whole number, not {value!r}")
        super().__setattr__(name, value)

    def as_dict(self) -> dict[str, Any]:
        """All quirks by name."""
        return asdict(self)


_QUIRK_TYPES = get_type_hints(Quirks)

INSTEAD = frozenset(["throttle", "server_error", "error", "html", "body", "reset"])
AROUND = frozenset(["reset_after", "truncate", "slow", "drip", "patch"])
CHANGES = frozenset(
    ["insert_run", "delete_run", "label_run", "unlabel_run", "insert_version", "approve_version"]
)


@dataclass
class Fault:
    """Something that goes wrong, for `times` requests of `action`, after `after` of them have passed.

    ================= ============================================== ================================
    kind              what happens                                   fields (and their defaults)
    ================= ============================================== ================================
    `throttle`        the code `Throttling.User`                     status (quirk), retry_after_ms
    `server_error`    a JSON error of the server                     status (503), code, message
    `error`           any error                                      status (403), code, message
    `html`            an HTML page                                   status (502)
    `body`            exactly these bytes                            body, status (200), content_type
    `reset`           the connection is reset before the operation
    `reset_after`     the operation is carried out, then reset
    `truncate`        half the answer, then the connection closes
    `slow`            the answer comes late                          delay in seconds
    `drip`            the answer comes byte by byte                  delay in seconds between bytes
    `patch`           fields of the good answer replaced or removed  fields, remove
    `insert_run`      before the answer a run is added               run: arguments of `add_run`
    `delete_run`      before the answer a run is deleted             run_id
    `label_run`       before the answer a run is labelled            run_id, labels
    `unlabel_run`     before the answer a label is removed           run_id, key
    `insert_version`  before the answer a version is added           version: of `add_model_version`
    `approve_version` before the answer a version is approved        version: of `approve_model_version`
    ================= ============================================== ================================

    The first six answer in place of the operation, also to unsigned requests. With the next five the
    operation is carried out. The last six are extra: a request may get several of them and one of the
    others. `times=None` lasts until the faults are cleared. No fault holds a connection longer than 120 s.
    """

    kind: str
    action: str | None = None
    times: int | None = 1
    after: int = 0
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after_ms: int | None = None
    delay: float = 0.0
    body: bytes | str = b""
    content_type: str = "application/json"
    fields: dict[str, Any] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    version: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        if self.kind not in INSTEAD | AROUND | CHANGES:
            known = ", ".join(sorted(INSTEAD | AROUND | CHANGES))
            raise ValueError(f"there is no fault {self.kind!r}; known are {known}")
        if self.times is not None and self.times < 1:
            raise ValueError("a fault happens at least once: times must be 1 or more, or None")


class FaultPlan:
    """The faults that have not happened yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append copies of faults. If several fit a request, the one added first happens first."""
        with self._lock:
            self._faults.extend(replace(fault) for fault in faults)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def due(self, action: str | None) -> tuple[list[Fault], Fault | None]:
        """Take the faults that are due for a request of `action`: all changes, and at most one other."""
        changes: list[Fault] = []
        chosen: Fault | None = None
        with self._lock:
            for fault in self._faults:
                if fault.action not in (None, action):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                elif fault.kind in CHANGES:
                    changes.append(_used(fault))
                elif chosen is None:
                    chosen = _used(fault)
            self._faults = [fault for fault in self._faults if fault.times is None or fault.times > 0]
        return changes, chosen


def _used(fault: Fault) -> Fault:
    if fault.times is not None:
        fault.times -= 1
    return fault
