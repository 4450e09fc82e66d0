"""The emulator over HTTP: signatures, answers, quirks, faults, and the command line.

A few lines of this module sign the requests, so that neither the emulator nor the client signs for it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import aiohttp
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.emulator import Fault, PaiEmulator, Quirks, RefusedError, wire
from airflow_provider_pai.emulator.account import Account
from airflow_provider_pai.emulator.parameters import Query
from airflow_provider_pai.emulator.routes import Call, Service, perform
from airflow_provider_pai.emulator.signature import Arrived, Key, Verifier, canonical_request

PATHS = {
    "ListRuns": ("GET", "runs"),
    "GetRun": ("GET", "runs/{}"),
    "CreateRun": ("POST", "runs"),
    "UpdateRun": ("PUT", "runs/{}"),
    "DeleteRun": ("DELETE", "runs/{}"),
    "DeleteRunLabel": ("DELETE", "runs/{}/labels/{}"),
    "LogRunMetrics": ("POST", "runs/{}/metrics/action/log"),
    "ListRunMetrics": ("GET", "runs/{}/metrics"),
    "CreateExperiment": ("POST", "experiments"),
    "GetExperiment": ("GET", "experiments/{}"),
    "DeleteExperiment": ("DELETE", "experiments/{}"),
    "ListExperiment": ("GET", "experiments"),
    "ListWorkspaces": ("GET", "workspaces"),
    "GetDefaultWorkspace": ("GET", "defaultWorkspaces"),
}
EMPTY_HASH = hashlib.sha256(b"").hexdigest()


def encoded(query: dict[str, str]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))


def authorization(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, key: str, secret: str
) -> str:
    names = sorted(headers)
    lines = [f"{name}:{headers[name]}" for name in names]
    canonical = [method, path, encoded(query), *lines, "", ";".join(names), hashlib.sha256(body).hexdigest()]
    to_sign = "ACS3-HMAC-SHA256\n" + hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    signature = hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"ACS3-HMAC-SHA256 Credential={key},SignedHeaders={';'.join(names)},Signature={signature}"


class Pai:
    """A client that signs, and lets a test change the signed request."""

    emulator: PaiEmulator  # if the server runs in this process

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        self.url = url
        self.now = now
        self.session = requests.Session()
        self.session.trust_env = False

    def signed(
        self,
        action: str,
        *values: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | bytes | None = None,
        key: str = "emulator",
        secret: str = "emulator-secret",
        unsigned: tuple[str, ...] = (),
        **headers: str,
    ) -> requests.PreparedRequest:
        """A request. `headers` (with _ for -) are signed in place of the correct ones."""
        method, template = PATHS[action]
        path = "/api/v1/" + template.format(*(quote(value, safe="") for value in values))
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        now = datetime.fromtimestamp(self.now(), timezone.utc)
        signing = {
            "host": urlsplit(self.url).netloc,
            "x-acs-action": action,
            "x-acs-version": "2021-02-04",
            "x-acs-date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-content-sha256": hashlib.sha256(raw).hexdigest(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        covered = {name: value for name, value in signing.items() if name not in unsigned}
        signature = authorization(method, path, query or {}, covered, raw, key, secret)
        url = f"{self.url}{path}" + (f"?{encoded(query)}" if query else "")
        return requests.Request(
            method, url, headers={**signing, "Authorization": signature}, data=raw
        ).prepare()

    def send(self, request: requests.PreparedRequest, timeout: float = 30) -> requests.Response:
        return self.session.send(request, timeout=timeout)

    def __call__(self, action: str, *values: str, **options: Any) -> requests.Response:
        return self.send(self.signed(action, *values, **options))

    def list_runs(self, **query: object) -> dict[str, Any]:
        answer = self("ListRuns", query={name: str(value) for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def names(self, **query: object) -> list[str]:
        return [run["Name"] for run in self.list_runs(**query)["Runs"]]

    def pages(self, **query: object) -> Iterator[dict[str, Any]]:
        """All pages, read by token."""
        token: object = 0
        for _ in range(500):
            page = self.list_runs(**query, PageToken=token)
            yield page
            token = page.get("NextPageToken")
            if token in (0, "0", None):
                return
        raise AssertionError("the tokens do not end")

    def refusal(self, *action: str, **options: Any) -> tuple[int, str, str]:
        answer = self(*action, **options)
        error = answer.json()
        assert set(error) == {"RequestId", "HostId", "Code", "Message", "Recommend"}
        return answer.status_code, error["Code"], error["Message"]


@pytest.fixture
def pai(pai_emulator: PaiEmulator) -> Iterator[Pai]:
    client = Pai(pai_emulator.url, pai_emulator.clock.now)
    client.emulator = pai_emulator
    yield client
    client.session.close()


# Signatures

VECTORS = json.loads((Path(__file__).parent / "data" / "signing-vectors.json").read_text())["vectors"]


def arrived_as(vector: dict[str, Any], query: str) -> Arrived:
    headers = {
        "host": vector["host"],
        "x-acs-action": vector["action"],
        "x-acs-version": vector["version"],
        "x-acs-date": vector["date"],
        "x-acs-signature-nonce": vector["nonce"],
        "x-acs-content-sha256": hashlib.sha256(vector["body"].encode()).hexdigest(),
        "authorization": vector["authorization"],
    }
    if vector["security_token"]:
        headers["x-acs-security-token"] = vector["security_token"]
        headers["x-acs-accesskey-id"] = vector["access_key_id"]
    raw_path = vector["path"] + (f"?{query}" if query else "")
    return Arrived(vector["method"], raw_path, headers, vector["body"].encode())


@pytest.mark.parametrize("spelled", [encoded, urlencode], ids=["%20", "plus"])
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["path"])
def test_official_signatures_are_accepted(vector: dict[str, Any], spelled: Any) -> None:
    verifier = Verifier()
    verifier.accept(Key(vector["access_key_id"], vector["access_key_secret"], vector["security_token"]))
    now = datetime.fromisoformat(vector["date"].replace("Z", "+00:00")).timestamp()
    request = arrived_as(vector, spelled(vector["query"]))
    verifier.verify(request, vector["action"], now + 899)
    with pytest.raises(RefusedError, match="InvalidTimeStamp"):
        verifier.verify(request, vector["action"], now + 901)


def test_the_published_vector() -> None:
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": EMPTY_HASH,
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    path = "/?ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai"
    canonical = canonical_request(Arrived("POST", path, headers, b""), sorted(headers))
    to_sign = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.new(b"YourAccessKeySecret", to_sign.encode(), hashlib.sha256).hexdigest()
    assert signature == "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"key": "stranger"}, 404, "InvalidAccessKeyId.NotFound"),
        ({"secret": "wrong"}, 400, "SignatureDoesNotMatch"),
        ({"unsigned": ("host",)}, 400, "IncompleteSignature"),
        ({"unsigned": ("x-acs-date",)}, 400, "IncompleteSignature"),
        ({"unsigned": ("x-acs-content-sha256",)}, 400, "IncompleteSignature"),
        ({"x_acs_date": "2020-01-01T00:00:00Z"}, 400, "InvalidTimeStamp.Expired"),
        ({"x_acs_date": "2020-01-01T00:00:00.000Z"}, 400, "InvalidTimeStamp.Format"),
        ({"x_acs_action": "GetRun"}, 404, "InvalidAction.NotFound"),
        ({"x_acs_version": "2020-01-01"}, 400, "InvalidVersion"),
        ({"x_acs_content_sha256": "0" * 64}, 400, "SignatureDoesNotMatch"),
        ({"x_acs_security_token": "made-up"}, 400, "InvalidSecurityToken.Malformed"),
    ],
)
def test_bad_signatures_are_refused(pai: Pai, options: dict[str, Any], status: int, code: str) -> None:
    assert pai.refusal("ListRuns", **options)[:2] == (status, code)


def test_what_was_tampered_with_is_refused(pai: Pai) -> None:
    body = {"ExperimentId": pai.emulator.add_experiment()}

    def spoil_url(request: requests.PreparedRequest) -> None:
        request.url = f"{request.url}?MaxResults=1"

    def spoil_body(request: requests.PreparedRequest) -> None:
        request.body = json.dumps({**body, "Name": "other"}).encode()
        request.headers["Content-Length"] = str(len(request.body))

    def spoil_header(request: requests.PreparedRequest) -> None:
        request.headers["x-acs-signature-nonce"] = uuid.uuid4().hex

    for spoil in (spoil_url, spoil_body, spoil_header):
        request = pai.signed("CreateRun", body=body)
        spoil(request)
        answer = pai.send(request)
        assert (answer.status_code, answer.json()["Code"]) == (400, "SignatureDoesNotMatch")
    assert pai.emulator.runs() == []


def test_an_absent_or_strange_authorization_is_refused(pai: Pai) -> None:
    for value in (None, "acs key:signature", "ACS3-HMAC-SHA256 Credential=emulator"):
        request = pai.signed("ListRuns")
        del request.headers["Authorization"]
        if value:
            request.headers["Authorization"] = value
        answer = pai.send(request)
        expected = "IncompleteSignature" if value else "MissingAuthorization"
        assert (answer.status_code, answer.json()["Code"]) == (400, expected)


def test_a_nonce_counts_once_until_its_date_has_passed(pai: Pai) -> None:
    request = pai.signed("ListRuns", x_acs_signature_nonce="a-nonce")
    assert pai.send(request).status_code == 200
    answer = pai.send(request)
    assert (answer.status_code, answer.json()["Code"]) == (400, "SignatureNonceUsed")
    pai.emulator.clock_offset = 20 * 60
    assert pai("ListRuns", x_acs_signature_nonce="a-nonce").status_code == 200


def test_a_refused_request_does_not_use_up_its_nonce(pai: Pai) -> None:
    assert pai("ListRuns", secret="wrong", x_acs_signature_nonce="a-nonce").status_code == 400
    assert pai("ListRuns", x_acs_signature_nonce="a-nonce").status_code == 200


def test_sts(pai: Pai) -> None:
    good = {"key": "STS.a", "secret": "s", "x_acs_accesskey_id": "STS.a", "x_acs_security_token": "tok+/="}
    pai.emulator.accept("STS.a", "s", security_token="tok+/=", expires_at=time.time() + 3600)
    assert pai("ListRuns", **good).status_code == 200
    for change, code in [
        ({"x_acs_security_token": "other"}, "InvalidSecurityToken.Malformed"),
        ({"unsigned": ("x-acs-security-token",)}, "IncompleteSignature"),
        ({"unsigned": ("x-acs-accesskey-id",)}, "IncompleteSignature"),
        ({"x_acs_accesskey_id": "another"}, "IncompleteSignature"),
    ]:
        assert pai.refusal("ListRuns", **{**good, **change})[:2] == (400, code)
    assert pai.refusal("ListRuns", key="STS.a", secret="s")[:2] == (400, "MissingSecurityToken")
    # The real service repeats what it signed, with the token: clients must not leak it.
    code, message = pai.refusal("ListRuns", **{**good, "secret": "wrong"})[1:]
    assert code == "SignatureDoesNotMatch"
    assert "x-acs-security-token:tok+/=" in message
    pai.emulator.clock_offset = 7200
    assert pai.refusal("ListRuns", **good)[:2] == (400, "InvalidSecurityToken.Expired")


def test_bearer_tokens(pai: Pai) -> None:
    pai.emulator.accept("bearer", bearer_token="abc", expires_at=time.time() + 3600)

    def ask(token: str, kind: str = "BEARERTOKEN") -> tuple[int, str]:
        request = pai.signed("ListRuns", x_acs_bearer_token=token, x_acs_signature_type=kind)
        del request.headers["Authorization"]
        answer = pai.send(request)
        return answer.status_code, answer.json().get("Code", "")

    assert ask("abc") == (200, "")
    assert ask("abcd") == (400, "InvalidBearerToken")
    assert ask("abc", "HMAC") == (400, "InvalidSignatureType")
    pai.emulator.clock_offset = 7200
    assert ask("abc") == (400, "InvalidBearerToken.Expired")


def test_keys_are_accepted_and_revoked(pai: Pai) -> None:
    pai.emulator.accept("second", "2")
    assert pai("ListRuns", key="second", secret="2").status_code == 200
    pai.emulator.revoke("second")
    assert pai.refusal("ListRuns", key="second", secret="2")[0] == 404
    assert pai("ListRuns").status_code == 200


def test_the_clock_moves(pai: Pai) -> None:
    pai.emulator.clock_offset = 86400
    run_id = pai.emulator.add_run()
    answer = pai("GetRun", run_id)
    created = datetime.fromisoformat(answer.json()["GmtCreateTime"].replace("Z", "+00:00"))
    assert (created - datetime.now(timezone.utc)).total_seconds() > 80000
    date = datetime.strptime(answer.headers["Date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=timezone.utc)
    assert (date - datetime.now(timezone.utc)).total_seconds() > 80000
    pai.emulator.clock_offset = 0


# The older signature, which test_emulator_with_sdk.py and test_emulator_with_alipai.py know from real clients


def older(pai: Pai, path: str, signed: dict[str, str], secret: str = "emulator-secret") -> dict[str, str]:
    """The headers of a GET that is signed as the classic core SDK does it."""
    lines = [f"{name}:{signed[name]}" for name in sorted(signed) if name.startswith("x-acs-")]
    fields = [signed.get(name, "") for name in ("accept", "content-md5", "content-type", "date")]
    text = "\n".join(["GET", *fields, *lines, unquote(path)])
    signature = base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()
    return {**signed, "authorization": f"acs emulator:{signature}"}


def older_fields(pai: Pai, **more: str) -> dict[str, str]:
    date = datetime.fromtimestamp(pai.now(), timezone.utc)
    return {
        "accept": "application/json",
        "date": f"{date:%a, %d %b %Y %H:%M:%S GMT}",
        "x-acs-signature-method": "HMAC-SHA1",
        "x-acs-signature-version": "1.0",
        "x-acs-signature-nonce": uuid.uuid4().hex,
        "x-acs-version": "2021-02-04",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


@pytest.mark.parametrize(
    "path", ["runs", "runs?Labels=a%20b%3Ac&Name=&Verbose=true", "experiments/exp-%E5%80%BC"]
)
def test_the_older_signature_is_accepted(pai: Pai, path: str) -> None:
    path = f"/api/v1/{path}"
    for more in ({}, {"x_acs_action": "ListRuns"} if "runs" in path else {}):
        headers = older(pai, path, older_fields(pai, **more))
        answer = pai.session.get(pai.url + path, headers=headers, timeout=30)
        assert answer.status_code == (404 if "exp-" in path else 200), answer.text
        assert "Code" not in answer.json() or answer.json()["Code"] == "ExperimentNotFound"
        assert pai.emulator.requests[-1].access_key_id == "emulator"
    assert pai.session.get(pai.url + path, headers=headers, timeout=30).json()["Code"] == "SignatureNonceUsed"


@pytest.mark.parametrize(
    ("changed", "after", "code"),
    [
        ({}, {"authorization": "acs stranger:abc"}, "InvalidAccessKeyId.NotFound"),
        ({}, {"authorization": "acs emulator"}, "InvalidAccessKeyId.NotFound"),
        ({}, {"authorization": "acs emulator:"}, "SignatureDoesNotMatch"),
        ({}, {"accept": "text/html"}, "SignatureDoesNotMatch"),
        ({}, {"x-acs-signature-nonce": "another"}, "SignatureDoesNotMatch"),
        ({}, {"x-acs-more": "1"}, "SignatureDoesNotMatch"),
        ({}, {"content-md5": "abc"}, "InvalidDigest"),
        ({"x-acs-signature-method": "HMAC-SHA256"}, {}, "IncompleteSignature"),
        ({"x-acs-signature-version": "2.0"}, {}, "IncompleteSignature"),
        ({"x-acs-signature-nonce": ""}, {}, "IncompleteSignature"),
        ({"date": ""}, {}, "IncompleteSignature"),
        ({"date": "today"}, {}, "InvalidTimeStamp.Format"),
        ({"date": "Fri, 30 Jan 2021 12:51:33 GMT"}, {}, "InvalidTimeStamp.Expired"),
        ({"x-acs-version": "2020-01-01"}, {}, "InvalidVersion"),
        ({"x-acs-action": "GetRun"}, {}, "InvalidAction.NotFound"),
        ({"x-acs-security-token": "made-up"}, {}, "InvalidSecurityToken.Malformed"),
    ],
)
def test_a_bad_older_signature_is_refused(pai: Pai, changed: Any, after: Any, code: str) -> None:
    headers = {**older(pai, "/api/v1/runs", {**older_fields(pai), **changed}), **after}
    answer = pai.session.get(f"{pai.url}/api/v1/runs", headers=headers, timeout=30)
    assert (answer.status_code in (400, 404), answer.json()["Code"]) == (True, code)


def test_the_older_signature_of_a_temporary_key(pai: Pai) -> None:
    pai.emulator.accept("emulator", "emulator-secret", security_token="tok", expires_at=time.time() + 60)
    for token, code in (
        ("tok", None),
        ("other", "InvalidSecurityToken.Malformed"),
        ("", "MissingSecurityToken"),
    ):
        more = {"x_acs_security_token": token, "x_acs_accesskey_id": "emulator"} if token else {}
        headers = older(pai, "/api/v1/runs", older_fields(pai, **more))
        answer = pai.session.get(f"{pai.url}/api/v1/runs", headers=headers, timeout=30)
        assert answer.json().get("Code") == code


# Web pages


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.com"},
        {"Origin": "http://127.0.0.1.example.com"},
        {"Origin": "http://localhost.example.com:8765"},
        {"Origin": "http://example.com@127.0.0.1"},
        {"Origin": "chrome-extension://localhost"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Host": "example.com"},
        {"Host": "localhost.example.com:8765"},
        {"Host": "pai.example.com", "Origin": "http://pai.example.com"},
        {"Host": "[::2]:8765"},
        {"Host": "127.0.0.1:8765/x"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_web_page_drives_nothing(pai: Pai, headers: dict[str, str]) -> None:
    plain = {"Content-Type": "text/plain", **headers}  # which a page may send without asking first
    answers = [
        pai.session.post(
            f"{pai.url}/_emulator/faults", data='[{"kind": "throttle"}]', headers=plain, timeout=30
        ),
        pai.session.delete(f"{pai.url}/_emulator/requests", headers=plain, timeout=30),
        pai.session.get(f"{pai.url}/_emulator/requests", headers=plain, timeout=30),
        pai.session.get(f"{pai.url}/api/v1/runs", headers=plain, timeout=30),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert all(answer.json()["error"] == answer.json()["Message"] for answer in answers)
    assert pai.emulator.request_counts == {}
    assert pai("ListRuns").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST.:9000"},
        {"Host": "pai.localhost:1"},
        {"Host": "127.1.2.3:8765"},
        {"Host": "[::1]:8765"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://127.0.0.1:8443"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_this_machines_own_names_are_served(pai: Pai, headers: dict[str, str]) -> None:
    assert pai.session.get(f"{pai.url}/_emulator/quirks", headers=headers, timeout=30).status_code == 200
    request = pai.signed("ListRuns", **({"host": headers["Host"]} if "Host" in headers else {}))
    request.headers.update({name: value for name, value in headers.items() if name != "Host"})
    assert pai.send(request).status_code == 200


# Answers


def test_list_runs_has_the_shape_of_the_specification(pai: Pai) -> None:
    pai.emulator.add_run(
        "testrun",
        labels={"is_evaluation": "true"},
        params={"lr": "0.1"},
        metrics={"accuracy": 0.93},
        source_type="TrainingService",
        source_id="train9s0afvjkf",
        gmt_create_time="2021-01-30T12:51:33.028Z",
    )
    answer = pai("ListRuns", query={"Verbose": "true"})
    page = answer.json()
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["x-acs-request-id"] == page["requestId"]
    assert set(page) == {"requestId", "Runs", "TotalCount", "NextPageToken"}
    assert (page["TotalCount"], page["NextPageToken"]) == (1, 0)
    (run,) = page["Runs"]
    time_ = "2021-01-30T12:51:33.028Z"
    label = {"Key": "is_evaluation", "Value": "true", "RunId": run["RunId"]}
    assert run == {
        "Accessibility": "PRIVATE",
        "SourceId": "train9s0afvjkf",
        "SourceType": "TrainingService",
        "WorkspaceId": "145883",
        "Params": [{"Key": "lr", "Value": "0.1"}],
        "Labels": [{**label, "GmtCreateTime": time_, "GmtModifiedTime": time_}],
        "GmtModifiedTime": time_,
        "Name": "testrun",
        "Metrics": [
            {"Key": "accuracy", "Value": 0.93, "Step": 0, "Timestamp": run["Metrics"][0]["Timestamp"]}
        ],
        "OwnerId": run["OwnerId"],
        "ExperimentId": run["ExperimentId"],
        "UserId": run["UserId"],
        "RunId": run["RunId"],
        "GmtCreateTime": time_,
        "RequestId": page["requestId"],
    }
    for flag in ("false", "False", ""):
        brief = pai.list_runs(Verbose=flag)["Runs"][0]
        assert set(run) - set(brief) == {"Labels", "Metrics", "Params"}
    assert pai.list_runs(Verbose="True")["Runs"][0]["Labels"] == run["Labels"]


def test_ten_of_the_newest_come_first(pai: Pai) -> None:
    pai.emulator.add_runs(12, name=lambda index: f"run-{index:02d}")
    page = pai.list_runs()
    assert [run["Name"] for run in page["Runs"]] == [f"run-{index:02d}" for index in range(11, 1, -1)]
    assert (page["TotalCount"], page["NextPageToken"]) == (12, 10)
    assert pai.names(PageToken=10) == ["run-01", "run-00"]
    assert pai.names(PageNumber=3, PageSize=5) == ["run-01", "run-00"]
    assert pai.names(PageNumber=2) == ["run-01", "run-00"]
    assert pai.names(PageNumber=9) == []


def test_ties_follow_insertion_in_both_directions(pai: Pai) -> None:
    times = ["2026-01-02T00:00:00.000Z", "2026-01-01T00:00:00.000Z"]
    names = ["a", "b", "c", "d", "e", "f"]
    pai.emulator.add_runs(6, name=names.__getitem__, gmt_create_time=lambda index: times[index % 2])
    assert pai.names() == ["e", "c", "a", "f", "d", "b"]
    assert pai.names(OrderBy="GmtCreateTime ASC") == ["b", "d", "f", "a", "c", "e"]
    assert pai.names(OrderBy="GmtCreateTime") == ["b", "d", "f", "a", "c", "e"]
    assert pai.names(OrderBy="GmtCreateTime DESC,Name ASC") == ["a", "c", "e", "b", "d", "f"]
    assert pai.names(OrderBy="Name DESC") == names[::-1]
    assert pai.names(SortBy="Name", Order="ASC") == names
    assert pai.names(SortBy="Name") == names[::-1]


def test_filters(pai: Pai) -> None:
    emulator = pai.emulator
    experiment_id = emulator.add_experiment("mine")
    emulator.add_run("one", experiment_id=experiment_id, source_type="DLC", source_id="dlc-1")
    emulator.add_run("two", source_type="TrainingService", source_id="job-1")
    emulator.add_run("elsewhere", workspace_id="145884")
    assert pai.names() == ["two", "one"]
    assert pai.names(WorkspaceId="145884") == ["elsewhere"]
    assert pai.names(ExperimentId=experiment_id) == ["one"]
    assert pai.names(Name="two") == ["two"]
    assert pai.names(Name="tw") == []
    assert pai.names(SourceType="DLC") == ["one"]
    assert pai.names(SourceId="job-1") == ["two"]
    assert pai.names(SourceType="DLC", SourceId="job-1") == []


def test_labels_filter_is_exact_and_means_and(pai: Pai) -> None:
    for name, labels in {
        "both": {"is_evaluation": "true", "LLM_evaluation": "true"},
        "one": {"is_evaluation": "true", "LLM_evaluation": "false"},
        "prefix": {"is_evaluation": "true1"},
        "none": {},
    }.items():
        pai.emulator.add_run(name, labels=labels)
    assert pai.names(Labels="is_evaluation:true") == ["one", "both"]
    assert pai.names(Labels="is_evaluation:true,LLM_evaluation:true") == ["both"]
    assert pai.names(Labels="LLM_evaluation:true,is_evaluation:true") == ["both"]
    assert pai.names(Labels="is_evaluation:true,is_evaluation:false") == []
    assert pai.names(Labels="absent:true") == []


def test_labels_are_set_and_removed(pai: Pai) -> None:
    run_id = pai.emulator.add_run("late")
    assert pai.list_runs(Labels="stage:done")["TotalCount"] == 0
    created = pai.emulator.runs()[0]["GmtCreateTime"]
    pai.emulator.clock_offset = 60
    pai.emulator.label_run(run_id, {"stage": "done"})
    assert pai.list_runs(Labels="stage:done")["TotalCount"] == 1
    assert pai.emulator.runs()[0]["GmtCreateTime"] == created < pai.emulator.runs()[0]["GmtModifiedTime"]
    pai.emulator.label_run(run_id, {"stage": "archived"})
    assert pai.list_runs(Labels="stage:done")["TotalCount"] == 0
    pai.emulator.unlabel_run(run_id, "stage")
    assert pai.list_runs(Labels="stage:archived")["TotalCount"] == 0
    pai.emulator.delete_run(run_id)
    assert pai.list_runs()["TotalCount"] == 0


@pytest.mark.parametrize(
    ("query", "culprit"),
    [
        ({"MaxResults": "0"}, "MaxResults"),
        ({"MaxResults": "ten"}, "MaxResults"),
        ({"PageToken": "-1"}, "PageToken"),
        ({"PageToken": "x"}, "PageToken"),
        ({"PageNumber": "0"}, "PageNumber"),
        ({"PageSize": "0"}, "PageSize"),
        ({"Verbose": "yes"}, "Verbose"),
        ({"Labels": "no-colon"}, "Labels"),
        ({"Labels": "a:b,"}, "Labels"),
        ({"OrderBy": "Age DESC"}, "OrderBy"),
        ({"OrderBy": "Name DOWN"}, "OrderBy"),
        ({"SortBy": "Age"}, "SortBy"),
        ({"Order": "DOWN"}, "Order"),
        ({"SourceType": "Other"}, "SourceType"),
        ({"GmtCreateTime": "yesterday"}, "GmtCreateTime"),
    ],
)
def test_wrong_parameters_are_refused_by_name(pai: Pai, query: dict[str, str], culprit: str) -> None:
    status, code, message = pai.refusal("ListRuns", query=query)
    assert (status, code) == (400, "InvalidParameter")
    assert f"The parameter {culprit} " in message


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        ({"Name": "1st"}, "Name"),
        ({"Name": "a" * 64}, "Name"),
        ({"Name": "a b"}, "Name"),
        ({"Name": 1}, "Name"),
        ({"SourceType": "Other"}, "SourceType"),
        ({"Labels": {"a": "b"}}, "Labels"),
        ({"Labels": [{"Key": "a"}]}, "Labels"),
        ({"Labels": [{"Key": "", "Value": "b"}]}, "Labels"),
        ({"Labels": [{"Key": "a", "Value": "b,c"}]}, "Labels"),
        ({"Labels": [{"Key": "a=b", "Value": "c"}]}, "Labels"),
        ({"Labels": [{"Key": "a", "Value": "é" * 65}]}, "Labels"),
        ({"Params": [{"Key": "a", "Value": 1}]}, "Params"),
    ],
)
def test_wrong_bodies_are_refused_by_name(pai: Pai, body: dict[str, Any], culprit: str) -> None:
    experiment_id = pai.emulator.add_experiment()
    run_id = pai.emulator.add_run(experiment_id=experiment_id)
    before = pai.emulator.runs()
    for action, values in (("CreateRun", ()), ("UpdateRun", (run_id,))):
        if action == "UpdateRun" and culprit == "SourceType":
            continue
        status, code, message = pai.refusal(action, *values, body={"ExperimentId": experiment_id, **body})
        assert (status, code) == (400, "InvalidParameter")
        assert f"The parameter {culprit} " in message
    assert pai.emulator.runs() == before


@pytest.mark.parametrize(
    "metric", [{"Value": 1}, {"Key": "a"}, {"Key": "a", "Value": "1"}, {"Key": "a", "Value": 1, "Step": 0.5}]
)
def test_wrong_metrics_are_refused(pai: Pai, metric: dict[str, Any]) -> None:
    run_id = pai.emulator.add_run()
    assert pai.refusal("LogRunMetrics", run_id, body={"Metrics": [metric]})[:2] == (400, "InvalidParameter")
    assert pai.refusal("LogRunMetrics", run_id, body={"Metrics": []})[:2] == (400, "InvalidParameter")


@pytest.mark.parametrize("raw", [b"{", b"[]", b"null", b'"x"', b"\xff", b'{"Name": "\\ud800"}'])
def test_a_body_that_is_not_an_object_is_refused(pai: Pai, raw: bytes) -> None:
    assert pai.refusal("CreateRun", body=raw)[:2] == (400, "InvalidRequestBody")


def test_what_does_not_exist_is_a_typed_404(pai: Pai) -> None:
    missing = {"ExperimentId": "exp-none"}
    assert pai.refusal("GetRun", "run-none")[:2] == (404, "RunNotFound")
    assert pai.refusal("UpdateRun", "run-none", body={})[:2] == (404, "RunNotFound")
    assert pai.refusal("DeleteRun", "run-none")[:2] == (404, "RunNotFound")
    assert pai.refusal("ListRunMetrics", "run-none", query={"Key": "a"})[:2] == (404, "RunNotFound")
    assert pai.refusal("CreateRun", body=missing)[:2] == (404, "ExperimentNotFound")
    assert pai.refusal("ListRuns", query=missing)[:2] == (404, "ExperimentNotFound")
    assert pai.refusal("ListRuns", query={"WorkspaceId": "1"})[:2] == (404, "WorkspaceNotFound")
    assert pai.refusal("GetExperiment", "exp-none")[:2] == (404, "ExperimentNotFound")


def test_unknown_paths_are_json_errors(pai: Pai) -> None:
    for method, path in [
        ("GET", "/"),
        ("GET", "/api/v1/trials"),
        ("PATCH", "/api/v1/runs"),
        ("GET", "/api/v2/runs"),
    ]:
        answer = pai.session.request(method, pai.emulator.url + path, timeout=30)
        assert (answer.status_code, answer.json()["Code"]) == (404, "InvalidAction.NotFound")


def test_a_run_shows_the_last_value_and_keeps_the_history(pai: Pai) -> None:
    run_id = pai.emulator.add_run(metrics={"loss": 4.0})
    for value, step in [(3.0, 2), (2.0, 1), (1.0, 2), (0.5, None)]:
        pai.emulator.measure_run(run_id, {"loss": value}, step=step)
    metrics = pai("GetRun", run_id, query={"Verbose": "true"}).json()["Metrics"]
    assert [(metric["Value"], metric["Step"]) for metric in metrics] == [(1.0, 2)]
    seen, token = [], 0
    while True:
        query = {"Key": "loss", "MaxResults": "2", "PageToken": str(token)}
        page = pai("ListRunMetrics", run_id, query=query).json()
        seen += [metric["Value"] for metric in page["Metrics"]]
        token = page["NextPageToken"]
        if not token:
            break
    assert seen == [4.0, 3.0, 2.0, 1.0, 0.5]
    assert pai("ListRunMetrics", run_id, query={"Key": "none"}).json()["Metrics"] == []
    assert pai.refusal("ListRunMetrics", run_id)[:2] == (400, "InvalidParameter")


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12), st.data())
def test_the_labels_filter_agrees_with_a_plain_loop(population: list[dict[str, str]], data: Any) -> None:
    account = Account()
    try:
        run_ids = account.add_runs(len(population), labels=population.__getitem__) if population else []
        for _ in range(3):
            wanted = data.draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), min_size=1))
            if run_ids:  # counts and answers are cached: change something in between
                index = data.draw(st.integers(0, len(run_ids) - 1))
                account.label_run(run_ids[index], wanted)
                population[index] = {**population[index], **wanted}
            answer = call(account, Quirks(), Labels=",".join(map(":".join, wanted.items())), MaxResults="100")
            expected = [
                run_id
                for run_id, labels in zip(run_ids, population, strict=True)
                if wanted.items() <= labels.items()
            ]
            assert [run["RunId"] for run in answer["Runs"]] == expected[::-1]
            assert answer["TotalCount"] == len(expected)
    finally:
        account.state.close()


def call(account: Account, quirks: Quirks, **query: str) -> dict[str, Any]:
    """ListRuns without the wire."""
    answer: dict[str, Any] = json.loads(
        perform(Service(account, quirks), Call("ListRuns", {}, Query(query), b"", "request"))
    )
    return answer


# Quirks


@given(
    size=st.integers(1, 7),
    total=st.integers(0, 15),
    page_token=st.sampled_from(["offset", "index"]),
    token_type=st.sampled_from(["integer", "string"]),
    last_token=st.sampled_from(["0", "absent", "null"]),
    empty_pages=st.sampled_from(["never", "between", "last"]),
    order_by=st.sampled_from(["GmtCreateTime ASC", "GmtCreateTime DESC", "Name ASC"]),
)
def test_every_style_of_token_reads_all_runs_once(
    size: int, total: int, order_by: str, **settings: Any
) -> None:
    account, quirks = Account(), Quirks(**settings)
    try:
        expected = account.add_runs(total, name=lambda index: f"run-{index:02d}")
        if order_by.endswith("DESC"):
            expected.reverse()
        seen, token, tokens = [], "0", set()
        while token not in tokens:
            tokens.add(token)
            page = call(account, quirks, PageToken=token, MaxResults=str(size), OrderBy=order_by)
            seen += [run["RunId"] for run in page["Runs"]]
            following = page.get("NextPageToken")
            if following in (0, "0", None):
                break
            assert isinstance(following, str if quirks.token_type == "string" else int)
            token = str(following)
        assert following in {"0": (0, "0"), "absent": (None,), "null": (None,)}[quirks.last_token]
        assert ("NextPageToken" in page) == (quirks.last_token != "absent")
        assert seen == expected
    finally:
        account.state.close()


def test_page_tokens_by_quirk(pai: Pai) -> None:
    pai.emulator.add_runs(5)
    quirks = pai.emulator.quirks
    assert [page["NextPageToken"] for page in pai.pages(MaxResults=2)] == [2, 4, 0]
    quirks.page_token = "index"
    assert [page["NextPageToken"] for page in pai.pages(MaxResults=2)] == [1, 2, 0]
    quirks.token_type = "string"
    assert [page["NextPageToken"] for page in pai.pages(MaxResults=2)] == ["1", "2", "0"]
    quirks.empty_pages = "between"
    assert [len(page["Runs"]) for page in pai.pages(MaxResults=2)] == [2, 0, 2, 0, 1]
    quirks.empty_pages = "last"
    assert [len(page["Runs"]) for page in pai.pages(MaxResults=2)] == [2, 2, 1, 0]
    quirks.total_count = "absent"
    assert "TotalCount" not in pai.list_runs()
    quirks.empty_pages, quirks.page_token, quirks.token_type = "never", "repeated", "integer"
    assert [pai.list_runs(MaxResults=2, PageToken=token)["NextPageToken"] for token in (0, 2)] == [2, 2]
    assert pai.list_runs(MaxResults=5)["NextPageToken"] == 0


def test_max_results_by_quirk(pai: Pai) -> None:
    pai.emulator.add_runs(8)
    pai.emulator.quirks.max_results = 3
    assert len(pai.list_runs(MaxResults=8)["Runs"]) == 3
    assert len(pai.list_runs(PageNumber=1, PageSize=8)["Runs"]) == 3
    pai.emulator.quirks.max_results_rule = "refuse"
    assert pai.refusal("ListRuns", query={"MaxResults": "8"})[:2] == (400, "InvalidParameter")


def test_update_labels_by_quirk(pai: Pai) -> None:
    run_id = pai.emulator.add_run(labels={"a": "1", "b": "1"}, params={"p": "1"})
    body = {"Labels": [{"Key": "b", "Value": "2"}], "Params": [{"Key": "q", "Value": "2"}]}
    pai.emulator.quirks.update_labels = "merge"
    assert pai("UpdateRun", run_id, body=body).status_code == 200
    (run,) = pai.emulator.runs()
    assert (run["Labels"], run["Params"]) == ({"a": "1", "b": "2"}, {"p": "1", "q": "2"})
    pai.emulator.quirks.update_labels = "replace"
    assert pai("UpdateRun", run_id, body=body).status_code == 200
    (run,) = pai.emulator.runs()
    assert (run["Labels"], run["Params"]) == ({"b": "2"}, {"q": "2"})
    assert pai("UpdateRun", run_id, body={"Name": "renamed"}).status_code == 200
    assert pai.emulator.runs()[0]["Labels"] == {"b": "2"}
    assert pai.names(Labels="b:2") == ["renamed"]


def test_filters_by_quirk(pai: Pai) -> None:
    quirks = pai.emulator.quirks
    for name, day in (("first-run", 1), ("second-run", 2)):
        time_ = f"2026-01-0{day}T10:00:00.000Z"
        pai.emulator.add_run(name, labels={"a:b": "c", "n": name}, gmt_create_time=time_)
    assert pai.names(Name="run") == []
    quirks.name_match = "fuzzy"
    assert pai.names(Name="run") == ["second-run", "first-run"]
    quirks.name_match = "never"
    assert pai.names(Name="first-run") == []
    assert pai.names(Labels="a:b:c") == []
    quirks.label_split = "last"
    assert pai.names(Labels="a:b:c") == ["second-run", "first-run"]
    quirks.labels_filter = "ignored"
    assert pai.names(Labels="n:first-run") == ["second-run", "first-run"]
    quirks.order = "by_name"
    assert pai.names(OrderBy="GmtCreateTime DESC") == ["first-run", "second-run"]
    quirks.order = "ignored"
    assert pai.names(OrderBy="GmtCreateTime ASC") == ["second-run", "first-run"]
    assert pai.names(GmtCreateTime="2026-01-01T10:00:00.000Z") == ["first-run"]
    quirks.created_filter = "since"
    assert pai.names(GmtCreateTime="2026-01-01T10:00:00.000Z") == ["second-run", "first-run"]
    quirks.created_filter = "prefix"
    assert pai.names(GmtCreateTime="2026-01-02") == ["second-run"]
    quirks.created_filter = "ignored"
    assert pai.names(GmtCreateTime="2026-01-05") == ["second-run", "first-run"]


def test_labels_by_quirk(pai: Pai) -> None:
    quirks = pai.emulator.quirks
    run_id = pai.emulator.add_run("one", labels={"early": "1"})

    def status(key: str, value: str) -> int:
        body = {"Labels": [{"Key": "early", "Value": "1"}, {"Key": key, "Value": value}]}
        return pai("UpdateRun", run_id, body=body).status_code

    for allowed, statuses in [
        ("documented", [200, 200, 400, 400]),
        ("narrow", [200, 400, 400, 400]),
        ("any", [200, 200, 200, 200]),
    ]:
        quirks.label_characters = allowed
        wanted = [("late", "1"), ("a b", "ü"), ("a=b", "c,d"), ("long", "v" * 129)]
        assert [status(*label) for label in wanted] == statuses
    assert status("late", "1") == 200
    assert pai.names(Labels="late:1") == ["one"]
    quirks.late_labels = "lost"
    assert pai.names(Labels="late:1") == []
    assert pai.names(Labels="early:1") == pai.names(Labels="") == ["one"]


def test_labels_that_show_late(pai: Pai) -> None:
    pai.emulator.quirks.unlisted_label = 2
    experiment_id = pai.emulator.add_experiment()
    old = [{"Key": "old", "Value": "1"}]
    run_id = pai("CreateRun", body={"ExperimentId": experiment_id, "Name": "one", "Labels": old}).json()[
        "RunId"
    ]
    pai.emulator.add_run("two", labels={"old": "1"})
    assert [pai.names(Labels="old:1") for _ in range(3)] == [["two"], ["two"], ["two", "one"]]
    new = [*old, {"Key": "new", "Value": "1"}]
    for _ in range(2):  # the second time nothing is new
        pai("UpdateRun", run_id, body={"Labels": new})
    answer = pai.list_runs(Labels="new:1,old:1")
    assert (answer["Runs"], answer["TotalCount"]) == ([], 0)
    assert pai.names(Labels="") == pai.names(Labels="old:1") == ["two", "one"]
    assert [pai.names(Labels="new:1") for _ in range(2)] == [[], ["one"]]


def test_runs_by_label(pai: Pai) -> None:
    pai.emulator.add_run("one", labels={"a": "1", "b": "2"})
    pai.emulator.add_run("two", labels={"a": "1"})
    for wanted, names in (({"a": "1"}, ["one", "two"]), ({"a": "1", "b": "2"}, ["one"]), ({"a": "2"}, [])):
        assert [run["Name"] for run in pai.emulator.runs(labels=wanted)] == names


def test_details_and_the_default_workspace_by_quirk(pai: Pai) -> None:
    pai.emulator.add_run(labels={"a": "1"})
    for verbose, detailed in [
        ("honoured", [True, False]),
        ("always", [True, True]),
        ("never", [False, False]),
    ]:
        pai.emulator.quirks.verbose = verbose
        runs = [pai.list_runs(Verbose=flag)["Runs"][0] for flag in ("true", "false")]
        assert ["Labels" in run for run in runs] == detailed
    pai.emulator.quirks.default_workspace = "required"
    assert pai.refusal("ListRuns")[:2] == (400, "InvalidParameter")
    assert len(pai.list_runs(WorkspaceId=pai.emulator.workspace_id)["Runs"]) == 1


def test_an_experiment_with_runs_by_quirk(pai: Pai) -> None:
    run_id = pai.emulator.add_run()
    experiment_id = pai.emulator.runs()[0]["ExperimentId"]
    pai.emulator.quirks.experiment_with_runs = "refused"
    assert pai.refusal("DeleteExperiment", experiment_id)[:2] == (400, "ExperimentNotEmpty")
    assert pai("DeleteRun", run_id).status_code == 200
    assert pai("DeleteExperiment", experiment_id).status_code == 200
    assert pai.refusal("DeleteExperiment", experiment_id)[:2] == (404, "ExperimentNotFound")


def test_answers_by_quirk(pai: Pai) -> None:
    quirks = pai.emulator.quirks
    quirks.missing_run = "500"
    assert pai.refusal("GetRun", "run-none")[:2] == (500, "InternalServerErrorProblem")
    quirks.missing_run = "200"
    answer = pai("GetRun", "run-none")
    assert answer.status_code == 200
    assert "Name" not in answer.json()
    quirks.hidden_experiment = 2
    body = {"Name": "new", "WorkspaceId": "145883"}
    experiment_id = pai("CreateExperiment", body=body).json()["ExperimentId"]
    for _ in range(2):
        assert pai.refusal("GetExperiment", experiment_id)[:2] == (404, "NotFoundErrorProblem")
    assert pai("GetExperiment", experiment_id).json()["Name"] == "new"
    quirks.throttle_status = 429
    pai.emulator.inject("throttle")
    assert pai.refusal("ListRuns")[:2] == (429, "Throttling.User")
    quirks.error_body = "lower"
    assert set(pai("GetExperiment", "none").json()) == {"requestId", "code", "message"}
    quirks.error_body = "nested"
    assert pai("GetExperiment", "none").json()["error"]["code"] == "ExperimentNotFound"
    quirks.error_body = "xml"
    text = pai("GetExperiment", "none").text
    assert text.startswith("<Error>")
    assert "<Code>ExperimentNotFound</Code>" in text


NAN = [("string", '"NaN"'), ("null", "null"), ("literal", "NaN"), ("zero", "0")]


@pytest.mark.parametrize(("quirk", "text"), NAN)
def test_nan_by_quirk(pai: Pai, quirk: Any, text: str) -> None:
    pai.emulator.quirks.non_finite = quirk
    run_id = pai.emulator.add_run('"Value":"NaN"', labels={"NaN": "NaN"})
    for raw in (b"NaN", b'"NaN"'):
        body = b'{"Metrics": [{"Key": "loss", "Value": %s}]}' % raw
        assert pai("LogRunMetrics", run_id, body=body).status_code == 200
    query = {"Verbose": "true"}
    assert f'"Metrics":[{{"Value":{text},' in pai("GetRun", run_id, query=query).text
    assert pai("GetRun", run_id, query=query).text.count(f'"Value":{text},') == 1 + (quirk == "string")
    assert pai("ListRunMetrics", run_id, query={"Key": "loss"}).text.count(f'"Value":{text},') == 2


def test_values_of_32_bits_by_quirk(pai: Pai) -> None:
    values = {
        "a": 0.93,
        "b": 16777217,
        "c": 1e39,
        "d": -1e-60,
        '"Value":0.93': 0.5,
        "e": float("nan"),
        "f": -2.5,
    }
    run_id = pai.emulator.add_run(params={"a": '"Value":0.93'}, metrics=values)
    pai.emulator.quirks.metric_values = "float32"
    kept = [0.9300000071525574, 16777216.0, "Infinity", -0.0, 0.5, "NaN", -2.5]

    def listed() -> Any:
        return pai("ListRuns", query={"Verbose": "true"}).json()["Runs"][0]

    for run in (listed(), pai("GetRun", run_id, query={"Verbose": "true"}).json()):
        assert [metric["Value"] for metric in run["Metrics"]] == kept
        assert [metric["Key"] for metric in run["Metrics"]] == [*values]
        assert run["Params"] == [{"Value": '"Value":0.93', "Key": "a"}]
    (metric,) = pai("ListRunMetrics", run_id, query={"Key": "a"}).json()["Metrics"]
    assert metric["Value"] == kept[0]
    pai.emulator.quirks.metric_values = "float64"
    assert listed()["Metrics"][0]["Value"] == 0.93


def test_timestamps_by_quirk(pai: Pai) -> None:
    run_id = pai.emulator.add_run()
    for quirk, per_second in [("milliseconds", 1000), ("seconds", 1), ("zero", 0)]:
        pai.emulator.quirks.metric_timestamp = quirk
        pai("LogRunMetrics", run_id, body={"Metrics": [{"Key": quirk, "Value": 1}]})
        (metric,) = pai("ListRunMetrics", run_id, query={"Key": quirk}).json()["Metrics"]
        assert metric["Timestamp"] == pytest.approx(time.time() * per_second, abs=100 * per_second)


def test_unknown_quirks_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="page_token is one of"):
        Quirks(page_token="cursor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole number"):
        Quirks(max_results=-1)
    with pytest.raises(AttributeError, match="no quirk"):
        Quirks().page_tokens = "index"  # type: ignore[attr-defined]


# Faults


def test_faults_happen_in_order(pai: Pai) -> None:
    emulator = pai.emulator
    emulator.inject(Fault("throttle", action="ListRuns", times=2, retry_after_ms=1500))
    emulator.inject("server_error", action="ListRuns", status=500, after=1)
    emulator.inject("error", code="NoPermission", action="GetRun")
    answers = [pai("ListRuns") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [400, 400, 500, 200]
    assert answers[0].json()["Code"] == "Throttling.User"
    assert answers[0].headers["x-acs-retry-after"] == "1500"
    assert pai.refusal("GetRun", "run-none")[:2] == (403, "NoPermission")
    assert pai.refusal("GetRun", "run-none")[:2] == (404, "RunNotFound")
    emulator.inject("throttle", times=None)
    assert {pai("ListRuns").status_code for _ in range(5)} == {400}
    emulator.clear_faults()
    assert pai("ListRuns").status_code == 200


def test_a_fault_lets_some_requests_pass_first(pai: Pai) -> None:
    pai.emulator.inject("server_error", action="ListRuns", after=2)
    assert pai("GetRun", "run-none").status_code == 404
    assert [pai("ListRuns").status_code for _ in range(4)] == [200, 200, 503, 200]


def test_faults_in_place_of_an_answer(pai: Pai) -> None:
    emulator = pai.emulator
    emulator.inject("html")
    emulator.inject("html", status=200)
    emulator.inject("body", body="null")
    emulator.inject("body", body=b"\xff{", status=418, content_type="text/plain")
    answers = [pai("ListRuns", secret="wrong") for _ in range(4)]  # they need no signature
    assert [answer.status_code for answer in answers] == [502, 200, 200, 418]
    assert answers[0].text.startswith("<html>")
    assert [answer.content for answer in answers[2:]] == [b"null", b"\xff{"]


def test_patched_answers(pai: Pai) -> None:
    pai.emulator.add_runs(3)
    pai.emulator.inject("patch", fields={"NextPageToken": "7"}, remove=["TotalCount"], times=1)
    page = pai.list_runs()
    assert page["NextPageToken"] == "7"
    assert "TotalCount" not in page
    assert len(page["Runs"]) == 3


@pytest.mark.parametrize(("kind", "carried_out"), [("reset", 0), ("reset_after", 1), ("truncate", 1)])
def test_broken_connections(pai: Pai, kind: str, carried_out: int) -> None:
    body = {"ExperimentId": pai.emulator.add_experiment()}
    pai.emulator.inject(kind)
    symptom = "IncompleteRead" if kind == "truncate" else "reset by peer"
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError), match=symptom):
        pai("CreateRun", body=body)
    assert len(pai.emulator.runs()) == carried_out
    assert pai("CreateRun", body=body).status_code == 200


def test_late_answers(pai: Pai) -> None:
    pai.emulator.inject("slow", delay=60)
    with pytest.raises(requests.ReadTimeout):
        pai.send(pai.signed("ListRuns"), timeout=0.2)
    pai.emulator.inject("drip", delay=0.0001)
    assert pai.list_runs()["TotalCount"] == 0
    pai.emulator.inject("slow", delay=0.01)
    assert pai.list_runs()["TotalCount"] == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_stop_does_not_wait_for_faults(kind: str) -> None:
    emulator = PaiEmulator().start()
    emulator.inject(kind, delay=120)
    client = Pai(emulator.url)
    failed = threading.Event()

    def ask() -> None:
        try:
            client("ListRuns")
        except requests.RequestException:
            failed.set()

    thread = threading.Thread(target=ask)
    thread.start()
    while not emulator.requests:
        time.sleep(0.01)
    emulator.stop()
    thread.join(timeout=30)
    client.session.close()
    assert failed.is_set()
    emulator.stop()


def test_the_population_changes_between_pages(pai: Pai) -> None:
    run_ids = pai.emulator.add_runs(4, name=lambda index: f"run-{index}")
    pai.emulator.inject("insert_run", action="ListRuns", after=1, run={"name": "new"})
    pai.emulator.inject("label_run", action="ListRuns", after=1, run_id=run_ids[0], labels={"a": "b"})
    seen = [run["Name"] for page in pai.pages(MaxResults=2) for run in page["Runs"]]
    assert seen == ["run-3", "run-2", "run-2", "run-1", "run-0"]
    assert pai.names(Labels="a:b") == ["run-0"]
    pai.emulator.inject("delete_run", run_id=run_ids[1])
    pai.emulator.inject("unlabel_run", run_id=run_ids[0], key="a")
    pai.emulator.inject("throttle")
    assert pai("ListRuns").status_code == 400
    assert pai.names() == ["new", "run-3", "run-2", "run-0"]
    assert pai.names(Labels="a:b") == []


def test_a_callback_sees_each_request_before_it_is_answered(pai: Pai) -> None:
    calls = []

    def callback(action: str, count: int) -> None:
        calls.append((action, count))
        pai.emulator.add_run(f"run-{count}")

    pai.emulator.before_request(callback)
    assert pai.names() == ["run-1"]
    assert pai.names() == ["run-2", "run-1"]
    pai.emulator.before_request(None)
    assert pai.names() == ["run-2", "run-1"]
    assert calls == [("ListRuns", 1), ("ListRuns", 2)]


def emulator_threads() -> list[str]:
    """The living threads of an emulator: its server, and those in which it calls a test's functions."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("pai-emulator", "asyncio_"))]


