"""Check what a model and its version are to be: names, the place of the files, formats, metrics, approval.

Source: CreateModel, CreateModelVersion and UpdateModelVersion of AIWorkSpace 2021-02-04.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from airflow_provider_pai.api.arguments import check_choice, check_no_dict_as_text, check_text
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.parameters import pairs, required, text
from airflow_provider_pai.api.query import Labels, parse_labels

__all__ = [
    "APPROVAL_STATUSES",
    "FORMAT_TYPES",
    "FRAMEWORK_TYPES",
    "METRICS_BYTES",
    "check_model_name",
    "check_uri",
    "check_version_name",
    "chosen",
    "document",
    "encode_metrics",
    "label_keys",
    "source",
    "version_labels",
]

APPROVAL_STATUSES = ("Pending", "Approved", "Rejected")
FORMAT_TYPES = (
    *("OfflineModel", "SavedModel", "Keras H5", "Frozen Pb", "Caffe Prototxt", "TorchScript", "XGBoost"),
    *("PMML", "AlinkModel", "ONNX"),
)
FRAMEWORK_TYPES = ("Pytorch", "XGBoost", "Keras", "Caffe", "Alink", "Xflow", "TensorFlow")
SOURCE_TYPES = ("Custom", "PAIFlow", "TrainingService")
ACCESSIBILITIES = ("PRIVATE", "PUBLIC")
CHOICES = {
    "approval_status": APPROVAL_STATUSES,
    "format_type": FORMAT_TYPES,
    "framework_type": FRAMEWORK_TYPES,
    "source_type": SOURCE_TYPES,
    "accessibility": ACCESSIBILITIES,
}

NAME_CHARACTERS = 127
VERSION_LABELS = 20
METRICS_BYTES = 8192
"""How long a version's metrics may be, as JSON."""
VERSION_NAME = re.compile(r"\d+\.\d+\.\d+(_\w+)?", re.ASCII)
OSS_HOST = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9](\.[A-Za-z0-9-]+){2,}")
SOURCE_KEYS = ("region", "workspaceId", "kind", "id")


def check_model_name(given: Any) -> str:
    """Return a model's name. Refuse what is not a text of 1 to 127 characters."""
    name = required("name", given)
    if len(name) > NAME_CHARACTERS:
        raise PaiUsageError(
            f"name={name!r} has {len(name)} characters; a model's name has at most {NAME_CHARACTERS}."
        )
    return name


def check_version_name(given: Any) -> str:
    """Return a version's name. Refuse one that PAI refuses."""
    name = required("version_name", given)
    if not VERSION_NAME.fullmatch(name):
        raise PaiUsageError(
            f"version_name={name!r} is not a name for a version: write one such as '1.0.0' or '1.0.0_beta', "
            "or leave it out where the version is created, so that PAI counts."
        )
    return name


def chosen(name: str, value: Any) -> str | None:
    """Return one of the values that PAI knows for a field, or nothing where none is given."""
    return None if value is None else check_choice(name, value, CHOICES[name])


def check_uri(given: Any) -> str:
    """Return where a version's files are: an http or https address, or ``oss://bucket.endpoint/object``.

    :raises PaiUsageError: anything else. Of Airflow's own form ``oss://conn@bucket/object`` the text says
        what to write instead.
    """
    uri = required("uri", given)
    scheme, separator, rest = uri.partition("://")
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError as error:
        raise PaiUsageError(f"uri is not an address: {error}.") from None
    if scheme in ("http", "https") and host and uri.isprintable():
        return uri
    if scheme != "oss" or not uri.isprintable():
        shown = f"{scheme}://…" if separator and rest else uri
        raise PaiUsageError(
            f"uri={shown!r} is not an address of http, https or oss: write where in OSS the files are, "
            "'oss://bucket.oss-cn-hangzhou.aliyuncs.com/path/model.pt', or their web address."
        )
    if "@" in parts.netloc or not OSS_HOST.fullmatch(parts.netloc):
        raise PaiUsageError(_of_airflows_form(parts.netloc.rpartition("@")[2], parts.path))
    if parts.path in ("", "/"):
        raise PaiUsageError(
            f"uri={uri!r} names a whole bucket; add the object, or the folder with a '/' at its end."
        )
    return uri


