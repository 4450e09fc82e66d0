# ruff: noqa: F401, F811 - fixtures come by import
"""Connections: every way to write one gives the same settings, and mistakes are refused."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from airflow_db import (
    HOME,
    SECRET,
    VERSION,
    BaseHook,
    add_connection,
    airflow_db,
    first,
    new_dag,
    pai,
    run_dag,
)

from airflow_provider_pai.api import Credential, PaiConfigurationError
from airflow_provider_pai.connection import REGIONS, OssSettings, Settings
from airflow_provider_pai.connection_form import FIELD_BEHAVIOUR, FIELDS
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import PaiListRunsOperator

KEY = {"login": "LTAI-the-id", "password": "the-secret-of-the-key"}
TOKEN = "the+token/of=STS"
HANGZHOU = "https://aiworkspace.cn-hangzhou.aliyuncs.com"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a connection as JSON, and return the settings that a hook reads from it."""

    def connect(region: str | None = None, **fields: Any) -> Settings:
        monkeypatch.setenv("AIRFLOW_CONN_TRIED", json.dumps({"conn_type": "pai", **KEY, **fields}))
        return PaiHook("tried", region=region).settings

    return connect


def everything_said(error: BaseException) -> str:
    """The text of an error and of its causes."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


# --- where the requests go --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"extra": {"region": "cn-hangzhou"}}, HANGZHOU),
        (
            {"extra": {"region": "cn-hangzhou", "vpc": True}},
            HANGZHOU.replace("//aiworkspace", "//aiworkspace-vpc"),
        ),
        (
            {"extra": {"region": "cn-hangzhou", "vpc": "true"}},
            HANGZHOU.replace("//aiworkspace", "//aiworkspace-vpc"),
        ),
        ({"extra": {"region": "cn-hangzhou", "vpc": "false"}}, HANGZHOU),
        ({"extra": {"region": "cn-hangzhou", "vpc": None}}, HANGZHOU),
        ({"extra": {"region": "cn-hangzhou"}, "host": "", "port": 0}, HANGZHOU),
        ({"host": "pai.example.com"}, "https://pai.example.com"),
        ({"host": "pai.example.com", "port": 8443}, "https://pai.example.com:8443"),
        ({"host": "pai.example.com:8443"}, "https://pai.example.com:8443"),
        ({"host": "pai.example.com", "port": 0}, "https://pai.example.com"),
        ({"host": "https://pai.example.com"}, "https://pai.example.com"),
        ({"host": "https://pai.example.com/"}, "https://pai.example.com"),
        ({"host": "https://pai.example.com:8443", "port": 0}, "https://pai.example.com:8443"),
        (
            {"host": "pai.example.com", "extra": {"region": "cn-hangzhou", "vpc": True}},
            "https://pai.example.com",
        ),
        ({"host": "http://pai.example.com", "extra": {"allow_http": True}}, "http://pai.example.com"),
        ({"host": "http://pai.example.com", "extra": {"allow_http": "true"}}, "http://pai.example.com"),
        ({"host": "pai.example.com", "extra": {"allow_http": True}}, "https://pai.example.com"),
        ({"host": "127.0.0.1", "port": 8765}, "http://127.0.0.1:8765"),
        ({"host": "127.8.8.8:8765"}, "http://127.8.8.8:8765"),
        ({"host": "localhost:8765"}, "http://localhost:8765"),
        ({"host": "http://LOCALHOST:8765"}, "http://localhost:8765"),
        ({"host": "https://localhost:8765"}, "https://localhost:8765"),
        ({"host": "http://[::1]:8765"}, "http://[::1]:8765"),
        ({"host": "[::1]:8765"}, "http://[::1]:8765"),
        ({"host": "[::1]", "port": 8765}, "http://[::1]:8765"),
        ({"host": "::1", "port": 8765}, "http://[::1]:8765"),
        ({"host": "2001:db8::7"}, "https://[2001:db8::7]"),
        ({"host": " pai.example.com "}, "https://pai.example.com"),
    ],
)
def test_a_host_is_an_endpoint_and_a_region_gives_one(connect: Any, fields: Any, endpoint: str) -> None:
    assert connect(**fields).endpoint == endpoint


@pytest.mark.parametrize("region", REGIONS)
def test_every_public_region_is_known(connect: Any, region: str) -> None:
    assert connect(extra={"region": region}).endpoint == f"https://aiworkspace.{region}.aliyuncs.com"


def test_a_new_region_works_with_its_endpoint_as_host(connect: Any) -> None:
    settings = connect(host="aiworkspace.mars-1.aliyuncs.com", extra={"region": "mars-1"})
    assert (settings.endpoint, settings.region) == ("https://aiworkspace.mars-1.aliyuncs.com", "mars-1")


def test_a_hook_can_name_another_region_than_the_connection(connect: Any) -> None:
    settings = connect(region="cn-beijing", extra={"region": "cn-hangzhou"})
    assert settings.endpoint == "https://aiworkspace.cn-beijing.aliyuncs.com"
    assert settings.region == "cn-beijing"


# --- what is refused --------------------------------------------------------------------------------------

HERE = {"extra": {"region": "cn-hangzhou"}}
REFUSED = [
    pytest.param({}, ["neither a region nor an endpoint", "cn-hangzhou"], id="neither region nor endpoint"),
    pytest.param({"extra": {"region": "cn-hangzou"}}, ["Did you mean 'cn-hangzhou'"], id="misspelt region"),
    pytest.param({"extra": {"region": "mars"}}, ["'mars'", "eu-central-1", "host"], id="unknown region"),
    pytest.param({**HERE, "login": ""}, ["AccessKey id", "login"], id="empty id"),
    pytest.param({**HERE, "login": None}, ["AccessKey id", "login"], id="no id"),
    pytest.param({**HERE, "password": ""}, ["AccessKey secret", "password"], id="empty secret"),
    pytest.param({**HERE, "password": None}, ["AccessKey secret", "password"], id="no secret"),
    pytest.param(
        {**HERE, "password": KEY["password"] + "\n"}, ["AccessKey secret", "line break"], id="pasted"
    ),
    pytest.param({**HERE, "login": " LTAI"}, ["AccessKey id", "a space"], id="space before the id"),
    pytest.param(
        {"extra": {"region": "cn-hangzhou", "workspaceId": "1"}},
        ["unknown field 'workspaceId'", "Did you mean 'workspace_id'?"],
        id="unknown extra",
    ),
    pytest.param(
        {"extra": {"region": "cn-hangzhou", "workspace_id": "145883 "}},
        ["workspace_id", "a space"],
        id="space after an id",
    ),
    pytest.param(
        {"extra": {"region": "cn-hangzhou", "workspace_id": 145883.0}},
        ["workspace_id", "is a number; write it as text"],
        id="id as a fraction",
    ),
    pytest.param({"extra": {"region": ["cn-hangzhou"]}}, ["region", "write it as text"], id="list"),
    pytest.param(
        {"region": "cn-beijing", "host": "pai.example.com"},
        ["region='cn-beijing' would change nothing", "host"],
        id="region beside a host",
    ),
    pytest.param({**HERE, "conn_type": "http"}, ["'tried'", "'http'", "'pai'"], id="another type"),
    pytest.param({"host": "http://pai.example.com"}, ["https://", "allow_http"], id="plain http"),
    pytest.param(
        {"host": "http://pai.example.com", "extra": {"allow_http": "false"}},
        ["allow_http"],
        id="http not allowed",
    ),
    pytest.param({"host": "http://127.0.0.1.example.com"}, ["allow_http"], id="looks like loopback"),
    pytest.param({"host": "http://localhost.example.com"}, ["allow_http"], id="looks like localhost"),
    pytest.param({"host": "http://[::1"}, ["'tried'", "is not an address"], id="broken IPv6"),
    pytest.param({"host": "pai.example.com:port"}, ["'tried'", "is not an address"], id="no port number"),
    pytest.param({"host": "pai example com"}, ["pai example com"], id="spaces within"),
    pytest.param({"host": "https://"}, ["https://"], id="no host at all"),
    pytest.param({"host": "ftp://pai.example.com"}, ["ftp://pai.example.com"], id="ftp"),
    pytest.param({"host": "https://pai.example.com/proxy"}, ["/proxy"], id="path"),
    pytest.param(
        {**HERE, "extra": {"region": "cn-hangzhou", "credential_type": "sts"}}, ["security_token"], id="sts"
    ),
    pytest.param(
        {**HERE, "extra": {"region": "cn-hangzhou", "credential_type": "magic"}},
        ["'magic'", "sts"],
        id="magic",
    ),
    pytest.param(
        {"conn_type": "alibaba_cloud", "extra": {"access_key_id": "a", "access_key_secret": "b"}},
        ["region"],
        id="alibaba_cloud without region",
    ),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_mistakes_in_a_connection_are_refused_before_a_request(
    connect: Any, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(PaiConfigurationError) as caught:
        connect(**fields)
        PaiHook("tried").client()
    for word in words:
        assert word in str(caught.value)


def test_the_test_button_of_airflow_2_sends_the_fields_of_all_types_of_connections(connect: Any) -> None:
    form = {
        "extra__pai__region": "cn-beijing",
        "region": "cn-beijing",
        "extra__ssh__timeout": "9",
        "timeout": "9",
    }
    assert connect(extra=form).region == "cn-beijing"


@pytest.mark.skipif((3, 0) <= VERSION < (3, 2), reason="3.0 and 3.1 find no connection with such extras")
@pytest.mark.filterwarnings("ignore:Encountered")  # Airflow 2's own
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('"{\\"region\\": \\"cn-hangzhou\\"}"', "are a text, not an object"),
        ('["cn-hangzhou"]', "are a list, not an object"),
        ("null", "are null, not an object"),
        ("7", "are a number, not an object"),
        ("region=cn-hangzhou", "are not JSON"),
    ],
)
def test_extras_that_are_no_object_are_refused_also_by_the_test_of_a_connection(
    connect: Any, extra: str, words: str
) -> None:
    with pytest.raises(PaiConfigurationError, match=words):
        connect(extra=extra)
    good, said = PaiHook("tried").test_connection()
    assert (good, words in said) == (False, True)


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_no_refusal_shows_a_secret(connect: Any, fields: dict[str, Any], words: list[str]) -> None:
    extra = {"access_key_secret": "a-second-secret", **fields.get("extra", {})}
    if extra.get("credential_type") != "sts":
        extra["security_token"] = TOKEN
    with pytest.raises(PaiConfigurationError) as caught:
        connect(**{**fields, "extra": extra})
        PaiHook("tried").client()
    said = everything_said(caught.value)
    assert not [secret for secret in (KEY["password"], TOKEN, "a-second-secret") if secret in said]


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded, message = PaiHook("nobody_made_this").test_connection()
    assert not succeeded
    assert "nobody_made_this" in message


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workspace_id", [145883, "145883"])
def test_a_workspace_id_becomes_a_text_however_it_was_written(connect: Any, workspace_id: Any) -> None:
    assert connect(extra={"region": "cn-hangzhou", "workspace_id": workspace_id}).workspace_id == "145883"


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_field_of_the_form_counts_as_absent(connect: Any, nothing: Any) -> None:
    settings = connect(extra={**dict.fromkeys(FIELDS, nothing), "region": "cn-hangzhou"})
    assert (settings.workspace_id, settings.console_url, settings.endpoint) == (None, None, HANGZHOU)
    assert settings.credentials.get().security_token is None


def test_a_key_is_read_from_login_and_password(connect: Any) -> None:
    credential = connect(**HERE).credentials.get()
    assert credential == Credential(access_key_id=KEY["login"], access_key_secret=KEY["password"])


def test_a_token_makes_it_a_temporary_key(connect: Any) -> None:
    credential = connect(extra={"region": "cn-hangzhou", "security_token": TOKEN}).credentials.get()
    assert credential.security_token == TOKEN


def test_a_connection_of_the_official_provider_works(connect: Any) -> None:
    settings = connect(
        conn_type="alibaba_cloud",
        login=None,
        password=None,
        extra={"access_key_id": "its-id", "access_key_secret": "its-secret", "region": "cn-hangzhou"},
    )
    assert settings.credentials.get() == Credential(access_key_id="its-id", access_key_secret="its-secret")
    assert settings.endpoint == HANGZHOU


OIDC = {
    "credential_type": "oidc_role_arn",
    "role_arn": "acs:ram::1:role/airflow",
    "oidc_provider_arn": "acs:ram::1:oidc-provider/ack",
    "oidc_token_file_path": "/opt/airflow/airflow.cfg",
}
ROLES = [
    OIDC,
    {"credential_type": "ram_role_arn", "role_arn": "acs:ram::1:role/airflow"},
    {"credential_type": "rsa_key_pair", "public_key_id": "LTAI", "private_key_file": "/opt/airflow/key"},
]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role["credential_type"])
@pytest.mark.parametrize(
    "extra",
    [
        {"sts_endpoint": "sts.example.com"},
        {"sts_endpoint": "sts.aliyuncs.com.example.com"},
        {"sts_endpoint": "sts.xaliyuncs.com"},
        {"sts_endpoint": "example.com/.aliyuncs.com"},
        {"sts_endpoint": "example.com#.aliyuncs.com"},
        {"sts_endpoint": "example.com?sts.aliyuncs.com"},
        {"sts_endpoint": "example.com:443\\sts.aliyuncs.com"},
        {"sts_endpoint": "sts.aliyuncs.com@example.com"},
        {"sts_endpoint": "my-sts.aliyuncs.com"},
        {"sts_endpoint": "sts.oss-cn-hangzhou.aliyuncs.com"},
        {"sts_endpoint": "sts.cn-hangzhou.fc.aliyuncs.com"},
        {"sts_endpoint": "https://sts.aliyuncs.com"},
        {"sts_endpoint": "127.0.0.1:1"},
        {"sts_endpoint": "example.com", "allow_sts_endpoint": "false"},
        {"sts_endpoint": "example.com", "allow_http": True},
        {"region": "example.com/"},
    ],
)
def test_credentials_and_files_go_to_no_other_sts(connect: Any, role: Any, extra: Any) -> None:
    with pytest.raises(PaiConfigurationError, match="allow_sts_endpoint"):
        connect(host="https://pai.example.com", extra={**role, **extra})


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role["credential_type"])
@pytest.mark.parametrize(
    ("extra", "endpoint"),
    [
        ({}, "sts.aliyuncs.com"),
        ({"region": "cn-wulanchabu"}, "sts.cn-wulanchabu.aliyuncs.com"),
        ({"region": "cn-shanghai-finance-1", "vpc": True}, "sts-vpc.cn-shanghai-finance-1.aliyuncs.com"),
        ({"sts_endpoint": "STS.us-east-1.aliyuncs.com"}, "STS.us-east-1.aliyuncs.com"),
        ({"sts_endpoint": "sts.example.com", "allow_sts_endpoint": True}, "sts.example.com"),
        ({"sts_endpoint": "127.0.0.1:1", "allow_sts_endpoint": "true"}, "127.0.0.1:1"),
    ],
)
def test_another_sts_has_to_be_allowed(connect: Any, role: Any, extra: Any, endpoint: str) -> None:
    settings = connect(host="https://pai.example.com", extra={**role, **extra})
    assert settings.credentials._arguments["sts_endpoint"] == endpoint


def test_settings_show_no_secret(connect: Any) -> None:
    settings = connect(extra={"region": "cn-hangzhou", "security_token": TOKEN})
    exposed = f"{settings!r} {settings} {settings.credentials!r} {settings.credentials.get()!r}"
    exposed += repr(vars(PaiHook("tried"))) + repr(PaiHook("tried").client())
    assert KEY["password"] not in exposed
    assert TOKEN not in exposed


def test_the_form_describes_every_field_and_hides_what_is_not_used() -> None:
    assert {"schema", "port"} == set(FIELD_BEHAVIOUR["hidden-fields"])
    assert {"region", "workspace_id", "security_token", "vpc", "allow_http", "console_url"} <= set(FIELDS)
    for field in FIELDS.values():
        assert field["label"]
        assert field["description"]
        assert "null" in field["schema"]["type"]
    assert FIELDS["security_token"]["schema"]["format"] == "password"


# --- where tasks of a real DAG run read it from ---------------------------------------------------------


def cli(*words: str) -> None:
    """Run one of Airflow's commands in this process."""
    arguments = first("get_parser", "airflow.cli.cli_parser")().parse_args(words)
    arguments.func(arguments)


