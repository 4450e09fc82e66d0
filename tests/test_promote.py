"""Promotion against the emulator: whatever fails, one run is always the champion, in the end exactly one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_pai.api import (
    Credential,
    Flow,
    Outcome,
    PaiClient,
    PaiError,
    PaiNotFoundError,
    PaiUsageError,
    Request,
    RunQuery,
    StaticCredential,
    flow,
    promote_run,
)
from airflow_provider_pai.api.errors import PaiLabelNotSeenError

CHAMPION = {"champion": "true"}
KINDS = ["throttle", "server_error", "error", "html", "body", "reset", "reset_after", "truncate"]
QUIRKS = ["replace", "merge"]
one_emulator = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
models = count(1)


class Field:
    """The runs of one model: old champions, the winner, and others that must not change."""

    def __init__(self, pai: Any, old: int = 1, quirk: str = "replace") -> None:
        self.pai = pai
        for run in pai.runs():  # of an earlier field, which would be read again after every request
            pai.delete_run(run["RunId"])
        self.model = f"model-{next(models)}"
        pai.quirks.update_labels = quirk
        ours = {"model": self.model, "stage": "evaluated"}
        self.old = [pai.add_run(f"old-{i}", labels={**ours, **CHAMPION}) for i in range(old)]
        self.winner = pai.add_run("winner", labels={**ours, "note": "a:b c"})
        self.rival = pai.add_run("rival", labels=ours)
        pai.add_run("not-yet", labels={**ours, "champion": "false"})
        pai.add_run("of-another-model", labels={"model": f"not-{self.model}", **CHAMPION})
        self.others = self.labels_but_ours()
        self.had_one = old > 0

    def flow(self, winner: str | None = None) -> Flow[Any]:
        return promote_run(winner or self.winner, CHAMPION, among=RunQuery(labels={"model": self.model}))

    def labels(self) -> dict[str, dict[str, str]]:
        return {run["RunId"]: run["Labels"] for run in self.pai.runs()}

    def champions(self) -> list[str]:
        found = self.labels().items()
        return [run for run, labels in found if labels.items() >= {"model": self.model, **CHAMPION}.items()]

    def labels_but_ours(self) -> dict[str, dict[str, str]]:
        """Every label except those that the promotion moves."""
        moved = {*self.champions(), self.winner, self.rival}
        return {
            run: {key: value for key, value in labels.items() if run not in moved or key != "champion"}
            for run, labels in self.labels().items()
        }

    def never_without(self) -> None:
        """Check the promise after every request: one run is the champion."""
        champions = self.champions()
        assert champions or not self.had_one
        self.had_one = bool(champions)

    def watched(self, flow: Flow[Any]) -> Flow[Any]:
        outcome: Any = None
        while True:
            try:
                request = flow.send(outcome)
            except StopIteration as end:
                return end.value
            outcome = yield request
            self.never_without()


def alone(request: Request) -> Flow[Outcome]:
    """A flow of one request, to run two flows alternately."""
    return (yield request)


@pytest.fixture
def client(pai_emulator, monkeypatch) -> Iterator[PaiClient]:
    monkeypatch.setattr(flow, "BACKOFF_SECONDS", 0.001)
    key = Credential(access_key_id="emulator", access_key_secret="emulator-secret")
    with PaiClient(pai_emulator.url, StaticCredential(key)) as client:
        yield client


def until_it_succeeds(client: PaiClient, field: Field, most: int = 6) -> tuple[Any, int]:
    for attempt in range(1, most + 1):
        try:
            return client.run(field.watched(field.flow())), attempt
        except PaiError:
            field.never_without()
    raise AssertionError(f"not promoted in {most} attempts")


@pytest.mark.parametrize("quirk", QUIRKS)
def test_the_label_moves_and_no_other_is_touched(pai_emulator, client, quirk):
    field = Field(pai_emulator, old=2, quirk=quirk)
    done = client.run(field.watched(field.flow()))
    assert field.champions() == [field.winner]
    assert (done.promoted, done.run_id, done.labels) == (True, field.winner, CHAMPION)
    assert sorted(done.demoted_run_ids) == sorted(field.old)
    assert field.labels_but_ours() == field.others


@pytest.mark.parametrize("quirk", QUIRKS)
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_failure_at_any_request_one_run_is_always_champion(pai_emulator, client, kind, quirk):
    attempts = []
    for position in range(9):  # one more than the requests of a promotion over two champions
        field = Field(pai_emulator, old=2, quirk=quirk)
        pai_emulator.inject(kind, after=position)
        _, attempt = until_it_succeeds(client, field)
        attempts.append(attempt)
        pai_emulator.clear_faults()
        assert field.champions() == [field.winner]
        assert field.labels_but_ours() == field.others
    assert attempts[-1] == 1, "the last position is to lie behind the last request"
    assert kind == "throttle" or 2 in attempts, "the fault was to break a promotion"


faults = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=4
)


@one_emulator
@given(st.integers(0, 3), faults, st.sampled_from(QUIRKS))
def test_after_any_failures_in_a_row_one_run_is_always_champion(pai_emulator, client, old, planned, quirk):
    field = Field(pai_emulator, old=old, quirk=quirk)
    for kind, after, times in planned:
        pai_emulator.inject(kind, after=after, times=times)
    until_it_succeeds(client, field, most=40)
    pai_emulator.clear_faults()
    assert field.champions() == [field.winner]
    assert field.labels_but_ours() == field.others


@one_emulator
@given(st.integers(0, 2), st.lists(st.booleans(), max_size=30), st.sampled_from(QUIRKS))
def test_two_promotions_at_once_leave_a_champion(pai_emulator, client, old, turns, quirk):
    field = Field(pai_emulator, old=old, quirk=quirk)
    flows = {True: field.flow(), False: field.flow(field.rival)}
    asked = {which: next(flow) for which, flow in flows.items()}
    for which in [*turns, *[True, False] * 20]:
        if which not in asked:
            continue
        outcome = client.run(alone(asked[which]))
        field.never_without()
        try:
            asked[which] = flows[which].send(outcome)
        except (StopIteration, PaiLabelNotSeenError):
            del asked[which]
    assert not asked
    assert set(field.champions()) <= {field.winner, field.rival}
    until_it_succeeds(client, field)
    assert field.champions() == [field.winner]
    assert field.labels_but_ours() == field.others


def test_a_run_that_is_the_champion_already_is_left_alone(pai_emulator, client):
    field = Field(pai_emulator, old=1)
    client.run(field.flow())
    pai_emulator.clear_requests()
    done = client.run(field.flow())
    assert (done.promoted, done.demoted_run_ids) == (False, [])
    assert set(pai_emulator.request_counts) == {"GetRun", "ListRuns"}


def test_several_labels_move_together_each_from_its_own_runs(pai_emulator, client):
    first = pai_emulator.add_run(labels={"champion": "true", "shadow": "true", "keep": "1"})
    second = pai_emulator.add_run(labels={"shadow": "true"})
    winner = pai_emulator.add_run(labels={"champion": "true"})
    done = client.run(promote_run(winner, "champion:true,shadow:true"))
    labels = {run["RunId"]: run["Labels"] for run in pai_emulator.runs()}
    assert labels == {first: {"keep": "1"}, second: {}, winner: {"champion": "true", "shadow": "true"}}
    assert sorted(done.demoted_run_ids) == sorted([first, second])


def test_a_run_that_among_does_not_match_is_refused_before_anything_changes(pai_emulator, client):
    field = Field(pai_emulator)
    elsewhere = pai_emulator.add_run(labels={"model": "another"})
    with pytest.raises(PaiUsageError, match="does not match the filters"):
        client.run(field.flow(elsewhere))
    with pytest.raises(PaiNotFoundError):
        client.run(field.flow("run-missing"))
    assert field.champions() == field.old
    assert set(pai_emulator.request_counts) == {"GetRun"}


def test_the_champion_of_another_workspace_keeps_its_label(pai_emulator, client):
    here = pai_emulator.add_run(labels=CHAMPION, workspace_id="145883")
    there = pai_emulator.add_run(labels=CHAMPION, workspace_id="145884")
    winner = pai_emulator.add_run(workspace_id="145884")
    assert client.run(promote_run(winner, CHAMPION)).demoted_run_ids == [there]
    assert [run["RunId"] for run in pai_emulator.runs() if run["Labels"]] == [here, winner]


def test_no_champion_is_demoted_while_the_new_label_does_not_show(pai_emulator, client):
    field = Field(pai_emulator)
    pai_emulator.inject("unlabel_run", action="GetRun", after=2, run_id=field.winner, key="champion")
    with pytest.raises(PaiLabelNotSeenError) as caught:
        client.run(field.watched(field.flow()))
    assert (caught.value.transient, caught.value.retryable) == (False, True)
    assert "promote it again" in str(caught.value)
    assert field.champions() == field.old


def test_a_champion_that_is_deleted_meanwhile_needs_no_demotion(pai_emulator, client):
    field = Field(pai_emulator)
    pai_emulator.inject("delete_run", action="DeleteRunLabel", run_id=field.old[0])
    client.run(field.flow())
    assert field.champions() == [field.winner]


def test_a_demotion_that_did_not_happen_is_no_success(pai_emulator, client):
    field = Field(pai_emulator)
    # Such as by a gateway that refuses an address with %2F in it.
    pai_emulator.inject("error", action="DeleteRunLabel", status=404, code="NotFound")
    with pytest.raises(PaiNotFoundError, match="DeleteRunLabel"):
        client.run(field.watched(field.flow()))
    assert set(field.champions()) == {*field.old, field.winner}
    until_it_succeeds(client, field)
    assert field.champions() == [field.winner]


@pytest.mark.parametrize("quirk", QUIRKS)
def test_labels_that_this_provider_would_refuse_stay_as_they_came(pai_emulator, client, quirk):
    pai_emulator.quirks.label_characters, pai_emulator.quirks.update_labels = "any", quirk
    odd = {"a=b": "c,d", "long": "x" * 200, "empty": ""}
    winner = pai_emulator.add_run(labels=odd)
    old = pai_emulator.add_run(labels={**odd, **CHAMPION})
    assert client.run(promote_run(winner, CHAMPION)).demoted_run_ids == [old]
    labels = {run["RunId"]: run["Labels"] for run in pai_emulator.runs()}
    assert labels == {winner: {**odd, **CHAMPION}, old: odd}