def _of_airflows_form(host: str, path: str) -> str:
    """Return what to write in place of ``oss://conn@bucket/object``, without what stood before the @."""
    bucket = host.partition(".")[0] or "bucket"
    endpoint = host.partition(".")[2] or "oss-cn-hangzhou.aliyuncs.com"
    return (
        f"uri names the bucket {host!r} as Airflow's object storage does, oss://conn@bucket/…: PAI knows no "
        "connection of Airflow and needs the bucket's endpoint. Leave out what stands before the '@', and "
        f"add the endpoint to the bucket: 'oss://{bucket}.{endpoint}{path}'. OSS's console shows the "
        "endpoint of the bucket's region; inside a VPC it is oss-<region>-internal.aliyuncs.com."
    )


def document(name: str, value: Any) -> dict[str, Any] | None:
    """Return a JSON object, such as an inference spec, or nothing where none is given."""
    if value is None:
        return None
    check_no_dict_as_text(name, value)
    if not isinstance(value, Mapping):
        raise PaiUsageError(f"{name}={value!r} is a {type(value).__name__}; write a dict.")
    _check_finite(name, value)
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as error:  # such as half a surrogate pair
        raise PaiUsageError(f"{name} holds what JSON cannot carry: {error}.") from None
    return dict(value)


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise PaiUsageError(f"{name} holds {value!r}, which JSON cannot carry. Leave it out.")
    inner = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    )
    for each in inner:
        _check_finite(name, each)


def encode_metrics(metrics: Any) -> dict[str, Any] | None:
    """Return a version's metrics, a JSON object of at most 8,192 bytes, or nothing where none are given."""
    value = document("metrics", metrics)
    size = len(msgspec.json.encode(value))
    if size > METRICS_BYTES:
        raise PaiUsageError(
            f"metrics has {size:,} bytes as JSON, and PAI takes {METRICS_BYTES:,}. Leave some metrics out."
        )
    return value


def version_labels(labels: Labels | None) -> list[dict[str, str]] | None:
    """Return the labels of a version as the API takes them, or nothing where none are given."""
    if labels is None:
        return None
    wanted = parse_labels(labels)
    if len(wanted) > VERSION_LABELS:
        raise PaiUsageError(
            f"labels has {len(wanted)} labels; a version has at most {VERSION_LABELS}. Leave some out."
        )
    return pairs(wanted)


def label_keys(keys: Any) -> str:
    """Return the keys of labels to remove, one or several, as the API takes them."""
    several = [keys] if isinstance(keys, str) else keys
    if not isinstance(several, (list, tuple, set, frozenset)) or not several:
        raise PaiUsageError(f"keys={keys!r} is not a label's key; write one as text, or a list of several.")
    return ",".join(parse_labels({required("key", key): "" for key in several}))


def source(source_type: Any, source_id: Any) -> dict[str, str | None]:
    """Return where a version comes from, as the API takes it.

    ``source_id`` is any text, unless ``source_type`` is PAIFlow or TrainingService.
    """
    kind = chosen("source_type", source_type)
    check_text("source_id", source_id)
    if source_id is not None and kind not in (None, "Custom"):
        named = [part.partition("=")[0] for part in source_id.split(",") if part.partition("=")[2]]
        if not set(SOURCE_KEYS) <= set(named):
            raise PaiUsageError(
                f"source_id={source_id!r} is not one of source_type={kind!r}: write 'region=cn-hangzhou,"
                "workspaceId=145883,kind=TrainingJob,id=train-1', or leave source_type out, which allows "
                "any text."
            )
    return {"SourceType": kind, "SourceId": text("source_id", source_id)}
