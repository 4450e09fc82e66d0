"""Find or create an experiment: once, again, at the same time, and whatever PAI does with a name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import drive

from airflow_provider_pai import api
from airflow_provider_pai.emulator import PaiEmulator, Quirks

WORKSPACE = "145883"
KEY = api.Credential(access_key_id="emulator", access_key_secret="emulator-secret")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not pause: an emulator in this process does everything at once."""
    monkeypatch.setattr("airflow_provider_pai.api.by_name.VISIBLE_AFTER", (0.0, 0.001, 0.001, 0.001))
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.001)


def find_or_create(pai: PaiEmulator, name: str = "digits", **more: Any) -> str:
    key = api.StaticCredential(KEY)
    with api.PaiClient(pai.url, key) as client:
        return client.run(api.get_or_create_experiment(name, workspace_id=WORKSPACE, **more))


def stored(pai: PaiEmulator) -> list[str]:
    return [body["ExperimentId"] for body in pai.state.experiments(WORKSPACE)]


def rival(pai: PaiEmulator) -> list[str]:
    """Let another task create the experiment after the first look. Return where its id will be."""
    made: list[str] = []

    def create(action: str, count: int) -> None:
        if action == "CreateExperiment" and not made:
            made.append(pai.add_experiment("digits"))
            pai.clock_offset += 1

    pai.before_request(create)
    return made


def test_it_is_created_once_and_found_again(pai_emulator: PaiEmulator) -> None:
    made = find_or_create(
        pai_emulator, artifact_uri="oss://b/c", accessibility="PUBLIC", labels={"team": "a"}
    )
    (body,) = pai_emulator.state.experiments(WORKSPACE)
    assert (body["Name"], body["ArtifactUri"], body["Accessibility"]) == ("digits", "oss://b/c", "PUBLIC")
    assert find_or_create(pai_emulator, labels={"team": "b"}) == made
    assert pai_emulator.state.experiments(WORKSPACE) == [body]
    assert pai_emulator.request_counts == {"ListExperiment": 3, "CreateExperiment": 1}


def test_the_async_client_does_the_same(pai_emulator: PaiEmulator) -> None:
    async def create() -> list[str]:
        key = api.StaticCredential(KEY)
        async with api.AsyncPaiClient(pai_emulator.url, key) as client:
            flows = [api.get_or_create_experiment("digits", workspace_id=WORKSPACE) for _ in range(5)]
            return await asyncio.gather(*(client.run(flow) for flow in flows))

    assert {*asyncio.run(create())} == {*stored(pai_emulator)}


def test_only_the_very_name_in_the_very_workspace_counts(pai_emulator: PaiEmulator) -> None:
    others = [pai_emulator.add_experiment(name) for name in ("digits-2", "my-digits", "Digits")]
    others.append(pai_emulator.add_experiment("digits", workspace_id="145884"))
    made = find_or_create(pai_emulator)
    assert made not in others
    assert find_or_create(pai_emulator) == made


@pytest.mark.parametrize("name_taken", ["conflict", "duplicate"])
def test_a_rivals_experiment_that_shows_late_is_waited_for(
    pai_emulator: PaiEmulator, name_taken: Any
) -> None:
    pai_emulator.quirks.name_taken = name_taken
    pai_emulator.quirks.unlisted_experiment = 4
    made = find_or_create(pai_emulator)  # is not listed in the four looks after its creation
    pai_emulator.quirks.unlisted_experiment = 0
    assert find_or_create(pai_emulator) == made
    pai_emulator._wire.service.unlisted_experiments[made] = 3
    pai_emulator.clear_requests()
    assert find_or_create(pai_emulator) == made
    assert pai_emulator.request_counts == {"ListExperiment": 4, "CreateExperiment": 1}


def test_of_several_the_oldest_is_meant(pai_emulator: PaiEmulator) -> None:
    pai_emulator.quirks.experiment_names = "repeatable"
    made = rival(pai_emulator)
    assert find_or_create(pai_emulator) == made[0]
    assert len(stored(pai_emulator)) == 2  # its own stays, without runs
    pai_emulator.before_request(None)
    pai_emulator.quirks.order = "ignored"
    assert find_or_create(pai_emulator) == made[0]


def test_looks_that_fail_are_repeated(pai_emulator: PaiEmulator) -> None:
    made = rival(pai_emulator)
    pai_emulator.inject("server_error", action="ListExperiment", after=1, times=6)
    assert [find_or_create(pai_emulator)] == made


@pytest.mark.parametrize(
    ("fault", "error", "looks"),
    [
        ({"status": 400, "code": "InvalidArtifactUri"}, api.PaiApiError, 2),
        ({"status": 404, "code": "WorkspaceNotExist"}, api.PaiNotFoundError, 2),
        ({"status": 400, "code": "Invalid", "message": "The workspace does not exist."}, api.PaiApiError, 2),
        ({"status": 500, "code": "InternalError"}, api.PaiUnavailableError, 2),
        ({}, api.PaiPermissionError, 1),
        ({"status": 400, "code": "Throttling.User", "times": 9}, api.PaiThrottledError, 1),
        ({"status": 409, "code": "Conflict"}, api.PaiApiError, 5),
    ],
)
def test_a_refusal_for_another_reason_stays_what_it_is(
    pai_emulator: PaiEmulator, fault: dict[str, Any], error: type[api.PaiError], looks: int
) -> None:
    pai_emulator.inject("error", action="CreateExperiment", **fault)
    with pytest.raises(error, match="CreateExperiment"):
        find_or_create(pai_emulator)
    assert pai_emulator.request_counts["ListExperiment"] == looks


def test_it_waits_a_minute_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sent: list[api.Request] = []

    def answer(request: api.Request) -> api.Response:
        body = b'{"Experiments": []}' if request.method == "GET" else b'{"ExperimentId": "exp-1"}'
        return api.Response(status=200, headers={}, body=body)

    flow = api.get_or_create_experiment("digits", workspace_id=WORKSPACE)
    assert drive(flow, answer, sent) == "exp-1"
    assert sum(request.wait for request in sent) == 60


@pytest.mark.parametrize(
    "arguments", [{"name": ""}, {"name": None}, {"labels": "a=b"}, {"artifact_uri": ""}, {"workspace_id": 1}]
)
def test_wrong_arguments_are_refused_before_anything_is_sent(arguments: dict[str, Any]) -> None:
    with pytest.raises(api.PaiUsageError):
        api.get_or_create_experiment(**{"name": "digits", "workspace_id": WORKSPACE, **arguments})


# --- the emulator -----------------------------------------------------------------------------------------


def test_a_name_is_unique_in_its_workspace() -> None:
    with PaiEmulator(quirks=Quirks()) as pai:
        key = api.StaticCredential(KEY)
        with api.PaiClient(pai.url, key) as client:
            first, second = (
                client.run(api.create_experiment(name, workspace_id=WORKSPACE))
                for name in ("first", "second")
            )
            client.run(api.create_experiment("first", workspace_id="145884"))
            client.run(api.update_experiment(first, name="first", accessibility="PUBLIC"))
            taken = (
                api.create_experiment("first", workspace_id=WORKSPACE),
                api.update_experiment(second, name="first"),
            )
            for flow in taken:
                with pytest.raises(api.PaiApiError, match="ExperimentAlreadyExists"):
                    client.run(flow)
            client.run(api.delete_experiment(first))
            client.run(api.update_experiment(second, name="first"))
