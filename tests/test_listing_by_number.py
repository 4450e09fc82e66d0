"""Listings that page by number, oldest first, of a registry that changes meanwhile: none lost, none twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from conftest import drive
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_pai import api
from airflow_provider_pai.api import paging
from airflow_provider_pai.emulator import PaiEmulator, Quirks

START = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
KEY = api.StaticCredential(api.Credential(access_key_id="emulator", access_key_secret="emulator-secret"))
NOUNS = {"ListModels": ("Models", "ModelId"), "ListModelVersions": ("Versions", "VersionName")}


@dataclass
class Registry:
    """A listing by PageNumber and PageSize, with a history of changes between its pages.

    ``history[n]`` holds what happens between the n-th and the next request: ``"+"`` adds an entry, at least a
    second later, a number deletes the entry at that place, and a negative one approves it, so that it leaves
    a listing of pending ones as if it were deleted. Afterwards nothing changes.
    """

    size: int = 0
    history: list[list[Any]] = field(default_factory=list)
    totals: bool = True
    largest_page: int = 100
    newest_first: bool = False
    """Whether it ignores the wanted order."""
    empty_is_absent: bool = False

    def __post_init__(self) -> None:
        self.clock = START
        self.made = 0
        self.entries: list[dict[str, Any]] = []
        for index in range(self.size):
            self.add(START + timedelta(minutes=index - self.size - 1))
        self.always = {entry["id"] for entry in self.entries}
        self.ever = set(self.always)
        self.requests: list[api.Request] = []

    def add(self, created: datetime) -> None:
        self.made += 1
        self.entries.append({"id": f"0.{self.made:03}.0", "created": created, "status": "Pending"})

    def change(self, what: Any) -> None:
        if what == "+":
            self.clock += timedelta(seconds=1)
            self.add(self.clock)
            self.ever.add(self.entries[-1]["id"])
        elif self.entries and what >= 0:
            self.always.discard(self.entries.pop(what % len(self.entries))["id"])
        elif self.entries:
            entry = self.entries[-what % len(self.entries)]
            entry["status"] = "Approved"
            self.always.discard(entry["id"])

    def __call__(self, request: api.Request) -> api.Response:
        if 0 < len(self.requests) <= len(self.history):
            for what in self.history[len(self.requests) - 1]:
                self.change(what)
        self.requests.append(request)
        assert "PageToken" not in request.query
        assert (request.query["SortBy"], request.query["Order"]) == ("GmtCreateTime", "ASC")
        wanted = request.query.get("ApprovalStatus")
        entries = [entry for entry in self.entries if wanted in (None, entry["status"])]
        if self.newest_first:
            entries.reverse()
        size = min(int(request.query["PageSize"]), self.largest_page)
        offset = (int(request.query["PageNumber"]) - 1) * size
        noun, identity = NOUNS[request.action]
        page = [self.shown(entry, identity) for entry in entries[offset : offset + size]]
        body: dict[str, Any] = {} if self.empty_is_absent and not page else {noun: page}
        if self.totals:
            body["TotalCount"] = len(entries)
        headers = {"date": format_datetime(self.clock, usegmt=True)}
        return api.Response(status=200, headers=headers, body=json.dumps(body).encode())

    @staticmethod
    def shown(entry: dict[str, Any], identity: str) -> dict[str, Any]:
        created = entry["created"].isoformat()
        return {identity: entry["id"], "ApprovalStatus": entry["status"], "GmtCreateTime": created}


def listed(registry: Registry, size: int, **filters: Any) -> list[str]:
    versions = drive(api.list_model_versions("model-1", page_size=size, **filters), registry)
    return [version.version_name for version in versions]


FREEDOMS = st.fixed_dictionaries(
    {"size": st.integers(0, 14), "largest_page": st.integers(1, 5), "empty_is_absent": st.booleans()}
)
CHANGES = st.lists(st.just("+") | st.integers(-20, 20), max_size=4)
QUIET_ENOUGH = st.lists(CHANGES, max_size=paging.MAX_PASSES - 1)  # so that nothing disturbs the last pass
ADDITIONS = st.lists(st.lists(st.just("+"), max_size=3), max_size=8)
PAGE_SIZES = st.integers(1, 6)
HIDDEN_SKIP = [["+", 0]]  # a deletion that an addition hides from TotalCount


@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES)
@example(freedoms={"size": 6}, history=HIDDEN_SKIP, size=2)
def test_a_listing_loses_no_version_that_stayed_and_returns_none_twice(
    freedoms: Any, history: Any, size: int
) -> None:
    registry = Registry(**freedoms, history=history)
    found = listed(registry, size)
    assert registry.always <= set(found) <= registry.ever
    assert found == sorted(set(found))


@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES)
@example(freedoms={"size": 6}, history=[["+", -1]], size=2)
def test_a_listing_of_pending_versions_stays_right_while_others_decide(
    freedoms: Any, history: Any, size: int
) -> None:
    registry = Registry(**freedoms, history=history)
    found = listed(registry, size, approval_status="Pending")
    assert registry.always <= set(found) <= registry.ever
    assert found == sorted(set(found))


@pytest.mark.parametrize("newest_first", [False, True])
@given(freedoms=FREEDOMS, history=ADDITIONS, size=PAGE_SIZES)
def test_while_others_create_versions_each_comes_once(
    newest_first: bool, freedoms: Any, history: Any, size: int
) -> None:
    registry = Registry(**freedoms, history=history, newest_first=newest_first)
    found = listed(registry, size)
    assert registry.always <= set(found) <= registry.ever
    assert found == sorted(set(found))


@given(freedoms=FREEDOMS, history=ADDITIONS, size=PAGE_SIZES)
def test_without_total_counts_a_listing_still_survives_additions(
    freedoms: Any, history: Any, size: int
) -> None:
    registry = Registry(**freedoms, history=history, totals=False)
    found = listed(registry, size)
    assert registry.always <= set(found) <= registry.ever
    assert found == sorted(set(found))


def test_without_total_counts_a_deletion_can_hide_a_version_as_the_docs_say() -> None:
    registry = Registry(size=6, history=[[0]], totals=False)
    assert not registry.always <= set(listed(registry, 2))


@given(freedoms=FREEDOMS, history=st.lists(CHANGES, min_size=5, max_size=60), size=PAGE_SIZES)
def test_a_listing_ends_complete_or_with_a_paging_error_whatever_changes(
    freedoms: Any, history: Any, size: int
) -> None:
    registry = Registry(**freedoms, history=history)
    try:
        found = listed(registry, size)
    except api.PaiPagingError as failure:
        assert "records came, were deleted" in str(failure)
    else:
        assert registry.always <= set(found) <= registry.ever
        assert found == sorted(set(found))


def test_deletions_hidden_in_every_pass_are_a_paging_error_and_not_a_silent_loss() -> None:
    with pytest.raises(api.PaiPagingError, match="5 times"):
        listed(Registry(size=10, history=[["+", 0]] * 200), 5)


@pytest.mark.parametrize(
    ("size", "page_size", "largest", "totals", "requests"),
    [
        (0, 100, 100, True, 1),
        (0, 100, 100, False, 1),
        (7, 100, 100, True, 1),
        (7, 100, 100, False, 2),  # a short page may be one that PAI cut
        (7, 100, 3, True, 3),
        (7, 100, 3, False, 4),
        (6, 3, 100, True, 3),  # TotalCount alone ends nothing
    ],
)
def test_what_a_listing_costs(size: int, page_size: int, largest: int, totals: bool, requests: int) -> None:
    registry = Registry(size=size, largest_page=largest, totals=totals)
    assert len(listed(registry, page_size)) == size
    assert len(registry.requests) == requests


def test_models_are_listed_by_the_same_rules() -> None:
    registry = Registry(size=9, history=[["+", 0]], largest_page=4)
    found = [model.model_id for model in drive(api.list_models(page_size=4), registry)]
    assert registry.always <= set(found)
    assert found == sorted(set(found))


def test_pages_without_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGES", 20)
    with pytest.raises(api.PaiPagingError, match="20 pages"):
        listed(Registry(size=100), 1)


def test_a_registry_that_ignores_the_number_is_an_error_and_not_a_part_of_the_listing() -> None:
    def answer(request: api.Request) -> api.Response:
        same = {**request.query, "PageNumber": "1"}
        return registry(api.Request(action=request.action, path=request.path, query=same))

    registry = Registry(size=9)
    with pytest.raises(api.PaiPagingError, match="page 2 with what came before"):
        drive(api.list_model_versions("model-1", page_size=3), answer)
    assert len(registry.requests) == 2


# --- the emulator: a listing over HTTP while versions come about


@given(
    total_count=st.sampled_from(["given", "absent"]),
    order=st.sampled_from(["honoured", "ignored", "by_name"]),
    largest=st.integers(1, 4),
    there=st.integers(0, 5),
    added=st.lists(st.integers(0, 4), max_size=3),
)
@settings(max_examples=15)
def test_versions_that_come_about_meanwhile_disturb_no_listing(
    total_count: Any, order: Any, largest: int, there: int, added: list[int]
) -> None:
    quirks = Quirks(total_count=total_count, order=order, max_results=largest)
    with PaiEmulator(quirks=quirks) as pai, api.PaiClient(pai.url, KEY) as client:
        model_id = pai.add_model("digits")
        before = [pai.add_model_version(model_id) for _ in range(there)]
        for after in added:
            version = {"model_id": model_id, "version_name": f"9.{after}.{len(pai.model_versions(model_id))}"}
            pai.inject("insert_version", action="ListModelVersions", after=after, version=version)
            pai.add_model_version(model_id)
        before = [body["VersionName"] for body in pai.model_versions(model_id)]
        found = [version.version_name for version in client.run(api.list_model_versions(model_id))]
        assert len(found) == len(set(found))
        if order != "by_name" or total_count == "given":  # by name an insertion may come anywhere
            assert set(before) <= set(found)
        pai.clear_faults()
        everything = [body["VersionName"] for body in pai.model_versions(model_id)]
        found = [version.version_name for version in client.run(api.list_model_versions(model_id))]
        assert found == everything