def wait_until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (answer := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def test_a_change_comes_later_and_may_use_the_emulator_as_a_test_does(pai: Pai) -> None:
    run_id = pai.emulator.add_run("late")
    seen: list[list[str]] = []

    def label() -> None:
        pai.emulator.label_run(run_id, {"a": "b"})
        seen.append(pai.names())

    started = time.monotonic()
    pai.emulator.later(0.3, label)
    pai.emulator.later(0.1, pai.emulator.add_run, "sooner", labels={"c": "d"})
    assert pai.names() == ["late"]
    assert wait_until(lambda: pai.names(Labels="a:b")) == ["late"]
    assert time.monotonic() - started >= 0.3
    assert pai.names(Labels="c:d") == ["sooner"]
    assert wait_until(lambda: seen) == [["sooner", "late"]]


def test_a_change_that_is_not_due_leaves_nothing_behind() -> None:
    before = emulator_threads()
    changed: list[int] = []
    with PaiEmulator() as emulator:
        emulator.later(3600, changed.append, 1)
        emulator.later(0, changed.append, 2)
        wait_until(lambda: changed)
        assert len(emulator_threads()) > len(before)
    assert emulator_threads() == before
    assert changed == [2]


def test_a_change_that_is_under_way_is_waited_for() -> None:
    started = threading.Event()
    changed: list[str] = []

    def change(emulator: PaiEmulator) -> None:
        started.set()
        time.sleep(0.3)
        changed.append(emulator.add_run())

    with PaiEmulator() as emulator:
        emulator.later(0, change, emulator)
        assert started.wait(30)
    assert len(changed) == 1


def fail() -> None:
    pytest.fail("the label is misspelt")


@pytest.mark.parametrize("how", ["later", "before_request"])
@pytest.mark.parametrize("fault", [None, "throttle"])
def test_a_callback_that_fails_ends_every_wait_and_the_test(how: str, fault: str | None) -> None:
    emulator = PaiEmulator().start()
    pai = Pai(emulator.url, emulator.clock.now)
    if fault:
        emulator.inject(fault, times=None)
    if how == "later":
        emulator.later(0, fail)
        wait_until(lambda: emulator._errors)
    else:
        emulator.before_request(lambda action, count: fail())
    for action in ("ListRuns", "ListWorkspaces"):
        answer = pai(action)
        assert (answer.status_code, answer.json()["Code"]) == (400, "CallbackFailed")
        assert answer.json()["Message"] == "The test's own callback failed: Failed: the label is misspelt"
        emulator.before_request(None)
    pai.session.close()
    with pytest.raises(pytest.fail.Exception, match="the label is misspelt"):
        emulator.stop()
    emulator.stop()  # says it once


def test_several_callbacks_that_fail_are_all_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), PaiEmulator() as emulator:
        emulator.later(0, lambda: 1 / 0)
        wait_until(lambda: emulator._errors)
        emulator.later(0, {}.__getitem__, "second")
        wait_until(lambda: len(emulator._errors) == 2)
    assert "KeyError: 'second'" in capsys.readouterr().err


