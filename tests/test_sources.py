# ruff: noqa: F401, F811 - fixtures come by import
"""Every kind of credential: obtained from local services, renewed, replaced, never taken from elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow_db import airflow_db, pai
from credential_services import (
    ECS_ROLE,
    LONG_KEY,
    METADATA,
    OIDC_PROVIDER,
    OIDC_TOKEN,
    PRIVATE_KEY,
    PUBLIC_KEY_ID,
    ROLE,
    CredentialServices,
    fields_of,
    issuing,
    make_certificate,
)
from test_triggers import EVALUATED, INTERVAL, LABEL, LIMIT, in_one_loop, triggerer, until

from airflow_provider_pai.api import (
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiTransportError,
    list_runs_page,
    renewal,
    sources,
)
from airflow_provider_pai.api.sources import KINDS, credential_source
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.triggers import PaiRunTrigger

# Of Airflow it wants connections alone, which other modules read on each.
pytestmark = [pytest.mark.timeout(2 * LIMIT), pytest.mark.any_airflow]

RENEWED = [kind for kind in KINDS if KINDS[kind].provider and kind != "default"]
STATIC = ["access_key", "sts", "bearer"]
BEARER = "bearer-token+/="
SHORTEST = 15 * 60
"""The shortest session of STS, in seconds. The library renews it for every request."""


@pytest.fixture
def services(pai: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CredentialServices]:
    with issuing(pai, tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def fields(services: CredentialServices, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The fields with which each kind works here."""
    return fields_of(services, tmp_path)


