"""The signature, compared with the vendor's published example and the official signer."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.api.signing import canonical_query, percent_encode, sign

VECTORS = json.loads((Path(__file__).parent / "data" / "signing-vectors.json").read_text("utf-8"))["vectors"]

ENCODABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ASCII = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def official() -> Any:
    """The SDK's own signer; importing it warns about its dependencies' age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alibabacloud_tea_openapi.utils import Utils
    return Utils.get_authorization


def arguments(vector: dict[str, Any], **changes: Any) -> dict[str, Any]:
    names = ("method", "host", "path", "action", "version", "access_key_id", "access_key_secret")
    return {
        **{name: vector[name] for name in names},
        "security_token": vector["security_token"],
        "date": vector["date"],
        "nonce": vector["nonce"],
        "query": canonical_query(vector["query"]),
        "body": vector["body"].encode(),
        **changes,
    }


def official_authorization(
    signer: Any, given: dict[str, Any], query: dict[str, str], headers: dict[str, str]
) -> str:
    request = SimpleNamespace(
        method=given["method"],
        pathname=given["path"],
        query=query,
        headers={name: value for name, value in headers.items() if name != "authorization"},
    )
    payload = hashlib.sha256(given["body"]).hexdigest()
    key, secret = given["access_key_id"], given["access_key_secret"]
    return str(signer(request, "ACS3-HMAC-SHA256", payload, key, secret))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['method']} {vector['path']}")
def test_every_recorded_vector_is_reproduced(vector):
    assert sign(**arguments(vector))["authorization"] == vector["authorization"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['method']} {vector['path']}")
def test_the_recorded_vectors_are_what_the_official_signer_says(vector, official):
    ours = arguments(vector)
    theirs = official_authorization(official, ours, vector["query"], sign(**ours))
    assert theirs == vector["authorization"]


def test_the_vendors_published_example_is_reproduced():
    image = "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"
    headers = sign(
        method="POST",
        host="ecs.cn-shanghai.aliyuncs.com",
        path="/",
        query=canonical_query({"RegionId": "cn-shanghai", "ImageId": image}),
        body=b"",
        action="RunInstances",
        version="2014-05-26",
        access_key_id="YourAccessKeyId",
        access_key_secret="YourAccessKeySecret",
        security_token=None,
        date="2023-10-26T10:22:32Z",
        nonce="3156853299f313e23d1673dc12e1703d",
    )
    assert headers["authorization"] == (
        "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;"
        "x-acs-date;x-acs-signature-nonce;x-acs-version,"
        "Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
    )


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    segments=st.lists(ENCODABLE, max_size=4),
    # The SDK encodes only the values of a query: PAI's parameters have plain names.
    query=st.dictionaries(st.from_regex(r"[A-Za-z0-9._~-]+", fullmatch=True), ENCODABLE, max_size=6),
    body=st.binary(max_size=60),
    key=ASCII,
    secret=ASCII,
    token=st.none() | ASCII,
)
def test_any_request_is_signed_as_the_official_signer_signs_it(
    official, method, segments, query, body, key, secret, token
):
    given_ = arguments(
        VECTORS[0],
        method=method,
        path="/api/v1/" + "/".join(map(percent_encode, segments)),
        query=canonical_query(query),
        body=body,
        access_key_id=key,
        access_key_secret=secret,
        security_token=token,
    )
    headers = sign(**given_)
    assert headers["authorization"] == official_authorization(official, given_, query, headers)


@given(ENCODABLE)
def test_only_unreserved_characters_are_unchanged(text):
    encoded = percent_encode(text)
    kept = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
    expected = "".join(
        character if character in kept else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in text
    )
    assert encoded == expected


def test_the_query_is_sorted_by_its_plain_keys_and_an_empty_one_is_empty():
    assert canonical_query({"b": "1", "B": "2", "a b": "+", "中": "*"}) == "B=2&a%20b=%2B&b=1&%E4%B8%AD=%2A"
    assert canonical_query({}) == ""


@pytest.mark.parametrize("token", [None, "CAIS+tok/en=="])
def test_only_host_and_acs_headers_are_signed_and_the_token_among_them(token):
    headers = sign(**arguments(VECTORS[0], security_token=token))
    signed = headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    assert signed == sorted(set(headers) - {"authorization"})
    assert all(name == "host" or name.startswith("x-acs-") for name in signed)
    assert ("x-acs-security-token" in signed) == ("x-acs-accesskey-id" in signed) == (token is not None)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "POST"},
        {"host": "localhost:80"},
        {"path": "/api/v1/experiments"},
        {"query": "a=1"},
        {"body": b"x"},
        {"action": "GetRun"},
        {"version": "2021-02-05"},
        {"access_key_secret": "other"},
        {"security_token": "token"},
        {"date": "2025-10-20T08:30:01Z"},
        {"nonce": "0" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_request_changes_its_signature(change):
    def signature(**changes: Any) -> str:
        return sign(**arguments(VECTORS[0], **changes))["authorization"].rpartition("=")[2]

    assert signature(**change) != signature()