def test_a_change_needs_a_time_to_come_and_a_running_emulator(pai_emulator: PaiEmulator) -> None:
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="later takes seconds from now"):
            pai_emulator.later(seconds, fail)
    stopped = PaiEmulator()
    with pytest.raises(RuntimeError, match="needs a running emulator"):
        stopped.later(0, fail)
    stopped.stop()


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="no fault 'flood'; known are approve_version, body"):
        Fault("flood")
    with pytest.raises(ValueError, match="at least once"):
        Fault("throttle", times=0)


# From another process


def test_the_control_endpoints(pai: Pai) -> None:
    base = f"{pai.emulator.url}/_emulator"

    def control(method: str, path: str, body: Any = None) -> Any:
        answer = pai.session.request(method, f"{base}/{path}", json=body, timeout=30)
        return answer.json() if answer.status_code == 200 else answer.status_code

    assert control("POST", "faults", [{"kind": "throttle", "times": 5}]) == {}
    assert pai("ListRuns").status_code == 400
    assert control("DELETE", "faults") == {}
    assert control("PATCH", "quirks", {"page_token": "index"})["page_token"] == "index"
    assert control("GET", "quirks")["page_token"] == "index"
    accepted = {
        "access_key_id": "STS.b",
        "access_key_secret": "hidden-secret",
        "security_token": "hidden-token",
    }
    assert control("PATCH", "credentials", {"accept": [accepted], "revoke": ["emulator"]}) == {}
    assert pai("ListRuns").status_code == 404
    sts = {"key": "STS.b", "secret": "hidden-secret", "x_acs_accesskey_id": "STS.b"}
    assert pai("ListRuns", query={"Name": "x"}, x_acs_security_token="hidden-token", **sts).status_code == 200
    recorded = control("GET", "requests")
    assert recorded["counts"] == {"ListRuns": 3}
    assert [entry["status"] for entry in recorded["requests"]] == [400, 404, 200]
    assert recorded["requests"][-1]["query"] == {"Name": "x"}
    assert recorded["requests"][-1]["access_key_id"] == "STS.b"
    assert "hidden" not in json.dumps(recorded)
    assert control("DELETE", "requests") == {}
    assert control("GET", "requests") == {"counts": {}, "busiest": {}, "requests": []}
    assert control("PATCH", "credentials", {"clock_offset": 5}) == {}
    assert pai.emulator.clock_offset == 5
    for method, path, body in [
        ("POST", "faults", [{"kind": "flood"}]),
        ("POST", "faults", {"kind": "throttle"}),
        ("PATCH", "quirks", {"page_token": "cursor"}),
        ("PATCH", "quirks", {"unknown": 1}),
        ("PATCH", "credentials", {"accept": [{}]}),
    ]:
        assert control(method, path, body) == 400
    assert control("GET", "faults") == 404


