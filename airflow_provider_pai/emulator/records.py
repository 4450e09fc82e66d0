"""A stored run: its JSON as PAI writes it, rendered once, so that a page is a join of strings."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OWNER_ID = "1631044000003440"
dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_NUMBER = re.compile(r'"Value":([-+.0-9eE]+)')
_NON_FINITE = re.compile(r'"Value":"(NaN|-?Infinity)"')


class Label(NamedTuple):
    """A label's value and when it was first and last set (ISO)."""

    value: str
    created: str
    modified: str


class Metric(NamedTuple):
    """One logged value; `timestamp` is in milliseconds since 1970."""

    key: str
    value: float
    step: int
    timestamp: int

    def entry(self) -> dict[str, Any]:
        """Render as the spec does. NaN and infinities are words here, see `spell_values`."""
        value = self.value if math.isfinite(self.value) else dumps_non_finite(self.value)
        return {"Value": value, "Step": self.step, "Timestamp": self.timestamp, "Key": self.key}


def dumps_non_finite(value: float) -> str:
    """Return the word for a float that JSON cannot write as a number."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@dataclass
class Run:
    """A stored run. `metrics` holds the last value of each key; times are ISO."""

    run_id: str
    workspace_id: str
    experiment_id: str
    name: str
    created: str
    modified: str
    source_type: str = ""
    source_id: str = ""
    accessibility: str = "PRIVATE"
    labels: dict[str, Label] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def measure(self, metric: Metric) -> None:
        """Make `metric` the last value of its key, unless one with a higher step is known."""
        known = self.metrics.get(metric.key)
        if known is None or metric.step >= known.step:
            self.metrics[metric.key] = metric

    def label(self, labels: dict[str, str], now: str) -> None:
        """Set `labels`. Keep other labels, and the creation times of labels that exist."""
        for key, value in labels.items():
            known = self.labels.get(key)
            self.labels[key] = Label(value, known.created if known else now, now)

    def render(self) -> str:
        """Render the spec's Run without its RequestId, with the details at the end; see `answer`."""
        return dumps(
            {
                "Accessibility": self.accessibility,
                "SourceId": self.source_id,
                "SourceType": self.source_type,
                "WorkspaceId": self.workspace_id,
                "GmtModifiedTime": self.modified,
                "Name": self.name,
                "OwnerId": OWNER_ID,
                "ExperimentId": self.experiment_id,
                "UserId": OWNER_ID,
                "RunId": self.run_id,
                "GmtCreateTime": self.created,
                "Labels": [
                    {
                        "Value": label.value,
                        "RunId": self.run_id,
                        "GmtCreateTime": label.created,
                        "GmtModifiedTime": label.modified,
                        "Key": key,
                    }
                    for key, label in self.labels.items()
                ],
                "Params": [{"Value": value, "Key": key} for key, value in self.params.items()],
                "Metrics": [metric.entry() for metric in self.metrics.values()],
            }
        )

    @classmethod
    def parse(cls, rendered: str) -> Run:
        """Read what `render` wrote."""
        body = json.loads(rendered)
        return cls(
            run_id=body["RunId"],
            workspace_id=body["WorkspaceId"],
            experiment_id=body["ExperimentId"],
            name=body["Name"],
            created=body["GmtCreateTime"],
            modified=body["GmtModifiedTime"],
            source_type=body["SourceType"],
            source_id=body["SourceId"],
            accessibility=body["Accessibility"],
            labels={
                label["Key"]: Label(label["Value"], label["GmtCreateTime"], label["GmtModifiedTime"])
                for label in body["Labels"]
            },
            params={param["Key"]: param["Value"] for param in body["Params"]},
            metrics={
                metric["Key"]: Metric(
                    metric["Key"], float(metric["Value"]), metric["Step"], metric["Timestamp"]
                )
                for metric in body["Metrics"]
            },
        )


def answer(rendered: str, request_id: str, *, verbose: bool, non_finite: str, values: str) -> str:
    """Turn a rendered run into the Run of an answer. For the last two see `spell_values`."""
    # No string can hold these marks, because quotes within strings are escaped.
    brief, labels_mark, details = rendered.partition(',"Labels":[')
    brief += f',"RequestId":"{request_id}"'
    if not verbose:
        return brief + "}"
    others, metrics_mark, metrics = details.partition(',"Metrics":[')
    return brief + labels_mark + others + metrics_mark + spell_values(metrics, non_finite, values)


def spell_values(metrics: str, non_finite: str, values: str) -> str:
    """Write the values in a metrics array as the quirks `non_finite` and `metric_values` say."""
    if values == "float32":
        metrics = _NUMBER.sub(_of_32_bits, metrics)
    if non_finite == "string":
        return metrics
    value = {"null": "null", "literal": r"\1", "zero": "0"}[non_finite]
    return _NON_FINITE.sub(f'"Value":{value}', metrics)


def _of_32_bits(number: re.Match[str]) -> str:
    try:
        (value,) = struct.unpack("f", struct.pack("f", float(number[1])))
    except OverflowError:
        value = math.copysign(math.inf, float(number[1]))
    return f'"Value":{value!r}' if math.isfinite(value) else f'"Value":"{dumps_non_finite(value)}"'
