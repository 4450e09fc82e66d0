"""Find or create what has a name, whatever it is: many tasks at once, one that is faster, a lost answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_pai import api
from airflow_provider_pai.emulator import PaiEmulator

WORKSPACE = "145883"
KEY = api.Credential(access_key_id="emulator", access_key_secret="emulator-secret")


@dataclass(frozen=True)
class Kind:
    """What has a name in PAI: how it is found or created, and what the emulator has for it."""

    flow: Callable[..., api.Flow[str]]
    action: str
    """The operation that creates it."""
    add: Callable[[PaiEmulator, str], str]
    stored: Callable[[PaiEmulator], list[str]]
    names: str
    """The quirk that says whether its names are unique."""
    late: str
    """The quirk that shows a new one late."""

    def find_or_create(self, pai: PaiEmulator) -> str:
        with api.PaiClient(pai.url, KEY) as client:
            return client.run(self.flow("digits", workspace_id=WORKSPACE))


KINDS = {
    "experiment": Kind(
        flow=api.get_or_create_experiment,
        action="CreateExperiment",
        add=lambda pai, name: pai.add_experiment(name),
        stored=lambda pai: [body["ExperimentId"] for body in pai.state.experiments(WORKSPACE)],
        names="experiment_names",
        late="unlisted_experiment",
    ),
    "model": Kind(
        flow=api.get_or_create_model,
        action="CreateModel",
        add=lambda pai, name: pai.add_model(name),
        stored=lambda pai: [body["ModelId"] for body in pai.models()],
        names="model_names",
        late="hidden_model",
    ),
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not pause: an emulator in this process does everything at once."""
    monkeypatch.setattr("airflow_provider_pai.api.by_name.VISIBLE_AFTER", (0.0, 0.001, 0.001, 0.001))
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.001)


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("name_taken", ["conflict", "duplicate", "invalid", "server_error"])
def test_another_task_that_is_faster_wins(kind: Kind, pai_emulator: PaiEmulator, name_taken: Any) -> None:
    pai_emulator.quirks.name_taken = name_taken
    made: list[str] = []

    def create(action: str, count: int) -> None:
        if action == kind.action and not made:
            made.append(kind.add(pai_emulator, "digits"))

    pai_emulator.before_request(create)
    assert kind.find_or_create(pai_emulator) == made[0]
    assert kind.stored(pai_emulator) == made


@pytest.mark.parametrize("names", ["unique", "repeatable"])
@pytest.mark.parametrize("late", [0, 3])
def test_many_at_once_get_the_same(kind: Kind, pai_emulator: PaiEmulator, names: Any, late: int) -> None:
    setattr(pai_emulator.quirks, kind.names, names)
    setattr(pai_emulator.quirks, kind.late, late)
    together = threading.Barrier(8, timeout=30)

    def task(_: int) -> str:
        together.wait()
        return kind.find_or_create(pai_emulator)

    with ThreadPoolExecutor(8) as pool:
        found = {*pool.map(task, range(8))}
    assert found == {kind.stored(pai_emulator)[0]}
    if names == "unique":
        assert len(kind.stored(pai_emulator)) == 1
    assert kind.find_or_create(pai_emulator) in found


@pytest.mark.parametrize("fault", ["reset_after", "truncate"])
def test_an_answer_that_is_lost_does_no_harm(kind: Kind, pai_emulator: PaiEmulator, fault: str) -> None:
    pai_emulator.inject(fault, action=kind.action)
    assert [kind.find_or_create(pai_emulator)] == kind.stored(pai_emulator)


def test_a_refusal_for_another_reason_stays_what_it_is(kind: Kind, pai_emulator: PaiEmulator) -> None:
    pai_emulator.inject("error", action=kind.action)
    with pytest.raises(api.PaiPermissionError, match=kind.action):
        kind.find_or_create(pai_emulator)
