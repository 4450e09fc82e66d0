# ruff: noqa: F401, F811 - fixtures come by import
"""Paths of oss:// against a local OSS that verifies signatures: keys, writes all or nothing, errors."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_db import HOME, VERSION, airflow_db, first, new_dag, pai, run_dag, task
from credential_services import LONG_KEY, fields_of, issuing
from oss_stand_in import Asked, OssStandIn, Refusal, oss_stand_in

from airflow_provider_pai._compat import object_storage_path
from airflow_provider_pai.api import PaiConfigurationError, PaiUsageError
from airflow_provider_pai.api.sources import KINDS
from airflow_provider_pai.filesystems import oss as registered
from airflow_provider_pai.filesystems import oss_file, oss_storage
from airflow_provider_pai.operators import PaiListRunsOperator

KEY = {"access_key_id": "LTAI5t", "access_key_secret": "s3cr3tKEYwith30characters=/+"}
TOKEN = "CAIStoken/with+all&signs=="
BLOCK = os.urandom(oss_file.SMALLEST_PART)
REFUSED = Refusal(403, "AccessDenied", "You have no right to access this object.")


@pytest.fixture
def oss(airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[OssStandIn]:
    """A local OSS with two buckets, in which Airflow's ``oss_default`` may do all."""
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.01)
    (first("_STORE_CACHE", "airflow.sdk.io.store", "airflow.io.store")).clear()
    with oss_stand_in("bucket", "other") as running:
        running.accept(**KEY)
        monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", as_oss(running, KEY))
        yield running


def as_oss(oss: OssStandIn, key: dict[str, str], **extra: Any) -> str:
    """A connection as the vendor's provider has it."""
    known = {"auth_type": "AK", "region": oss.region, "endpoint": oss.endpoint, **key, **extra}
    return json.dumps({"conn_type": "oss", "schema": "bucket", "extra": known})


def path(name: str) -> Any:
    return object_storage_path(f"oss://oss_default@{name}")


def filesystem(**options: Any) -> Any:
    return registered.get_fs("oss_default", options)


def fail(operation: str, refusal: Exception, after: int = 0, times: int = 10**6) -> Callable[[Asked], None]:
    """A fault that refuses some requests of one operation."""
    seen = 0

    def fault(asked: Asked) -> None:
        nonlocal seen
        if asked.operation == operation:
            seen += 1
            if after < seen <= after + times:
                raise refusal

    return fault


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error.args) + repr(vars(error))


# --- what a path can do -----------------------------------------------------------------------------------


def test_a_path_is_written_read_listed_copied_and_removed(oss: OssStandIn) -> None:
    file = path("bucket/a b/ü+1%.txt")
    assert not file.exists()
    with file.open("w", encoding="utf-8") as writing:
        writing.write("hällo\nworld\n")
    assert oss.objects("bucket") == {"a b/ü+1%.txt": "hällo\nworld\n".encode()}
    assert file.exists()
    assert file.is_file()
    assert path("bucket/a b").is_dir()
    assert file.read_text(encoding="utf-8") == "hällo\nworld\n"
    with file.open("rb") as reading:
        assert reading.read(2) + reading.read() == "hällo\nworld\n".encode()
    assert [each.name for each in path("bucket/a b").iterdir()] == ["ü+1%.txt"]
    assert [each.name for each in path("bucket").iterdir()] == ["a b"]
    assert file.stat().st_size == 13
    file.copy(path("other/copy.txt"))
    assert oss.objects("other") == {"copy.txt": "hällo\nworld\n".encode()}
    file.unlink()
    assert not file.exists()
    assert oss.objects("bucket") == {}
    assert {asked.version for asked in oss.requests} == {"4"}