@pytest.fixture
def connect(pai: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the connection ``role``, as a form saves it, and return a hook on it."""

    def connect(kind: str, fields: dict[str, Any]) -> PaiHook:
        extra = {name: value for name, value in fields.items() if name not in LONG_KEY}
        extra |= {"allow_sts_endpoint": True} if "sts_endpoint" in fields else {}
        connection = {
            "conn_type": "pai",
            "host": pai.url,
            "login": fields.get("access_key_id"),
            "password": fields.get("access_key_secret"),
            "extra": {"workspace_id": pai.workspace_id, "credential_type": kind, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps(connection))
        return PaiHook("role")

    return connect


def secrets(services: CredentialServices) -> list[str]:
    issued = [value for each in services.issued for name, value in each.items() if name != "AccessKeyId"]
    return [LONG_KEY["access_key_secret"], PRIVATE_KEY, OIDC_TOKEN, BEARER, *issued]


def everything_said(error: BaseException) -> str:
    """The text of an error and of its causes, as a log may show it."""
    texts = traceback.TracebackException.from_exception(error)
    chain, said = error, []
    while chain is not None:
        said += [str(chain), repr(chain.args)]
        chain = chain.__cause__ or chain.__context__
    return "".join([*texts.format(), *said])


# --- the fields of each kind, from the connection only -----------------------------------------------------


def whole(kind: str) -> dict[str, str]:
    return {name: "/x" for name in KINDS[kind].needs}


@pytest.mark.parametrize(
    ("kind", "missing"), [(kind, name) for kind in KINDS for name in KINDS[kind].needs], ids=str
)
@pytest.mark.parametrize("nothing", [None, "", False])
def test_what_a_kind_needs_must_be_in_the_connection(kind: str, missing: str, nothing: Any) -> None:
    with pytest.raises(PaiConfigurationError) as caught:
        credential_source(kind, {**whole(kind), missing: nothing})
    word = {"access_key_id": "login", "access_key_secret": "password"}.get(missing, missing)
    assert kind in str(caught.value)
    assert word in str(caught.value)


EVERY_FIELD = {name for needs, takes, _ in KINDS.values() for name in (*needs, *takes)}
EXTRAS = sorted(EVERY_FIELD - {"access_key_id", "access_key_secret"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_a_kind_does_not_use_is_refused(kind: str) -> None:
    for name in EXTRAS:
        if name in (*KINDS[kind].needs, *KINDS[kind].takes):
            continue
        with pytest.raises(PaiConfigurationError) as caught:
            credential_source(kind, {**whole(kind), name: "of-another-kind"})
        users = [other for other in KINDS if name in (*KINDS[other].needs, *KINDS[other].takes)]
        assert name in str(caught.value)
        assert ", ".join(users) in str(caught.value)
        assert "of-another-kind" not in str(caught.value)


@pytest.mark.parametrize("kind", ["", "AK", "role"])
def test_an_unknown_kind_is_refused_with_those_that_are_known(kind: str) -> None:
    with pytest.raises(PaiConfigurationError, match="ram_role_arn"):
        credential_source(kind, {})


@pytest.mark.parametrize("seconds", ["soon", "899", 0.5, "900s"])
def test_a_session_is_at_least_as_long_as_sts_makes_it(seconds: Any) -> None:
    with pytest.raises(PaiConfigurationError, match="900"):
        credential_source("ram_role_arn", {**whole("ram_role_arn"), "role_session_expiration": seconds})


@pytest.mark.parametrize("name", ["private_key_file", "oidc_token_file_path"])
def test_a_secret_in_the_place_of_its_file_is_refused_and_not_repeated(name: str) -> None:
    kind = "rsa_key_pair" if name == "private_key_file" else "oidc_role_arn"
    with pytest.raises(PaiConfigurationError, match=name) as caught:
        credential_source(kind, {**whole(kind), name: f"-----BEGIN KEY----- {PRIVATE_KEY}"})
    assert PRIVATE_KEY not in everything_said(caught.value)


@pytest.mark.parametrize("value", [["a"], {"a": "b"}, True])
def test_a_field_is_a_text_or_a_number(value: Any) -> None:
    with pytest.raises(PaiConfigurationError, match="external_id"):
        credential_source("ram_role_arn", {**whole("ram_role_arn"), "external_id": value})
    assert credential_source("ram_role_arn", {**whole("ram_role_arn"), "external_id": 12345})


def test_a_policy_that_is_not_json_is_refused() -> None:
    with pytest.raises(PaiConfigurationError, match="policy"):
        credential_source("ram_role_arn", {**whole("ram_role_arn"), "policy": "{allow all}"})


def test_a_role_is_not_assumed_by_a_connection_that_does_not_say_so(connect: Any) -> None:
    hook = connect("", {**LONG_KEY, "role_arn": ROLE})
    with pytest.raises(PaiConfigurationError, match=r"role_arn .*'access_key'.*ram_role_arn"):
        hook.list_runs()


def test_the_environment_is_never_asked_in_place_of_the_connection() -> None:
    tempting = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "id-of-the-environment",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret-of-the-environment",
        "ALIBABA_CLOUD_SECURITY_TOKEN": "token-of-the-environment",
        "ALIBABA_CLOUD_ROLE_ARN": ROLE,
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": OIDC_PROVIDER,
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": os.devnull,
        "ALIBABA_CLOUD_CREDENTIALS_URI": "http://127.0.0.1:1/credential",
    }
    script = """
        from airflow_provider_pai.api import PaiConfigurationError
        from airflow_provider_pai.api.sources import KINDS, credential_source
        for kind, missing in [(kind, name) for kind in KINDS for name in KINDS[kind].needs]:
            fields = {name: "x" for name in KINDS[kind].needs if name != missing}
            try:
                credential_source(kind, fields)
            except PaiConfigurationError:
                continue
            raise SystemExit(f"{missing} of {kind} came from elsewhere")
    """
    run_python(script, tempting)


def run_python(script: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- each of them works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RENEWED)
def test_a_hook_lists_runs_with_a_credential_that_is_obtained(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, kind: str
) -> None:
    pai.add_run("there")
    hook = connect(kind, fields[kind])
    assert [run.name for run in hook.list_runs()] == ["there"]
    assert [run.name for run in hook.list_runs()] == ["there"]
    assert len(services.issued) == 1
    assert {request.access_key_id for request in pai.requests} == {"STS.1"}
    ok, said = connect(
        kind, fields[kind]
    ).test_connection()  # reads the connection again, and obtains nothing
    assert ok, said
    assert len(services.issued) == 1


@pytest.mark.parametrize("kind", RENEWED)
@in_one_loop
async def test_many_flows_at_once_obtain_one_credential(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, kind: str
) -> None:
    services.delay = 0.1
    async with connect(kind, fields[kind]).async_client() as client:
        pages = await asyncio.gather(*(client.run(list_runs_page()) for _ in range(20)))
    assert len(pages) == 20
    assert len(services.issued) == 1


def test_the_connection_may_name_the_instances_role(services: CredentialServices, connect: Any) -> None:
    assert connect("ecs_ram_role", {"role_name": ECS_ROLE}).list_runs() == []
    assert not [what for what in services.asked if what.endswith("/security-credentials/")]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_bearer_token_authenticates(pai: Any, connect: Any, is_async: bool) -> None:
    pai.accept("somebody", bearer_token=BEARER)
    pai.add_run("there")
    hook = connect("bearer", {"bearer_token": BEARER})

    async def listed() -> Any:
        async with hook.async_client() as client:
            return await client.run(list_runs_page())

    found = asyncio.run(listed()).runs if is_async else hook.list_runs()
    assert [run.name for run in found] == ["there"]
    assert BEARER not in repr(hook.settings)


def test_a_role_may_be_assumed_with_a_temporary_key_and_all_that_sts_takes(
    services: CredentialServices, fields: Any, connect: Any
) -> None:
    more = {
        "security_token": "token-of-the-caller",
        "external_id": "of-the-trust-policy",
        "role_session_name": "nightly",
        "role_session_expiration": "900",
        "policy": '{ "Version": "1",  "Statement": [{"Comment": "with a space"}] }',
    }
    seen: dict[str, str] = {}
    real = services._assume_role

    def assume_role(query: dict[str, str]) -> Any:
        seen.update(query)
        return real(query)

    services._assume_role = assume_role  # type: ignore[method-assign]
    connect("ram_role_arn", {**fields["ram_role_arn"], **more}).list_runs()
    assert seen["SecurityToken"] == more["security_token"]
    assert (seen["ExternalId"], seen["RoleSessionName"]) == (more["external_id"], more["role_session_name"])
    assert (seen["DurationSeconds"], json.loads(seen["Policy"])) == ("900", json.loads(more["policy"]))


@pytest.mark.parametrize(("vpc", "host"), [(True, "sts-vpc"), (False, "sts")])
def test_sts_is_asked_in_the_region_and_the_vpc_of_pai(connect: Any, vpc: bool, host: str) -> None:
    role = {**LONG_KEY, "role_arn": ROLE, "region": "cn-hangzhou", "vpc": vpc}
    source = connect("ram_role_arn", role).settings.credentials
    assert source._arguments["sts_endpoint"] == f"{host}.cn-hangzhou.aliyuncs.com"
    hook = connect("ram_role_arn", {name: value for name, value in role.items() if name != "region"})
    assert hook.settings.credentials._arguments["sts_endpoint"] == "sts.aliyuncs.com"


def test_a_connection_of_the_official_provider_may_assume_a_role(
    pai: Any, services: CredentialServices, fields: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {**fields["ram_role_arn"], "credential_type": "ram_role_arn", "region": "cn-hangzhou"}
    extra["allow_sts_endpoint"] = True
    connection = {"conn_type": "alibaba_cloud", "host": pai.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps(connection))
    assert PaiHook("role").list_runs() == []
    assert len(services.issued) == 1


def test_the_default_chain_takes_what_the_environment_has(pai: Any) -> None:
    pai.accept(**LONG_KEY)
    pai.add_run("there")
    connection = {"conn_type": "pai", "host": pai.url, "extra": {"credential_type": "default"}}
    environment = {
        "AIRFLOW_CONN_ROLE": json.dumps(connection),
        "ALIBABA_CLOUD_ACCESS_KEY_ID": LONG_KEY["access_key_id"],
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": LONG_KEY["access_key_secret"],
    }
    script = """
        from airflow_provider_pai.hooks import PaiHook
        print([run.name for run in PaiHook("role").list_runs()])
    """
    assert "['there']" in run_python(script, environment)


def test_a_chain_that_finds_nothing_says_where_it_looked(tmp_path: Path) -> None:
    script = """
        from airflow_provider_pai.api import PaiConfigurationError
        from airflow_provider_pai.api.sources import credential_source
        try:
            credential_source("default", {}).get()
        except PaiConfigurationError as error:
            print(error)
    """
    nowhere = {"HOME": str(tmp_path), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}
    said = run_python(script, nowhere)
    assert "None of its sources has one" in said
    assert "environment variables" in said


def test_without_the_library_the_error_says_what_to_install() -> None:
    script = """
        import sys
        sys.modules["alibabacloud_credentials"] = None
        from airflow_provider_pai.api import PaiConfigurationError
        from airflow_provider_pai.api.sources import credential_source
        try:
            credential_source("ecs_ram_role", {}).get()
        except PaiConfigurationError as error:
            print(error)
    """
    assert "airflow-provider-pai[credentials]" in run_python(script, {})


def test_a_plain_key_never_loads_the_library() -> None:
    script = """
        import sys
        from airflow_provider_pai.api.sources import credential_source
        for kind, fields in {
            "access_key": {"access_key_id": "x", "access_key_secret": "y"},
            "sts": {"access_key_id": "x", "access_key_secret": "y", "security_token": "z"},
            "bearer": {"bearer_token": "x"},
        }.items():
            credential_source(kind, fields).get()
        assert "alibabacloud_credentials" not in sys.modules
    """
    run_python(script, {})


# --- renewal ----------------------------------------------------------------------------------------------


def renewed_each_time(services: CredentialServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every credential have come to the time of its renewal when it is issued."""
    services.lifetime = SHORTEST
    monkeypatch.setattr(renewal, "SHARE_LEFT", 1)


@pytest.mark.parametrize("kind", RENEWED)
def test_the_shortest_session_serves_many_requests_and_is_renewed_in_time(
    services: CredentialServices, fields: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    services.lifetime = SHORTEST
    hook = connect(kind, fields[kind])
    for passed, issued in [(0, 1), (0, 1), (SHORTEST * 0.6, 1), (SHORTEST * 0.7, 2)]:
        clock = SimpleNamespace(time=lambda passed=passed: time.time() + passed)
        monkeypatch.setattr(renewal, "time", clock)
        hook.list_runs()
        assert len(services.issued) == issued


@pytest.mark.parametrize("kind", RENEWED)
def test_a_credential_is_renewed_before_it_expires(
    pai: Any,
    services: CredentialServices,
    fields: Any,
    connect: Any,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewed_each_time(services, monkeypatch)
    hook = connect(kind, fields[kind])
    hook.list_runs()
    services.lifetime = 3600
    hook.list_runs()
    assert [request.access_key_id for request in pai.requests] == ["STS.1", "STS.2"]


@pytest.mark.parametrize("kind", RENEWED)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_credential_that_pai_refuses_is_replaced_once(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, kind: str, is_async: bool
) -> None:
    hook = connect(kind, fields[kind])

    async def listed_twice() -> None:
        async with hook.async_client() as client:
            await client.run(list_runs_page())
            pai.revoke("STS.1")
            await client.run(list_runs_page())

    if is_async:
        asyncio.run(listed_twice())
    else:
        hook.list_runs()
        pai.revoke("STS.1")
        hook.list_runs()
    assert [request.access_key_id for request in pai.requests] == ["STS.1", "STS.1", "STS.2"]
    pai.inject("error", status=404, code="InvalidAccessKeyId.NotFound", times=None)
    with pytest.raises(PaiAuthenticationError):
        hook.list_runs()
    assert len(services.issued) == 3  # exactly one more was tried


def test_many_that_are_refused_at_once_replace_the_credential_once(
    pai: Any, services: CredentialServices, fields: Any, connect: Any
) -> None:
    async def scenario() -> None:
        async with connect("credentials_uri", fields["credentials_uri"]).async_client() as client:
            await client.run(list_runs_page())
            pai.revoke("STS.1")
            await asyncio.gather(*(client.run(list_runs_page()) for _ in range(20)))

    asyncio.run(scenario())
    assert len(services.issued) == 2


def test_a_key_that_nobody_can_renew_is_tried_once(pai: Any, connect: Any) -> None:
    hook = connect("access_key", {"access_key_id": "unknown", "access_key_secret": "x"})
    with pytest.raises(PaiAuthenticationError):
        hook.list_runs()
    assert pai.request_counts == {"ListRuns": 1}


UNABLE = {
    "overloaded": (503, {"Code": "ServiceUnavailable"}),
    "throttled": (429, {"Code": "Throttling.User", "Message": "flow control"}),
    "a proxy's page": (200, "<html>Bad gateway</html>"),
    "a proxy's page in another encoding": (502, "<html>网关错误</html>".encode("gbk")),
    "null": (200, "null"),
}


@pytest.mark.parametrize("kind", RENEWED)
@pytest.mark.parametrize("how", UNABLE)
def test_while_nothing_answers_the_last_credential_stays_in_use(
    pai: Any,
    services: CredentialServices,
    fields: Any,
    connect: Any,
    kind: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewed_each_time(services, monkeypatch)
    hook = connect(kind, fields[kind])
    hook.list_runs()
    services.fail = UNABLE[how]
    hook.list_runs()
    hook.list_runs()
    assert {request.access_key_id for request in pai.requests} == {"STS.1"}


def test_a_credential_that_has_expired_is_not_used_while_its_source_is_down(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.lifetime = SHORTEST
    hook = connect("credentials_uri", fields["credentials_uri"])
    hook.list_runs()
    services.fail = UNABLE["overloaded"]
    monkeypatch.setattr(renewal, "time", SimpleNamespace(time=lambda: time.time() + SHORTEST))
    with pytest.raises(PaiTransportError):
        hook.list_runs()
    assert len(pai.requests) == 1


def test_a_credential_that_pai_refuses_is_replaced_at_once_although_its_renewal_had_failed(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed_each_time(services, monkeypatch)
    hook = connect("credentials_uri", fields["credentials_uri"])
    hook.list_runs()
    services.fail = UNABLE["overloaded"]
    hook.list_runs()
    services.fail = None
    pai.revoke("STS.1")
    hook.list_runs()
    assert [request.access_key_id for request in pai.requests][-1] == "STS.2"


@pytest.mark.parametrize("kind", RENEWED)
@pytest.mark.parametrize("how", UNABLE)
def test_before_the_first_credential_transient_faults_are_transient_errors(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, kind: str, how: str
) -> None:
    services.fail = UNABLE[how]
    hook = connect(kind, fields[kind])
    with pytest.raises(PaiTransportError) as caught:
        hook.list_runs()
    assert caught.value.sent is False
    assert pai.requests == []
    services.fail = None
    assert hook.list_runs() == []


def test_an_incomplete_credential_is_not_kept(
    services: CredentialServices, fields: Any, connect: Any
) -> None:
    expires = "2099-01-01T00:00:00Z"
    nobody = {"AccessKeyId": None, "AccessKeySecret": "x", "SecurityToken": "x", "Expiration": expires}
    services.fail = (200, {"Code": "Success", **nobody})
    hook = connect("credentials_uri", fields["credentials_uri"])
    with pytest.raises(PaiTransportError, match="incomplete"):
        hook.list_runs()
    services.fail = None
    assert hook.list_runs() == []


def test_the_default_chain_does_not_use_another_source(
    pai: Any, services: CredentialServices, connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from alibabacloud_credentials.utils import auth_util  # has read the environment already

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(auth_util, "environment_credentials_uri", f"http://{services.plain}/credential")
    monkeypatch.setattr("airflow_provider_pai.api.renewal.PAUSE_SECONDS", 0.0)
    hook = connect("default", {})
    hook.list_runs()
    services.fail, services.failing = (503, "down"), METADATA
    pai.revoke("STS.1")
    with pytest.raises(PaiTransportError, match="somebody else"):
        hook.list_runs()
    assert any("/credential" in what for what in services.asked)
    assert {request.access_key_id for request in pai.requests} == {"STS.1"}
    services.fail = None
    hook.list_runs()
    assert f"GET {METADATA}/meta-data/ram/security-credentials/{ECS_ROLE}" in services.asked


@pytest.mark.parametrize("is_set_up", [True, False])
def test_a_chain_whose_source_is_down_is_asked_again_where_one_is_set_up(
    services: CredentialServices,
    connect: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_set_up: bool,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if is_set_up:
        monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA", ECS_ROLE)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # outside ECS nothing answers there
    with pytest.raises(PaiTransportError if is_set_up else PaiConfigurationError):
        connect("default", {}).list_runs()


@pytest.mark.parametrize("kind", [kind for kind in RENEWED if "sts_endpoint" in KINDS[kind].takes])
def test_sts_throttles_with_a_code(
    services: CredentialServices, fields: Any, connect: Any, kind: str
) -> None:
    services.fail = (400, {"Code": "Throttling.User", "Message": "flow control"})
    with pytest.raises(PaiTransportError, match=r"Throttling\.User"):
        connect(kind, fields[kind]).list_runs()


@pytest.mark.parametrize("kind", RENEWED)
def test_a_service_that_is_not_there_is_asked_again(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    gone = {"sts_endpoint": "localhost:1", "credentials_uri": "http://localhost:1/credential"}
    changed = {name: gone.get(name, value) for name, value in fields[kind].items()}
    with pytest.raises(PaiTransportError, match="RetryError"):
        connect(kind, changed).list_runs()


# --- permanent errors, and secrets in errors ---------------------------------------------------------------

WRONG = {
    "no permission": (
        "ram_role_arn",
        {"role_arn": "acs:ram::1:role/other"},
        ["403", "NoPermission", "REQ-2"],
    ),
    "unknown key": ("ram_role_arn", {"access_key_id": "LTAI-nobody"}, ["InvalidAccessKeyId.NotFound"]),
    "wrong secret": ("ram_role_arn", {"access_key_secret": "not-the-secret"}, ["SignatureDoesNotMatch"]),
    "wrong provider": ("oidc_role_arn", {"oidc_provider_arn": "acs:none"}, ["AuthenticationFail"]),
    "no token file": ("oidc_role_arn", {"oidc_token_file_path": "/nowhere/token"}, ["/nowhere/token"]),
    "no key file": ("rsa_key_pair", {"private_key_file": "/nowhere/key"}, ["/nowhere/key"]),
    "no such role": ("ecs_ram_role", {"role_name": "other"}, ["404", "attached"]),
    "not a credential": ("credentials_uri", {"credentials_uri": "http://{plain}/elsewhere"}, ["URI"]),
    "not trusted": (
        "ram_role_arn",
        {"sts_endpoint": "127.0.0.1:{sts_port}"},
        ["SSL_CERT_FILE", "IP address mismatch"],
    ),
}


@pytest.mark.parametrize(("kind", "changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_only_a_person_can_correct_fails_at_once_and_says_what(
    services: CredentialServices,
    fields: Any,
    connect: Any,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    changes: dict[str, str],
    words: list[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    places = {"plain": services.plain, "sts_port": services.sts.partition(":")[2]}
    changes = {name: value.format(**places) for name, value in changes.items()}
    if "elsewhere" in str(changes):
        services.fail = (403, {"Code": "Forbidden", "AccessKeySecret": LONG_KEY["access_key_secret"]})
    hook = connect(kind, {**fields[kind], **changes})
    with pytest.raises(PaiConfigurationError) as caught:
        hook.list_runs()
    assert len([what for what in services.asked if "api/token" not in what]) <= 1
    said = everything_said(caught.value) + caplog.text
    assert [word for word in words if word not in str(caught.value)] == []
    assert [secret for secret in [*secrets(services), "not-the-secret"] if secret in said] == []


@pytest.mark.parametrize("kind", RENEWED)
def test_no_error_shows_a_secret(
    services: CredentialServices,
    fields: Any,
    connect: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    hook = connect(kind, fields[kind])
    hook.list_runs()
    texts = " ".join(secrets(services))
    for answer in [(500, texts), (403, {"Code": "NoPermission", "Message": texts}), (200, {"Code": texts})]:
        services.fail = answer
        sources._shared.cache_clear()
        with pytest.raises((PaiTransportError, PaiConfigurationError)) as caught:
            connect(kind, fields[kind]).list_runs()
        said = everything_said(caught.value) + caplog.text + repr(hook.settings) + "".join(capfd.readouterr())
        assert [secret for secret in secrets(services) if secret in said] == []


# --- a wait in the triggerer ------------------------------------------------------------------------------


@in_one_loop
async def test_a_credential_that_expires_during_a_wait_is_renewed(
    pai: Any, services: CredentialServices, fields: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed_each_time(services, monkeypatch)
    connect("ram_role_arn", fields["ram_role_arn"])
    async with triggerer() as running:
        wait = running.start(PaiRunTrigger(labels=LABEL, pai_conn_id="role", poke_interval=INTERVAL))
        await until(lambda: len(services.issued) > 1)
        pai.revoke("STS.1")
        pai.add_run("late", labels=EVALUATED)
        assert await running.found(wait) == ["late"]


@in_one_loop
async def test_a_wait_outlasts_a_service_that_is_down(
    pai: Any, services: CredentialServices, fields: Any, connect: Any
) -> None:
    connect("ecs_ram_role", fields["ecs_ram_role"])
    services.fail = (503, "down")
    async with triggerer() as running:
        trigger = PaiRunTrigger(
            labels=LABEL, pai_conn_id="role", poke_interval=INTERVAL, fault_tolerance=None
        )
        wait = running.start(trigger)
        await until(lambda: len(services.asked) > 20)
        services.fail = None
        pai.add_run("late", labels=EVALUATED)
        assert await running.found(wait) == ["late"]


@in_one_loop
async def test_a_role_that_may_not_be_assumed_ends_a_wait_at_once(
    services: CredentialServices, fields: Any, connect: Any
) -> None:
    connect("ram_role_arn", {**fields["ram_role_arn"], "role_arn": "acs:ram::1:role/other"})
    async with triggerer() as running:
        wait = running.start(PaiRunTrigger(labels=LABEL, pai_conn_id="role", poke_interval=INTERVAL))
        error, lasting = await running.failure(wait)
    assert lasting
    assert "NoPermission" in error