BAD = {
    "faults": [
        *(None, {}, "throttle", 7, ["throttle"], [["throttle"]], [{}], [None]),
        *([{"kind": kind}] for kind in (None, 7, [], {}, "", "flood")),
        *([{"kind": "slow", "delay": delay}] for delay in ("x", None, [], True, 10**400, float("nan"))),
        *([{"kind": "error", "status": status}] for status in (0, 99, 100, 600, -1, "404", 404.0, True)),
        *([{"kind": "error", "times": times}] for times in (0, -1, 1.5, "1", [])),
        *([{"kind": "error", "after": after}] for after in (None, "1", 1.5)),
        *([{"kind": "error", "code": code}] for code in (7, [], "\ud800")),
        *([{"kind": "throttle", "retry_after_ms": after}] for after in ("1", 1.5)),
        *([{"kind": "body", "body": body}] for body in (7, None, {}, ["x"], "\ud800")),
        *(
            [{"kind": "body", "content_type": kind}]
            for kind in ("", "text", "a/b\r\nc: d", "a/b; charset=x", 7)
        ),
        *([{"kind": "patch", "fields": fields}] for fields in (None, [], "x")),
        *([{"kind": "patch", "remove": remove}] for remove in (None, "x", [7], {})),
        *([{"kind": "label_run", "run_id": "r", "labels": labels}] for labels in ([], {"a": 7}, "a:b")),
        *([{"kind": "insert_run", "run": run}] for run in (7, [], {"nome": "x"}, {"self": 7}, {"name": 7})),
        *([{"kind": "insert_run", "run": {"metrics": metrics}}] for metrics in ({"a": "b"}, [], "x")),
        [{"kind": "throttle"}, {"kind": "throttle", "nonsense": 1}],
    ],
    "quirks": [
        *(None, [], "x", 7, {"unknown": 1}, {"as_dict": 1}, {"__class__": "x"}, {"page_token": None}),
        *({"page_token": token} for token in ("cursor", 7, ["index"], {})),
        *({"max_results": size} for size in (-1, "1", 1.5, True, None)),
        {"page_token": "index", "token_type": "float"},
    ],
    "credentials": [
        *(
            None,
            [],
            "x",
            7,
            {"unknown": 1},
            {"accept": {}},
            {"accept": "x"},
            {"accept": [7]},
            {"accept": [{}]},
        ),
        *({"accept": [{"access_key_id": key, "access_key_secret": "s"}]} for key in (7, None, [], {})),
        *({"accept": [{"access_key_id": "a", "access_key_secret": secret}]} for secret in (7, None, [])),
        {"accept": [{"access_key_id": "a", "access_key_secret": "s", "expires_at": "soon"}]},
        {"accept": [{"access_key_id": "a", "access_key_secret": "s"}], "revoke": [7]},
        *({"revoke": revoke} for revoke in ("emulator", {"emulator": 1}, 7, None, [["emulator"]])),
        *({"clock_offset": offset} for offset in ("1", None, [], True, 1e300, 10**400, float("inf"))),
        {"revoke": ["emulator"], "clock_offset": "1"},
    ],
}


