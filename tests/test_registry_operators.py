# ruff: noqa: F401, F811 - fixtures come by import
"""The tasks that register a version of a model and decide about it: once, whatever fails on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow_db import add_connection, airflow_db, first, new_dag, pai, run_dag, store_assets, task

from airflow_provider_pai import api
from airflow_provider_pai._compat import AirflowFailException, object_storage_path
from airflow_provider_pai.api.registration import metrics_document
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import (
    PaiPromoteRunOperator,
    PaiRegisterModelVersionOperator,
    PaiRunGateOperator,
    PaiSetModelVersionApprovalOperator,
)

URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/1/"
Asset = first("Asset", "airflow.sdk") or first("Dataset", "airflow.datasets")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not pause: an emulator in this process does everything at once."""
    monkeypatch.setattr("airflow_provider_pai.api.by_name.VISIBLE_AFTER", (0.0, 0.001, 0.001, 0.001))


def registering(**given: Any) -> Any:
    arguments = {"task_id": "register", "model_name": "digits", "uri": URI, **given}
    return PaiRegisterModelVersionOperator(**arguments)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What tasks have logged, wherever this Airflow writes it."""
    caplog.set_level("INFO")
    return lambda: caplog.text + "".join(capfd.readouterr())


def one_version(pai: Any) -> dict[str, Any]:
    (model,) = pai.models()
    (version,) = pai.model_versions(model["ModelId"])
    return dict(version)


def values(version: dict[str, Any]) -> dict[str, float]:
    (result,) = version["Metrics"]["Results"]
    return dict(result["Metrics"])


# --- registering


def test_the_run_that_a_gate_chose_becomes_a_version(pai: Any) -> None:
    run_id = pai.add_run("night", metrics={"loss": 0.1, "accuracy": 0.95}, labels={"is_evaluation": "true"})
    with new_dag() as dag:
        gate = PaiRunGateOperator(task_id="gate", labels="is_evaluation:true", metrics={"accuracy": ">= 0.9"})
        registering(
            verdict=gate.output,
            format_type="ONNX",
            framework_type="Pytorch",
            labels={"team": "{{ 'vision' }}"},
        )
    ran = run_dag(dag)
    assert ran.states == {"gate": "success", "register": "success"}, ran.errors
    version = one_version(pai)
    assert version["Labels"] == {"pai_run_id": run_id, "team": "vision"}
    assert (version["SourceType"], version["SourceId"]) == ("Custom", run_id)
    assert list(values(version).items()) == [("accuracy", 0.95), ("loss", 0.1)]
    assert (version["FormatType"], version["FrameworkType"]) == ("ONNX", "Pytorch")
    assert "accuracy >= 0.9" in version["VersionDescription"]
    assert ran.xcom("register") == {
        "model_name": "digits",
        "model_id": pai.models()[0]["ModelId"],
        "version_name": "0.1.0",
        "approval_status": "Pending",
        "uri": URI,
        "run_id": run_id,
    }
    assert version["ApprovalStatus"] == "Pending"


@pytest.mark.parametrize("handed", ["id", "record", "list", "template"])
def test_a_run_is_taken_as_other_tasks_hand_it_on(pai: Any, handed: str) -> None:
    run_id = pai.add_run(metrics={"accuracy": 0.95, "odd": float("nan")})
    (record,) = PaiHook().list_runs()
    with new_dag() as dag:

        @task
        def bring() -> Any:
            return {"record": record.to_dict(), "list": [record.to_dict()]}.get(handed, run_id)

        brought = bring()
        runs = "{{ ti.xcom_pull('bring') }}" if handed == "template" else brought
        registered = registering(runs=runs, approval="Approved", version_name="1.0.0")
        if handed == "template":
            brought >> registered
    ran = run_dag(dag)
    assert ran.xcom("register")["run_id"] == run_id, ran.errors
    version = one_version(pai)
    assert (version["VersionName"], version["ApprovalStatus"]) == ("1.0.0", "Approved")
    assert (values(version), version["Labels"]) == ({"accuracy": 0.95}, {"pai_run_id": run_id})


@pytest.mark.parametrize("with_run", [True, False])
@pytest.mark.parametrize("hidden", [0, 2])
@pytest.mark.parametrize("kind", ["reset_after", "truncate", "reset", "server_error"])
def test_a_creation_whose_answer_is_lost_makes_one_version(
    pai: Any, kind: str, hidden: int, with_run: bool
) -> None:
    pai.quirks.hidden_version = hidden
    pai.inject(kind, action="CreateModelVersion")
    runs = pai.add_run() if with_run else None
    with new_dag(default_args={"retries": 1}) as dag:
        registering(runs=runs)
    ran = run_dag(dag)
    assert ran.states == {"register": "success"}, ran.errors
    assert ran.xcom("register")["version_name"] == one_version(pai)["VersionName"] == "0.1.0"
    assert ran.tries["register"] == (1 if kind in ("reset_after", "truncate") else 2)


@pytest.mark.parametrize("with_run", [True, False])
def test_a_task_that_was_killed_finds_its_version_again(pai: Any, with_run: bool) -> None:
    class Killed(PaiRegisterModelVersionOperator):
        def tell_outlets(self, context: Any, extra: Any) -> None:
            if context["ti"].try_number == 1:
                raise RuntimeError("killed after the version was registered")

    run_id = pai.add_run(metrics={"accuracy": 0.9})
    with new_dag(default_args={"retries": 1}) as dag:
        Killed(task_id="register", model_name="digits", uri=URI, runs=run_id if with_run else None)
    ran = run_dag(dag)
    assert (ran.states["register"], ran.tries["register"]) == ("success", 2)
    assert ran.xcom("register")["version_name"] == one_version(pai)["VersionName"]
    assert set(one_version(pai)["Labels"]) == (
        {"pai_run_id"} if with_run else {"airflow_task", "airflow_dag_run"}
    )


def test_a_decision_that_was_made_before_a_repetition_stays(pai: Any, log: Any) -> None:
    run_id = pai.add_run(metrics={"accuracy": 0.9})
    first_time = registering(runs=run_id).execute({})
    pai.approve_model_version(first_time["model_id"], "0.1.0", status="Rejected", description="too slow")
    PaiHook().log_run_metrics(run_id, {"accuracy": 0.8})
    with new_dag() as dag:
        registering(runs=run_id, approval="Approved")
    assert run_dag(dag).xcom("register") == {**first_time, "approval_status": "Rejected"}
    assert (one_version(pai)["ApprovalStatus"], values(one_version(pai))) == ("Rejected", {"accuracy": 0.9})
    logged = log()
    assert "which is Rejected" in logged
    assert "has other metrics now" in logged


def test_other_runs_files_and_tasks_are_other_versions(pai: Any) -> None:
    one, two = pai.add_run(), pai.add_run()
    with new_dag() as dag:
        for index, given in enumerate(
            ({"runs": one}, {"runs": two}, {"runs": one, "uri": f"{URI}onnx"}, {}, {})
        ):
            registering(task_id=f"register_{index}", **given)
    ran = run_dag(dag)
    names = {ran.xcom(task_id)["version_name"] for task_id in ran.states}
    assert len(names) == len(pai.model_versions(pai.models()[0]["ModelId"])) == 5


def test_each_of_several_mapped_runs_is_a_version(pai: Any) -> None:
    ids = [pai.add_run() for _ in range(3)]
    with new_dag() as dag:
        mapped = PaiRegisterModelVersionOperator.partial(task_id="register", model_name="digits", uri=URI)
        mapped.expand(runs=ids)
    run_dag(dag)
    versions = pai.model_versions(pai.models()[0]["ModelId"])
    assert sorted(version["Labels"]["pai_run_id"] for version in versions) == sorted(ids)


def test_a_name_that_several_models_with_versions_have_is_refused_with_their_ids(pai: Any) -> None:
    pai.quirks.model_names = "repeatable"
    models = [pai.add_model("digits") for _ in range(2)]
    for model_id in models:
        pai.add_model_version(model_id, "0.1.0")
    with pytest.raises(AirflowFailException, match=f"PaiUsageError: 2 models .*: {', '.join(models)}"):
        registering(runs=pai.add_run()).execute({})


def test_of_two_that_register_at_the_same_time_the_older_version_stays(pai: Any) -> None:
    run_id = pai.add_run()
    model_id = pai.add_model("digits")
    other = {"model_id": model_id, "uri": URI, "labels": {"pai_run_id": run_id}}
    pai.inject("insert_version", action="CreateModelVersion", version=other)
    assert registering(runs=run_id).execute({})["version_name"] == "0.1.0"
    assert one_version(pai)["VersionName"] == "0.1.0"


def test_more_metrics_than_fit_are_cut_and_those_of_the_rules_stay(pai: Any, log: Any) -> None:
    metrics = {f"metric_{number:04}": number / 7 for number in range(600)}
    run_id = pai.add_run(metrics={**metrics, "zeta": 0.5}, labels={"a": "b"})
    verdict = PaiRunGateOperator(task_id="gate", labels="a:b", metrics={"zeta": ">= 0.1"}).execute({})
    with new_dag() as dag:
        registering(verdict=verdict)
    assert run_dag(dag).xcom("register")["run_id"] == run_id
    kept = values(one_version(pai))
    assert next(iter(kept)) == "zeta"
    assert 100 < len(kept) < 600
    logged = log()
    assert "8,192 bytes" in logged
    assert f"and {601 - len(kept) - 20} more" in logged


@pytest.mark.parametrize("bytes_over", [0, 1])
def test_metrics_are_cut_at_the_very_byte(bytes_over: int) -> None:
    frame = len(json.dumps({"Results": [{"Metrics": {"a": 0.5}}]}, separators=(",", ":")))
    name = "b" * (8192 - frame - len(',"":0.5') + bytes_over)
    document, left = metrics_document({"a": 0.5, name: 0.5})
    assert left == [name] * bytes_over
    assert document is not None
    assert len(json.dumps(document, separators=(",", ":"))) == (frame if bytes_over else 8192)


def test_without_a_finite_metric_there_is_no_document() -> None:
    assert metrics_document({"a": float("inf"), "b": float("nan")}) == (None, ["a", "b"])


# --- where the files are


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ({"conn_type": "pai", "extra": '{"region": "cn-shanghai"}'}, "bucket.oss-cn-shanghai.aliyuncs.com"),
        (
            {"conn_type": "pai", "extra": '{"region": "cn-shanghai", "vpc": true}'},
            "bucket.oss-cn-shanghai-internal.aliyuncs.com",
        ),
        (
            {"conn_type": "oss", "extra": '{"endpoint": "oss-eu-central-1.aliyuncs.com"}'},
            "bucket.oss-eu-central-1.aliyuncs.com",
        ),
    ],
)
def test_a_path_of_airflow_becomes_pais_address(pai: Any, connection: dict[str, Any], address: str) -> None:
    conn_id = add_connection(login="k", password="s", **connection)
    with new_dag() as dag:
        registering(uri=f"oss://{conn_id}@bucket/" + "{{ run_id }}/a?b#c.pt")
    ran = run_dag(dag)
    assert ran.states == {"register": "success"}, ran.errors
    assert one_version(pai)["Uri"] == f"oss://{address}/{ran.run_id}/a?b#c.pt"


def test_an_object_storage_path_becomes_pais_address(pai: Any) -> None:
    conn_id = add_connection(conn_type="pai", login="k", password="s", extra='{"region": "cn-shanghai"}')
    with new_dag() as dag:
        registering(uri=object_storage_path(f"oss://{conn_id}@bucket/a") / "b.pt")
    ran = run_dag(dag)
    assert ran.states == {"register": "success"}, ran.errors
    assert one_version(pai)["Uri"] == "oss://bucket.oss-cn-shanghai.aliyuncs.com/a/b.pt"


def test_a_path_whose_connection_tells_no_endpoint_that_pai_knows_is_refused(pai: Any) -> None:
    local = add_connection(
        conn_type="oss", login="k", password="s", extra='{"endpoint": "http://127.0.0.1:9000"}'
    )
    nowhere = add_connection(conn_type="pai", login="k", password="s", host="pai.example")
    with new_dag() as dag:
        registering(task_id="local", uri=f"oss://{local}@bucket/a/b.pt")
        registering(task_id="nowhere", uri=f"oss://{nowhere}@bucket/a/b.pt")
        registering(task_id="bucket_alone", uri=f"oss://{nowhere}@bucket")
    ran = run_dag(dag)
    assert "'oss://bucket.oss-cn-hangzhou.aliyuncs.com/a/b.pt'" in ran.error("local")
    assert "oss_endpoint" in ran.error("nowhere")
    assert set(ran.tries.values()) == {1}
    assert pai.models() == []


# --- what is refused


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"uri": "s3://bucket/key"}, "not an address of http, https or oss"),
        ({"uri": "oss://bucket/key"}, "oss://conn@bucket"),
        ({"format_type": "onxx"}, "Did you mean 'ONNX'"),
        ({"framework_type": "PyTorch"}, "Did you mean 'Pytorch'"),
        ({"approval": "Aproved"}, "Did you mean 'Approved'"),
        ({"approval": None}, "approval is None"),
        ({"version_name": "v1"}, "not a name for a version"),
        ({"model_name": "x" * 128}, "at most 127"),
        ({"model_name": None}, "name is None"),
        ({"labels": {"pai_run_id": "run-1"}}, "set by the provider"),
        ({"labels": {"airflow_task": "mine"}}, "set by the provider itself"),
        ({"labels": {f"l{number}": "1" for number in range(20)}}, "at most 20"),
        ({"runs": "run-1", "verdict": {"passed": True}}, "contradict each other"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_the_dag_is_parsed(given: dict[str, Any], says: str) -> None:
    with pytest.raises(api.PaiUsageError, match=says):
        registering(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runs": []}, "holds no runs"),
        ({"runs": ["run-1", "run-2"]}, r"holds 2 runs.*expand\(runs"),
        ({"runs": "{{ '[1, 2]' }}"}, "runs came as text"),
        ({"runs": {"passed": True}}, "not a run"),
        ({"verdict": {"run_id": "run-1"}}, "not the output of a PaiRunGateOperator"),
        ({"verdict": "{{ 'run-1' }}"}, "not the output of a PaiRunGateOperator"),
        ({"uri": "{{ 'oss://bucket/key' }}"}, "oss://conn@bucket"),
        ({"format_type": "{{ 'onnx' }}"}, "Did you mean 'ONNX'"),
        ({"labels": {"pai_run_id": "{{ 'run-1' }}"}}, "set by the provider"),
    ],
)
def test_what_a_template_or_a_task_brings_is_refused_before_there_is_a_model(
    pai: Any, given: dict[str, Any], says: str
) -> None:
    with new_dag(default_args={"retries": 1}) as dag:
        registering(**given)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"register": "failed"}, {"register": 1})
    with pytest.raises(AirflowFailException, match=says):
        raise ran.errors["register"][0]
    assert pai.models() == []


def test_a_gate_that_did_not_pass_registers_nothing(pai: Any) -> None:
    pai.add_run(labels={"a": "b"}, metrics={"accuracy": 0.5})
    gate = PaiRunGateOperator(task_id="gate", labels="a:b", metrics={"accuracy": ">= 0.9"})
    with pytest.raises(AirflowFailException, match=r"did not pass, so nothing is registered: .*accuracy"):
        registering(verdict=gate.execute({})).execute({})
    assert pai.models() == []


def test_a_version_name_that_another_version_has_fails_for_good(pai: Any) -> None:
    pai.add_model_version(pai.add_model("digits"), "1.0.0")
    with pytest.raises(AirflowFailException, match=r"1\.0\.0"):
        registering(runs=pai.add_run(), version_name="1.0.0").execute({})


@pytest.mark.parametrize(
    "wrong",
    [
        {"found_by": {}},
        {"found_by": {"a": "b"}, "labels": {"a": "c"}},
        {"found_by": {"a": "b"}, "approval_status": "Done"},
    ],
)
def test_the_hook_refuses_before_the_connection_is_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(api.PaiUsageError):
        PaiHook("there_is_no_such_connection").register_model_version("model-1", URI, **wrong)


# --- approving


def deciding(pai: Any, **given: Any) -> Any:
    arguments = {"task_id": "decide", "model_id": pai.models()[0]["ModelId"], "version_name": "1.0.0"}
    return PaiSetModelVersionApprovalOperator(**{**arguments, "approval": "Approved", **given})


@pytest.fixture
def pending(pai: Any) -> Any:
    """A local PAI with one version that waits for a decision."""
    model_id = pai.add_model("digits")
    pai.add_model_version(model_id, "1.0.0", approval_status="Pending", VersionDescription="of the night")
    return pai


def test_a_registered_version_is_approved_with_its_reason(pai: Any) -> None:
    with new_dag() as dag:
        register = registering(version_description="of the night")
        of = "{{ ti.xcom_pull('register')."
        register >> PaiSetModelVersionApprovalOperator(
            task_id="approve",
            model_id=of + "model_id }}",
            version_name=of + "version_name }}",
            approval="{{ 'Approved' }}",
            reason="checked by {{ dag.dag_id }}",
        )
    ran = run_dag(dag)
    assert ran.xcom("approve") == {
        "model_id": pai.models()[0]["ModelId"],
        "version_name": "0.1.0",
        "approval_status": "Approved",
        "before": "Pending",
        "changed": True,
    }, ran.errors
    version = one_version(pai)
    assert version["ApprovalStatus"] == "Approved"
    assert version["VersionDescription"] == f"of the night\nApproved: checked by {dag.dag_id}"


@pytest.mark.parametrize("kind", ["reset_after", "truncate", "reset", "server_error"])
def test_a_decision_whose_answer_is_lost_is_made_once(pending: Any, kind: str) -> None:
    pending.inject(kind, action="UpdateModelVersion")
    with new_dag(default_args={"retries": 1}) as dag:
        deciding(pending, reason="good")
    ran = run_dag(dag)
    assert ran.states == {"decide": "success"}, ran.errors
    assert ran.tries["decide"] == (1 if kind in ("reset_after", "truncate") else 2)
    assert one_version(pending)["VersionDescription"] == "of the night\nApproved: good"


def test_what_is_decided_so_already_succeeds_and_changes_nothing(pending: Any) -> None:
    assert deciding(pending, reason="good").execute({})["changed"]
    before = one_version(pending)
    again = deciding(pending, reason="good").execute({})
    assert (again["changed"], again["before"], again["approval_status"]) == (False, "Approved", "Approved")
    assert one_version(pending) == before


@pytest.mark.parametrize("expected", ["Pending", "Approved"])
def test_another_decision_is_not_overwritten(pending: Any, expected: str) -> None:
    version = {"model_id": pending.models()[0]["ModelId"], "version_name": "1.0.0"}
    decided = {**version, "status": "Rejected", "description": "too slow"}
    pending.inject("approve_version", action="GetModelVersion", version=decided)
    with new_dag(default_args={"retries": 1}) as dag:
        deciding(pending, reason="good", expected=expected)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"decide": "failed"}, {"decide": 1})
    error = ran.error("decide")
    for says in ("PaiDecidedError", "1.0.0", "is Rejected, not", "too slow", "expected='Rejected'"):
        assert says in error
    assert one_version(pending)["ApprovalStatus"] == "Rejected"


@pytest.mark.parametrize("expected", ["Rejected", "any"])
def test_another_decision_is_overwritten_if_the_task_says_so(pending: Any, expected: str) -> None:
    pending.approve_model_version(pending.models()[0]["ModelId"], "1.0.0", status="Rejected")
    assert deciding(pending, expected=expected).execute({})["before"] == "Rejected"
    assert one_version(pending)["ApprovalStatus"] == "Approved"


def test_a_decision_without_a_reason_leaves_the_description(pending: Any) -> None:
    deciding(pending, approval="Rejected").execute({})
    assert one_version(pending)["VersionDescription"] == "of the night"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"approval": "Aproved"}, "Did you mean 'Approved'"),
        ({"approval": None}, "approval_status=None"),
        ({"expected": "anything"}, "expected='anything' must be one of Pending, Approved, Rejected, any"),
        ({"expected": None}, "expected=None"),
    ],
)
def test_a_decision_that_cannot_be_meant_is_refused_when_the_dag_is_parsed(
    pending: Any, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(api.PaiUsageError, match=says):
        deciding(pending, **given)


def test_a_version_that_is_not_there_may_be_new(pending: Any) -> None:
    with pytest.raises(api.PaiModelNotFoundError, match=r"2\.0\.0"):
        deciding(pending, version_name="2.0.0").execute({})
    pending.quirks.hidden_version = 2
    with new_dag(default_args={"retries": 3}) as dag:
        registering(task_id="register", version_name="2.0.0") >> deciding(pending, version_name="2.0.0")
    assert run_dag(dag).state == "success"


# --- the events of assets


def extras(ran: Any) -> list[dict[str, Any]]:
    """What the events that a DAG run's tasks made say."""
    model = first("AssetEvent", "airflow.models.asset") or first("DatasetEvent", "airflow.models.dataset")
    with first("create_session", "airflow.utils.session")() as session:
        found = session.query(model).filter_by(source_dag_id=ran.dag.dag_id).order_by(model.id)
        return [event.extra for event in found]


def test_the_event_of_an_asset_says_what_was_registered_and_promoted(pai: Any) -> None:
    run_id = pai.add_run("night", metrics={"accuracy": 0.95, "odd": float("nan")}, labels={"model": "digits"})
    old = pai.add_run(labels={"champion": "true"})
    with new_dag() as dag:
        registered = registering(runs=run_id, outlets=[Asset("registered-digits")])
        promoted = PaiPromoteRunOperator(
            task_id="promote", run_id=run_id, labels="champion:true", outlets=[Asset("champion-digits")]
        )
        registered >> promoted
    store_assets(dag)
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    of_version, of_run = extras(ran)
    assert of_version == {**ran.xcom("register"), "metrics": {"accuracy": 0.95}}
    assert of_run == {**ran.xcom("promote"), "metrics": {"accuracy": 0.95}}
    assert of_run["demoted_run_ids"] == [old]