def test_tasks_find_a_connection_however_it_was_made(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pai.add_run("found")
    fields: dict[str, Any] = {
        "conn_type": "pai",
        "login": pai.access_key_id,
        "password": SECRET,
        "host": pai.url,
        "extra": {"workspace_id": 145883},
    }
    monkeypatch.setenv("AIRFLOW_CONN_BY_URI", pai.connection_uri)
    monkeypatch.setenv("AIRFLOW_CONN_BY_JSON", json.dumps(fields))
    in_database = add_connection(**{**fields, "extra": json.dumps(fields["extra"])})
    cli("connections", "add", "by_cli_uri", "--conn-uri", pai.connection_uri)
    cli("connections", "add", "by_cli_json", "--conn-json", json.dumps(fields))
    split = ["--conn-type", "pai", "--conn-login", "emulator", "--conn-host", "127.0.0.1"]
    split += ["--conn-password", SECRET, "--conn-port", str(pai.port), "--conn-extra", '{"vpc": false}']
    cli("connections", "add", "by_cli_fields", *split)
    alibaba = {"access_key_id": pai.access_key_id, "access_key_secret": SECRET, "region": "cn-hangzhou"}
    alibaba_cloud = add_connection(conn_type="alibaba_cloud", host=pai.url, extra=json.dumps(alibaba))
    ways = ["by_uri", "by_json", in_database, "by_cli_uri", "by_cli_json", "by_cli_fields", alibaba_cloud]
    with new_dag() as dag:
        for conn_id in ways:
            PaiListRunsOperator(task_id=conn_id, pai_conn_id="{{ task.task_id }}")
    ran = run_dag(dag)
    assert ran.states == dict.fromkeys(ways, "success")
    assert [[run["name"] for run in ran.xcom(conn_id)] for conn_id in ways] == [["found"]] * len(ways)


@pytest.mark.parametrize(
    "fields", [{"password": "wrong-" + KEY["password"]}, {"host": "http://127.0.0.1:1"}, {}]
)
def test_a_task_leaves_no_secret_in_database_nor_logs(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    fields: dict[str, Any],
) -> None:
    pai.accept(KEY["login"], KEY["password"], security_token=TOKEN)
    pai.add_run("seen")
    secret = fields.get("password", KEY["password"])
    connection = {"conn_type": "pai", "host": pai.url, **KEY, **fields, "extra": {"security_token": TOKEN}}
    monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", json.dumps(connection))
    with new_dag() as dag:
        PaiListRunsOperator(task_id="list", pai_conn_id="secretive")
    ran = run_dag(dag)
    assert ran.states == {"list": "failed" if fields else "success"}
    texts = "".join(capfd.readouterr()) + caplog.text + ran.dag.dag_id
    texts += "".join(everything_said(error) for errors in ran.errors.values() for error in errors)
    texts += repr(ran.rendered("list")) + repr(ran.xcom("list"))
    texts += "".join(path.read_bytes().decode("latin-1") for path in HOME.rglob("*") if path.is_file())
    assert ran.dag.dag_id in texts
    assert secret not in texts
    assert TOKEN not in texts


def echoed(secret: str) -> dict[str, str]:
    """A request as gateways repeat it, each with another escaping of ``+ / =``."""
    encoded = secret.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    return {
        "plain": json.dumps({"Code": "SignatureDoesNotMatch", "Message": f"signed was [{secret}]"}),
        "gson": json.dumps({"Code": "NoPermission", "Message": f"signed was [{secret}]"}).replace(
            "=", "\\u003d"
        ),
        "slashes": json.dumps({"Code": "NoPermission", "Message": f"[{secret}]"}).replace("/", "\\/"),
        "percent": json.dumps({"Code": "NoPermission", "Message": f"[{encoded}]"}),
        "html": "<html>You sent: " + secret.replace("+", "&#43;").replace("/", "&#x2F;"),
    }


@pytest.mark.parametrize("how", ["plain", "gson", "slashes", "percent", "html"])
@pytest.mark.parametrize("status", [200, 400])
def test_a_token_that_an_error_repeats_is_not_repeated_here(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    status: int,
) -> None:
    pai.accept(KEY["login"], KEY["password"], security_token=TOKEN)
    connection = {"conn_type": "pai", "host": pai.url, **KEY, "extra": {"security_token": TOKEN}}
    monkeypatch.setenv("AIRFLOW_CONN_SECRETIVE", json.dumps(connection))
    pai.inject("body", status=status, body=echoed(TOKEN)[how], times=None)
    with pytest.raises(Exception) as caught:
        PaiHook("secretive").list_runs()
    said = everything_said(caught.value)
    assert not [part for part in (TOKEN, "token/of", "token%2Fof", "token&#x2F;of") if part in said]


# --- OSS --------------------------------------------------------------------------------------------------

OSS = "https://oss-cn-hangzhou.aliyuncs.com"
AK = {"auth_type": "AK", "access_key_id": KEY["login"], "access_key_secret": KEY["password"]}


@pytest.fixture
def connect_oss(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a connection as JSON, and return the settings that ``oss://`` reads from it."""

    def connect_oss(overrides: Any = None, **fields: Any) -> OssSettings:
        fields = {"conn_type": "pai", **(KEY if fields.get("conn_type", "pai") == "pai" else {}), **fields}
        monkeypatch.setenv("AIRFLOW_CONN_TRIED", json.dumps(fields))
        connection = BaseHook.get_connection("tried")
        return OssSettings.of(connection, connection.extra_dejson, **(overrides or {}))

    return connect_oss


@pytest.mark.parametrize(
    ("fields", "overrides", "endpoint", "region"),
    [
        ({}, {}, OSS, "cn-hangzhou"),
        ({"vpc": True}, {}, "https://oss-cn-hangzhou-internal.aliyuncs.com", "cn-hangzhou"),
        ({"region": "me-east-1"}, {}, "https://oss-me-east-1.aliyuncs.com", "me-east-1"),
        ({}, {"region": "cn-beijing"}, "https://oss-cn-beijing.aliyuncs.com", "cn-beijing"),
        ({"oss_endpoint": "oss.example.com"}, {}, "https://oss.example.com", "cn-hangzhou"),
        ({"oss_endpoint": "oss.example.com", "region": None}, {}, "https://oss.example.com", None),
        ({"oss_endpoint": "oss.example.com"}, {"endpoint": OSS}, OSS, "cn-hangzhou"),
        ({"vpc": True}, {"endpoint": "127.0.0.1:80"}, "http://127.0.0.1:80", "cn-hangzhou"),
        # An endpoint of the vendor's names its region, which is not that of the workspace.
        (
            {"oss_endpoint": "oss-cn-beijing-internal.aliyuncs.com"},
            {},
            "https://oss-cn-beijing-internal.aliyuncs.com",
            "cn-beijing",
        ),
    ],
)
@pytest.mark.parametrize("conn_type", ["pai", "alibaba_cloud", "oss"])
def test_oss_is_in_the_region_of_the_connection_or_where_an_endpoint_says(
    connect_oss: Any, conn_type: str, fields: Any, overrides: Any, endpoint: str, region: str | None
) -> None:
    extra = {"region": "cn-hangzhou", **(AK if conn_type != "pai" else {}), **fields}
    if conn_type == "oss" and "oss_endpoint" in extra:
        extra["endpoint"] = extra.pop("oss_endpoint")
    host = {"host": "127.0.0.1:8765"} if conn_type == "pai" else {}  # of PAI
    settings = connect_oss(overrides, conn_type=conn_type, extra=extra, **host)
    assert (settings.endpoint, settings.region) == (endpoint, region)
    assert settings.credentials.get() == Credential(
        access_key_id=KEY["login"], access_key_secret=KEY["password"]
    )
    assert KEY["password"] not in repr(settings)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["region", "'cn-hangzhou'", "oss_endpoint"]),
        ({"extra": {"region": "evil.example.com/"}}, ["region"]),
        ({"extra": {"oss_endpoint": "http://oss.example.com"}}, ["OSS endpoint", "unencrypted"]),
        ({"extra": {"oss_endpoint": "https://u:p@oss.example.com"}}, ["OSS endpoint", "a login"]),
        ({"extra": {"oss_endpoint": "oss.example.com/bucket"}}, ["more than a host"]),
        ({"extra": {"oss_endpoint": "ftp://oss.example.com"}}, ["not an address"]),
        ({"conn_type": "http"}, ["'http'", "'pai'", "'oss'"]),
        ({"conn_type": "oss", "extra": {"region": "cn-hangzhou"}}, ["AccessKey id"]),
        ({"conn_type": "oss", "extra": {**AK, "auth_type": "STS"}}, ["auth_type", "credential_type"]),
        ({"conn_type": "oss", "extra": AK}, ["region", "endpoint"]),
        (
            {"extra": {"region": "cn-hangzhou", "credential_type": "bearer", "bearer_token": TOKEN}},
            ["cannot sign requests to OSS"],
        ),
    ],
)
def test_what_does_not_lead_to_oss_is_refused(connect_oss: Any, fields: Any, words: list[str]) -> None:
    with pytest.raises(PaiConfigurationError) as caught:
        connect_oss(**fields)
    assert [word for word in words if word not in str(caught.value)] == []
    said = everything_said(caught.value)
    assert not any(secret in said for secret in (KEY["password"], TOKEN, "u:p@"))