@pytest.mark.parametrize(
    ("path", "body"),
    [pytest.param(path, body, id=f"{path}-{i}") for path in BAD for i, body in enumerate(BAD[path])],
)
def test_bad_control_requests_are_refused_and_change_nothing(pai: Pai, path: str, body: Any) -> None:
    method = "POST" if path == "faults" else "PATCH"
    raw = json.dumps(body) if body is not None else "null"
    answer = pai.session.request(method, f"{pai.url}/_emulator/{path}", data=raw, timeout=30)
    assert (answer.status_code, [*answer.json()]) == (400, ["error"])
    assert answer.json()["error"]
    assert pai.emulator.quirks == Quirks()
    assert pai.emulator.clock_offset == 0
    assert pai("ListRuns").status_code == 200
    assert pai("ListRuns", key="a", secret="s").status_code == 404


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000, b'"\\ud800"', b"[1,]", b"nonsense"]
)
@pytest.mark.parametrize("path", BAD)
def test_control_requests_that_are_not_json_are_refused(pai: Pai, path: str, raw: bytes) -> None:
    method = "POST" if path == "faults" else "PATCH"
    assert pai.session.request(method, f"{pai.url}/_emulator/{path}", data=raw, timeout=30).status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "insert_run", "run": {"experiment_id": "exp-none"}},
        {"kind": "insert_run", "run": {"gmt_create_time": "yesterday"}},
        {"kind": "label_run", "run_id": "run-none", "labels": {"a": "b"}},
    ],
)
def test_a_change_that_fails_says_so(pai: Pai, change: dict[str, Any]) -> None:
    pai.emulator.inject(Fault(**change))
    assert pai.refusal("ListRuns")[:2] == (400, "FaultFailed")
    assert pai("ListRuns").status_code == 200


