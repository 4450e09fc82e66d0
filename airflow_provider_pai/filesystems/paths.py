"""The kind of path that ``oss://`` is: a bucket and a key, as a path of ``s3://`` is.

Airflow's paths are universal_pathlib's. From 0.3 on (Airflow 3.1) it knows by the scheme alone whether a path
has a bucket, and takes that of ``oss://`` for a folder of a root: ``str(path)`` then has an empty bucket, and
globs, parents and relative paths go wrong. Here its tables are corrected.

Two entry points load this module: ``universal_pathlib.implementations`` with the first path of ``oss://``,
which Airflow 3.1 does not do, and ``airflow.plugins`` when a task starts. It is not a plugin, so that Airflow
passes over it; without it a task on 3.1 could not read what another one left in the XCom backend.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["CloudPath"]


def _without_scheme(cls: Any, path: Any) -> str:
    return str(path).removeprefix("oss://").strip("/")


if tuple(map(int, version("universal_pathlib").split(".")[:2])) >= (0, 3):
    from upath._flavour import WrappedFileSystemFlavour
    from upath._flavour_sources import flavour_registry
    from upath.implementations.cloud import CloudPath

    flavour: Any = WrappedFileSystemFlavour
    setattr(flavour_registry["oss"], "_strip_protocol", classmethod(_without_scheme))  # noqa: B010
    for rule in ("netloc_is_anchor", "supports_empty_parts"):
        flavour.protocol_config[rule].add("oss")
    flavour.from_protocol.cache_clear()
