"""What a task notes of the runs, versions and files that it reads and writes, and what datasets they are.

A dataset has the same name in every task:

=================== =========================== ===========================================
what                namespace                   name
=================== =========================== ===========================================
a run               ``pai://cn-hangzhou``       ``runs/<run id>``
a model's version   ``pai://cn-hangzhou``       ``models/<model id>/versions/<version name>``
a file in OSS       ``oss://<bucket>``          the object's key
another file        ``s3://<bucket>``, …        its path
=================== =========================== ===========================================

Where a connection names a host instead of a region, the namespace has that host. The workspace is not part of
a name: PAI's ids need no workspace, and a task may not know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from airflow_provider_pai.api.models import Run
from airflow_provider_pai.gating.verdict import Verdict

__all__ = ["MOST", "Dataset", "Lineage", "file_dataset"]

MOST = 100
"""How many runs, metrics of a run and checks an event has at most."""
OF_A_VERSION = ("model_name", "model_id", "version_name", "approval_status", "run_id", "metrics")
OF_A_RUN = (
    *("run_id", "name", "experiment_id", "workspace_id", "source_type", "source_id"),
    *("gmt_create_time", "labels", "metrics"),
)


class Dataset(NamedTuple):
    """Something that is read or written. ``facets`` are plain dicts, by the facet's name."""

    namespace: str
    name: str
    facets: dict[str, dict[str, Any]]


class Lineage(msgspec.Struct, kw_only=True):
    """What a task has read and written so far."""

    namespace: str
    read: list[Run] = msgspec.field(default_factory=list)
    written: list[Run] = msgspec.field(default_factory=list)
    files_read: list[str] = msgspec.field(default_factory=list)
    files_written: list[str] = msgspec.field(default_factory=list)
    versions_read: list[Mapping[str, Any]] = msgspec.field(default_factory=list)
    versions: list[Mapping[str, Any]] = msgspec.field(default_factory=list)
    """The versions of models that were written, with ``model_id`` and ``version_name`` at least."""
    verdict: Verdict | None = None

    def inputs(self) -> list[Dataset]:
        """Return what was read."""
        versions = [self._version(version) for version in self.versions_read]
        return versions + self._datasets(self.read, self.files_read)

    def outputs(self) -> list[Dataset]:
        """Return what was written."""
        versions = [self._version(version) for version in self.versions]
        return versions + self._datasets(self.written, self.files_written)

    def verdict_facet(self) -> dict[str, Any] | None:
        """Return the gate's verdict as it was judged or handed on."""
        if self.verdict is None:
            return None
        plain = self.verdict.to_dict()
        return {
            **{name: plain[name] for name in ("passed", "reason", "select")},
            "run_id": self.verdict.run and self.verdict.run["run_id"],
            "baseline_run_ids": plain["baseline_run_ids"][:MOST],
            "checks": plain["checks"][:MOST],
            "checks_total": len(plain["checks"]),
        }

    def _datasets(self, runs: Iterable[Run], files: Iterable[str]) -> list[Dataset]:
        first: dict[str, Run] = {}
        for run in runs:
            first.setdefault(run.run_id, run)
        kept = islice(first.values(), MOST)
        return [*map(self._run, kept), *map(file_dataset, dict.fromkeys(files))]

    def _run(self, run: Run) -> Dataset:
        plain = run.to_dict()
        plain["metrics"] = dict(islice(plain["metrics"].items(), MOST))
        # A task that writes to a run may not know its other fields: they are None.
        facet = {name: plain[name] or None for name in OF_A_RUN}
        return Dataset(self.namespace, f"runs/{run.run_id}", {"pai_run": facet})

    def _version(self, version: Mapping[str, Any]) -> Dataset:
        facet = {name: version.get(name) or None for name in OF_A_VERSION}
        name = f"models/{version['model_id']}/versions/{version['version_name']}"
        return Dataset(self.namespace, name, {"pai_model_version": facet})


def file_dataset(uri: str) -> Dataset:
    """Return the dataset of a file or a folder. Parts of an address that may hold secrets are left out."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "oss":
        host = host.partition(".")[0]  # what follows a bucket is the endpoint by which it is reached
    if not host:
        return Dataset(parts.scheme or "file", parts.path or "/", {})
    path = parts.path if parts.scheme in ("http", "https") else uri.partition(parts.netloc)[2]
    return Dataset(f"{parts.scheme}://{host}", path.strip("/") or "/", {})