def start_command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_pai.emulator", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_ends_it(tmp_path: Path, ending: signal.Signals) -> None:
    arguments = (
        "--port",
        "0",
        "--db",
        str(tmp_path / "pai.sqlite"),
        "--access-key-id",
        "a",
        "--access-key-secret",
        "b",
    )
    for turn in (1, 2):  # the second one finds what the first one stored
        with start_command(*arguments) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("PAI emulator listening on http://127.0.0.1:")
            url = line.split()[-1]
            to_paste = f"pai://http://a:b@{url[7:]}/?region=cn-hangzhou&workspace_id=145883"
            assert process.stdout.readline() == f"export AIRFLOW_CONN_PAI_DEFAULT='{to_paste}'\n"
            client = Pai(url)
            keys = {"key": "a", "secret": "b"}
            body = {"Name": f"exp{turn}", "WorkspaceId": "145883"}
            assert client("CreateExperiment", body=body, **keys).status_code == 200
            assert client("ListExperiment", **keys).json()["TotalCount"] == turn
            client.session.close()
            process.send_signal(ending)
            rest, errors = process.communicate(timeout=30)
            assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.timeout(60)
def test_the_command_says_why_it_cannot_start(tmp_path: Path) -> None:
    database = str(tmp_path / "pai.sqlite")
    with PaiEmulator(db=database) as emulator:
        for arguments, message in [
            (["--port", str(emulator.port)], f"cannot listen on port {emulator.port}: "),
            (["--port", "0", "--db", database], f"cannot use the database {database}: database is locked"),
        ]:
            with start_command(*arguments) as process:
                output, errors = process.communicate(timeout=30)
            assert (process.returncode, output) == (1, "")
            assert errors.startswith(message)
            assert "Traceback" not in errors