def test_files_go_to_oss_and_back(oss: OssStandIn, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(BLOCK * 9 + b"end")
    object_storage_path(f"file://{tmp_path}/here").copy(path("bucket/there"))
    assert oss.objects("bucket") == {"there": BLOCK * 9 + b"end"}
    assert oss.operations.count("UploadPart") == 2
    path("bucket/there").copy(object_storage_path(f"file://{tmp_path}/back"))
    assert (tmp_path / "back").read_bytes() == BLOCK * 9 + b"end"


def test_a_folder_lists_what_is_in_it_alone_and_nothing_is_kept(oss: OssStandIn) -> None:
    fs = filesystem()
    for number in range(1005):
        oss._store("bucket", f"many/{number:04}", b"x")
    for name in ("many/", "many/below/a", "many/below/b", "manya"):
        oss._store("bucket", name, b"")
    listed = fs.ls("bucket/many", detail=False)
    assert listed == [f"bucket/many/{number:04}" for number in range(1005)] + ["bucket/many/below"]
    assert oss.operations.count("ListObjects") == 2
    assert fs.info("bucket/many/below")["type"] == "directory"
    assert len(fs.find("bucket/many")) == 1007
    assert fs.ls("bucket/many/0001")[0]["size"] == 1
    assert fs.glob("bucket/many/below/*") == ["bucket/many/below/a", "bucket/many/below/b"]
    assert fs.ls("", detail=False) == ["bucket", "other"]
    oss._store("bucket", "many/new", b"")
    assert "bucket/many/new" in fs.ls("bucket/many", detail=False)
    fs.rm("bucket/many", recursive=True)
    assert oss.objects("bucket") == {"manya": b"", "many/": b""}


def test_ranges_are_exact_and_of_one_version(oss: OssStandIn) -> None:
    fs = filesystem()
    oss._store("bucket", "key", b"0123456789")
    assert fs.cat_file("bucket/key", 2, 5) == b"234"
    assert fs.cat_file("bucket/key", -3) == b"789"
    assert fs.cat_file("bucket/key", 4, 400) == b"456789"
    with fs.open("bucket/key", block_size=2, cache_type="none") as reading:
        assert reading.read(3) == b"012"
        oss._store("bucket", "key", b"abcdefghij")
        with pytest.raises(OSError, match="PreconditionFailed"):
            reading.read(3)


def test_what_is_missing_is_a_file_not_found(oss: OssStandIn) -> None:
    for name in ("bucket/none", "nowhere/none"):
        assert not path(name).exists()
        with pytest.raises(FileNotFoundError, match=name.split("/")[0]):
            path(name).open("rb")
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"), path("nowhere/none").open("wb") as file:
        file.write(b"x")
    with pytest.raises(PaiUsageError, match="not an object"):
        path("bucket").open("wb")
    with pytest.raises(PaiUsageError, match="mode 'ab'"):
        path("bucket/key").open("ab")
    with pytest.raises(PaiUsageError, match="Not_A_Bucket"):
        path("Not_A_Bucket/key").open("rb")


@pytest.mark.any_airflow
def test_an_object_that_is_too_large_for_one_request_is_copied_by_reading(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    oss._store("bucket", "big", BLOCK * 20)
    monkeypatch.setattr(oss_storage, "COPY_LIMIT", 2**20)
    filesystem().copy("bucket/big", "other/big")
    assert oss.objects("other") == {"big": BLOCK * 20}
    assert "CopyObject" not in oss.operations


# --- whole or not at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, b"of yesterday"])
@pytest.mark.parametrize(
    ("operation", "after", "size"),
    [
        ("PutObject", 0, 1),
        ("InitiateMultipartUpload", 0, 30),
        ("UploadPart", 2, 30),
        ("CompleteMultipartUpload", 0, 30),
    ],
)
def test_a_failed_write_leaves_nothing_and_what_was_there(
    oss: OssStandIn, operation: str, after: int, size: int, before: bytes | None
) -> None:
    if before is not None:
        oss._store("bucket", "key", before)
    oss.fault = fail(operation, REFUSED, after)
    with pytest.raises(PermissionError, match=f"{operation} oss://bucket/key: AccessDenied"):
        path("bucket/key").write_bytes(BLOCK * size)
    assert oss.objects("bucket") == ({} if before is None else {"key": before})
    assert oss.uploads == {}


@pytest.mark.any_airflow
@pytest.mark.parametrize(
    ("mode", "options"),
    [("wb", {}), ("w", {}), ("wb", {"compression": "gzip"}), ("wt", {"compression": "gzip"})],
)
@pytest.mark.parametrize("size", [1, 20])
def test_an_error_of_the_writer_leaves_nothing(
    oss: OssStandIn, mode: str, options: dict[str, Any], size: int
) -> None:
    block: Any = BLOCK if mode == "wb" else BLOCK.decode("latin-1")
    with pytest.raises(ZeroDivisionError), path("bucket/key").open(mode, **options) as file:
        for _ in range(size):
            file.write(block)
        1 / 0  # noqa: B018
    assert oss.objects("bucket") == {}
    assert oss.uploads == {}
    assert "CompleteMultipartUpload" not in oss.operations


@pytest.mark.parametrize("mode", ["wb", "wt"])
def test_what_is_compressed_is_there_when_the_block_ends(oss: OssStandIn, mode: str) -> None:
    with path("bucket/key.gz").open(mode, compression="infer") as file:
        file.write(b"text" if mode == "wb" else "text")
    assert gzip.decompress(oss.objects("bucket")["key.gz"]) == b"text"
    with path("bucket/key.gz").open("rb", compression="infer") as file:
        assert file.read() == b"text"


def test_a_failed_abort_is_logged_and_does_not_hide_the_first_error(oss: OssStandIn, caplog: Any) -> None:
    first_fault, second = fail("UploadPart", REFUSED, 1), fail("AbortMultipartUpload", REFUSED)
    oss.fault = lambda asked: (first_fault(asked), second(asked))[0]
    with pytest.raises(PermissionError, match="UploadPart"):
        path("bucket/key").write_bytes(BLOCK * 30)
    assert len(oss.uploads) == 1
    (said,) = [record.getMessage() for record in caplog.records if record.name == oss_file.__name__]
    assert "oss://bucket/key are left" in said


@pytest.mark.parametrize("goes_wrong", [False, True])
def test_a_transaction_of_fsspec_commits_all_or_none(oss: OssStandIn, goes_wrong: bool) -> None:
    fs = filesystem()
    try:
        with fs.transaction:
            for name in ("a", "b"):
                with fs.open(f"bucket/{name}", "wb") as file:
                    file.write(b"x")
            assert oss.objects("bucket") == {}
            if goes_wrong:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert oss.objects("bucket") == ({} if goes_wrong else {"a": b"x", "b": b"x"})
    assert oss.uploads == {}


@pytest.mark.any_airflow
@pytest.mark.parametrize(
    "fault", [Refusal(503, "ServiceUnavailable"), Refusal(500, "InternalError"), ConnectionAbortedError()]
)
def test_a_passing_fault_is_tried_again(oss: OssStandIn, fault: Exception) -> None:
    for operation in ("InitiateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject"):
        oss.fault = fail(operation, fault, times=3)
        path("bucket/key").write_bytes(BLOCK * 17)
        assert path("bucket/key").read_bytes() == BLOCK * 17
    oss.fault = fail("HeadObject", fault)
    with pytest.raises(OSError, match="HeadObject oss://bucket/key") as caught:
        path("bucket/key").exists()
    assert caught.value.transient  # type: ignore[attr-defined]
    assert oss.operations[-5:] == ["HeadObject"] * 5


# --- who asks ---------------------------------------------------------------------------------------------


def test_without_a_region_version_1_of_the_signature_is_used(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", as_oss(oss, KEY, region=None))
    path("bucket/a b/ü").write_bytes(BLOCK * 9)
    assert path("bucket/a b/ü").read_bytes() == BLOCK * 9
    filesystem().copy("bucket/a b/ü", "other/ö")
    filesystem().rm("bucket/a b", recursive=True)
    assert oss.objects("bucket") == {}
    assert {asked.version for asked in oss.requests} == {"1"}


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ({**KEY, "access_key_secret": "another"}, "SignatureDoesNotMatch"),
        ({**KEY, "access_key_id": "another"}, "InvalidAccessKeyId"),
        ({**KEY, "security_token": TOKEN}, "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key_is_refused_everywhere_and_shown_nowhere(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch, caplog: Any, key: dict[str, str], code: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", as_oss(oss, key))
    oss._store("bucket", "key", b"x")
    said = []
    for use in (
        lambda: path("bucket/key").exists(),
        lambda: path("bucket/key").read_bytes(),
        lambda: path("bucket/key").write_bytes(b"y"),
        lambda: path("bucket/key").write_bytes(BLOCK * 9),
        lambda: list(path("bucket").iterdir()),
        lambda: filesystem().rm("bucket/key"),
    ):
        with pytest.raises(PermissionError, match="Check the connection's AccessKey") as caught:
            use()
        assert code in str(caught.value)
        said.append(everything_said(caught.value))
    assert oss.objects("bucket") == {"key": b"x"}
    everything = "".join(said) + caplog.text
    for secret in (*(value for name, value in key.items() if name != "access_key_id"), "Authorization"):
        assert secret not in everything


def test_nothing_that_is_kept_or_shown_holds_a_secret(oss: OssStandIn, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    fs = filesystem(region="cn-hangzhou")
    assert fs.exists("bucket")
    kept = [repr(fs), str(vars(fs)), fs.to_json(), repr(pickle.dumps(fs)), repr(fs.open("bucket/a", "wb"))]
    assert KEY["access_key_secret"] not in "".join(kept) + caplog.text
    assert pickle.loads(pickle.dumps(fs)).exists("bucket")
    assert fs == filesystem(region="cn-hangzhou")
    assert fs != registered.get_fs("another", {"region": "cn-hangzhou"})


@pytest.mark.any_airflow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bearer"])
def test_every_kind_of_credential_signs_and_is_renewed_within_a_copy(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """The key is no longer accepted after the first parts, as where a session ends."""
    with issuing(oss, tmp_path, monkeypatch) as services:
        fields = {
            "access_key": LONG_KEY,
            "sts": {**LONG_KEY, "security_token": TOKEN},
            "default": {},
            **fields_of(services, tmp_path),
        }[kind]
        monkeypatch.setenv("ALIBABA_CLOUD_CREDENTIALS_URI", f"http://{services.plain}/credential")
        extra = {name: value for name, value in fields.items() if name not in LONG_KEY}
        connection = {
            "conn_type": "pai",
            "login": fields.get("access_key_id"),
            "password": fields.get("access_key_secret"),
            "extra": {
                **{"region": oss.region, "oss_endpoint": oss.endpoint, "credential_type": kind, **extra},
                **({"allow_sts_endpoint": True} if "sts_endpoint" in fields else {}),
            },
        }
        monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", json.dumps(connection))
        if kind == "sts":
            oss.accept(**fields)
        used: list[str] = []

        def rotate(asked: Asked) -> None:
            used.append(asked.access_key_id)
            if asked.operation != "UploadPart" or asked.query["partNumber"] != "2" or len(set(used)) > 1:
                return
            oss.keys.clear()
            if kind in ("access_key", "sts"):  # another program writes a new one into the connection
                connection["login"] = "LTAI-new"
                oss.accept("LTAI-new", LONG_KEY["access_key_secret"], fields.get("security_token"))
                monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", json.dumps(connection))

        oss.fault = rotate
        with path("bucket/key").open("wb") as file:
            for _ in range(40):
                file.write(BLOCK)
        assert oss.objects("bucket") == {"key": BLOCK * 40}
        assert len(set(used)) == 2
        assert used == sorted(used, key=used.index), "the old one is not used again"


@pytest.mark.any_airflow
def test_a_credential_is_asked_for_before_each_request(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with issuing(oss, tmp_path, monkeypatch) as services:
        services.lifetime = 1.5  # renewed when a third is left
        extra = {"region": oss.region, "oss_endpoint": oss.endpoint}
        extra |= {"credential_type": "credentials_uri", **fields_of(services, tmp_path)["credentials_uri"]}
        monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", json.dumps({"conn_type": "pai", "extra": extra}))
        with path("bucket/key").open("wb") as file:
            until = time.monotonic() + 60
            while len(services.issued) < 3 and time.monotonic() < until:
                file.write(BLOCK * 8)
                time.sleep(0.1)
        assert len(services.issued) >= 3
        assert oss.uploads == {}
        assert oss.operations.count("CompleteMultipartUpload") == 1


def test_a_certificate_that_is_not_trusted_is_no_passing_fault(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with issuing(oss, tmp_path, monkeypatch) as services:
        fs = filesystem(endpoint=f"https://{services.sts}")
        with pytest.raises(PaiConfigurationError, match=r"certificate of OSS .* REQUESTS_CA_BUNDLE"):
            fs.exists("bucket")
    assert services.asked == []


def test_a_bearer_token_is_refused_before_anything_is_sent(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"region": "cn-hangzhou", "credential_type": "bearer", "bearer_token": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", json.dumps({"conn_type": "pai", "extra": extra}))
    with pytest.raises(PaiConfigurationError, match=r"bearer token .* cannot sign requests to OSS") as caught:
        path("bucket/key").exists()
    assert TOKEN not in everything_said(caught.value)
    assert oss.requests == []


def test_options_name_another_place_and_no_credential(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = as_oss(oss, KEY, endpoint="https://oss-cn-beijing.aliyuncs.com", region="cn-beijing")
    monkeypatch.setenv("AIRFLOW_CONN_OSS_DEFAULT", wrong)
    assert filesystem(endpoint=oss.endpoint, region=oss.region).exists("bucket")
    with pytest.raises(PaiConfigurationError, match=r"no storage option 'key'.*connection"):
        filesystem(key="LTAI", secret="secret")


# --- in Airflow -------------------------------------------------------------------------------------------


def test_airflow_finds_the_filesystem_by_the_metadata(airflow_db: None) -> None:
    assert first("has_fs", "airflow.sdk.io", "airflow.io")("oss")


def test_reading_a_dag_reads_no_connection() -> None:
    assert str(object_storage_path("oss://not_there@bucket/key")) == "oss://not_there@bucket/key"


@pytest.mark.parametrize("module", ["ossfs", "oss2"])
def test_without_the_extra_the_error_names_it(
    oss: OssStandIn, monkeypatch: pytest.MonkeyPatch, pai: Any, module: str
) -> None:
    for name in ("oss_storage", "oss_file"):
        monkeypatch.delitem(sys.modules, f"airflow_provider_pai.filesystems.{name}", raising=False)
        monkeypatch.delattr(f"airflow_provider_pai.filesystems.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", output_path="oss://oss_default@bucket/runs.jsonl", retries=3)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"list": "failed"}, {"list": 1})
    assert "pip install 'airflow-provider-pai[oss]'" in ran.error("list")
    file = object_storage_path("file:///tmp")  # other schemes do without it
    assert file.exists()


@pytest.fixture
def pai_with_oss(pai: Any, oss: OssStandIn, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A local PAI whose connection leads to the local OSS too."""
    oss.accept(pai.access_key_id, pai.access_key_secret)
    uri = f"{pai.connection_uri}&oss_endpoint={oss.endpoint.replace(':', '%3A').replace('/', '%2F')}"
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
    return pai


def list_runs(**arguments: Any) -> Any:
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", output_path="oss://pai_default@bucket/runs.jsonl", **arguments)
    return run_dag(dag)


def test_output_path_writes_the_runs_to_oss_and_a_task_reads_them(pai_with_oss: Any, oss: OssStandIn) -> None:
    pai_with_oss.add_runs(30, params=lambda index: {"text": "x" * 9000})
    with new_dag() as dag:
        listed = PaiListRunsOperator(
            task_id="list", output_path="oss://pai_default@bucket/{{ ds }}/runs.jsonl"
        )

        @task
        def count(written: dict[str, Any]) -> int:
            lines = object_storage_path(written["path"]).read_text().splitlines()
            return len([json.loads(line)["run_id"] for line in lines])

        count(listed.output)
    ran = run_dag(dag)
    assert ran.states == {"list": "success", "count": "success"}, ran.errors
    assert ran.xcom("list") == {"path": "oss://pai_default@bucket/2025-10-20/runs.jsonl", "count": 30}
    assert ran.xcom("count") == 30
    assert list(oss.objects("bucket")) == ["2025-10-20/runs.jsonl"]


@pytest.mark.parametrize("before", [None, b"of yesterday"])
def test_a_listing_that_fails_half_way_writes_nothing(
    pai_with_oss: Any, oss: OssStandIn, before: bytes | None
) -> None:
    pai_with_oss.add_runs(5)
    pai_with_oss.inject("html", times=10**6, after=3)
    if before is not None:
        oss._store("bucket", "runs.jsonl", before)
    assert list_runs(page_size=1).states == {"list": "failed"}
    assert oss.objects("bucket") == ({} if before is None else {"runs.jsonl": before})
    assert oss.uploads == {}


def test_a_refusal_of_oss_fails_the_task_at_once_and_says_what_to_change(
    pai_with_oss: Any, oss: OssStandIn
) -> None:
    oss.fault = fail("PutObject", REFUSED)
    ran = list_runs(retries=3)
    assert (ran.states, ran.tries) == ({"list": "failed"}, {"list": 1})
    assert "PutObject oss://bucket/runs.jsonl: AccessDenied" in ran.error("list")
    assert "RAM user or role" in ran.error("list")


def test_a_half_list_that_cannot_be_removed_does_not_hide_the_first_error(
    pai: Any, caplog: Any, capfd: Any
) -> None:
    """In another store, which has published the half by then."""
    from fsspec.implementations.memory import MemoryFileSystem

    class NeverRemoves(MemoryFileSystem):  # type: ignore[misc]
        def rm(self, *args: Any, **kwargs: Any) -> None:
            raise PermissionError("not to be removed")

    attach = first("attach", "airflow.sdk.io", "airflow.io.store")
    attach("memory", "kept", fs=NeverRemoves(skip_instance_cache=True))
    pai.add_runs(5)
    pai.inject("error", times=10**6, after=3)
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", output_path="memory://kept@bucket/runs.jsonl", page_size=1)
    ran = run_dag(dag)
    assert ran.states == {"list": "failed"}
    assert "not to be removed" not in ran.error("list")
    assert "ListRuns" in ran.error("list")
    assert "Half a list may be left at" in caplog.text + "".join(capfd.readouterr())


XCOM = """
from airflow_db import airflow_db, new_dag, run_dag, task

prepare = airflow_db.__wrapped__ if hasattr(airflow_db, "__wrapped__") else airflow_db._get_wrapped_function()
prepare()
with new_dag() as dag:

    @task
    def make():
        return ["x" * 50_000]

    @task
    def take(value):
        return len(value[0])

    take(make())
ran = run_dag(dag)
assert ran.states == {"make": "success", "take": "success"}, ran.errors
print("took", ran.xcom("take"))
"""


BACKEND = "airflow.providers.common.io.xcom.backend"


def in_another_process(script: str, oss: OssStandIn) -> str:
    """Run a script in an Airflow whose XComs of more than 1,000 bytes go to the local OSS."""
    pytest.importorskip(BACKEND, reason="needs the provider common.io")
    settings = {
        "AIRFLOW_CONN_OSS_DEFAULT": as_oss(oss, KEY),
        "AIRFLOW__CORE__XCOM_BACKEND": f"{BACKEND}.XComObjectStorageBackend",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": "oss://oss_default@bucket/xcom",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "1000",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_COMPRESSION": "gzip",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=os.environ | {"SETTINGS_OF_THE_TESTS": json.dumps(settings)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(180)
def test_airflows_xcom_backend_keeps_large_values_in_oss(oss: OssStandIn) -> None:
    assert "took 50000" in in_another_process(XCOM, oss)
    ((key, content),) = oss.objects("bucket").items()
    assert key.startswith("xcom/")
    assert json.loads(gzip.decompress(content)) == ["x" * 50_000]


def test_another_process_finds_an_xcom_by_what_airflow_stores(oss: OssStandIn) -> None:
    """It has used no path of oss:// before, as a task that begins by reading what another one left."""
    oss._store("bucket", "xcom/a/b.json", b'"value"')
    script = f"""
import airflow_db
from airflow.plugins_manager import ensure_plugins_loaded
ensure_plugins_loaded()
from {BACKEND} import XComObjectStorageBackend
path = XComObjectStorageBackend._get_full_path("oss://oss_default@bucket/xcom/a/b.json")
print("path", path, path.read_text())
"""
    assert 'path oss://oss_default@bucket/xcom/a/b.json "value"' in in_another_process(script, oss)