def test_a_port_in_use_is_an_error_here_too(pai_emulator: PaiEmulator) -> None:
    with pytest.raises(OSError, match="address already in use"):
        PaiEmulator(port=pai_emulator.port).start()


def test_the_fixture_needs_no_airflow() -> None:
    code = "import airflow_provider_pai.testing, sys; assert 'airflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[1])


def test_the_connection_uri_is_complete() -> None:
    with PaiEmulator(access_key_id="a/b", access_key_secret="c@d:e") as emulator:
        scheme, rest = emulator.connection_uri.split("://", 1)
        parts = urlsplit(rest)
        assert (scheme, parts.scheme, parts.hostname, parts.port) == (
            "pai",
            "http",
            "127.0.0.1",
            emulator.port,
        )
        assert (unquote(parts.username or ""), unquote(parts.password or "")) == ("a/b", "c@d:e")
        assert parse_qs(parts.query) == {"region": ["cn-hangzhou"], "workspace_id": ["145883"]}


def test_a_file_keeps_the_state(tmp_path: Path) -> None:
    with PaiEmulator(db=tmp_path / "pai.sqlite") as emulator:
        run_id = emulator.add_run("kept", labels={"a": "b"}, metrics={"m": 1.5})
        emulator.add_workspace("third", workspace_id="7")
        stored = emulator.runs()
    with PaiEmulator(db=tmp_path / "pai.sqlite") as emulator:
        assert emulator.runs() == stored
        assert stored[0]["RunId"] == run_id
        assert len(emulator.state.workspaces()) == 3


CONNECTIONS = 1000
FILES = 2 * CONNECTIONS + 300
"""How many files a process with both ends of these connections has open."""


def ask_on_many_connections() -> list[int]:
    """Send a thousand requests at once, twice, and return the statuses; for a process of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))

    async def ask(session: aiohttp.ClientSession, client: Pai) -> int:
        request = client.signed("ListRuns")
        async with session.get(str(request.url), headers=dict(request.headers)) as answer:
            await answer.read()
            return answer.status

    async def ask_all(emulator: PaiEmulator) -> list[int]:
        client = Pai(emulator.url)
        connected: list[None] = []
        all_are = asyncio.Event()

        async def wait_for_all(*_: Any) -> None:
            connected.append(None)
            if len(connected) == CONNECTIONS:
                all_are.set()
            await all_are.wait()

        # However slow this machine is, there are a thousand connections before the first request.
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(wait_for_all)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(60), trace_configs=[tracing]
        ) as session:
            return [
                status
                for _ in range(2)
                for status in await asyncio.gather(*(ask(session, client) for _ in range(CONNECTIONS)))
            ]

    with PaiEmulator() as emulator:
        statuses = asyncio.run(ask_all(emulator))
        assert emulator.request_counts == {"ListRuns": 2 * CONNECTIONS}
        assert len(emulator.requests) == 1000
        assert len({record.client_port for record in emulator.requests}) == CONNECTIONS
    return statuses


@pytest.mark.timeout(120)
def test_a_thousand_connections_at_once() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"a process may not open {FILES} files here, which both ends of the connections need")
    # In a process of its own, since other tests of this process may have left connections open.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(ask_on_many_connections).result(timeout=100) == [200] * 2 * CONNECTIONS


def test_requests_are_recorded(pai: Pai) -> None:
    for _ in range(3):
        pai.list_runs(Labels="a:b")
    record = pai.emulator.requests[-1]
    assert (record.action, record.method, record.path) == ("ListRuns", "GET", "/api/v1/runs")
    assert (record.query, record.status, record.access_key_id) == ({"Labels": "a:b"}, 200, "emulator")
    assert len({record.client_port for record in pai.emulator.requests}) == 1
    assert replace(record, time=0.0).as_dict()["time"] == 0.0
    pai.emulator.clear_requests()
    assert (pai.emulator.requests, pai.emulator.request_counts) == ([], {})


def test_the_busiest_three_seconds_are_counted(pai: Pai, monkeypatch: pytest.MonkeyPatch) -> None:
    for now in (0.0, 1.0, 3.5, 4.0, 6.0, 6.5, 9.6):
        monkeypatch.setattr(wire, "time", SimpleNamespace(time=time.time, monotonic=lambda now=now: now))
        pai.list_runs()
    pai("GetDefaultWorkspace")
    assert pai.emulator.busiest == {"ListRuns": 4, "GetDefaultWorkspace": 1}  # from 3.5 to 6.5
    recorded = pai.session.get(f"{pai.url}/_emulator/requests", timeout=10).json()
    assert recorded["busiest"] == pai.emulator.busiest
    pai.emulator.clear_requests()
    assert pai.emulator.busiest == {}
