"""Listings of a service that changes meanwhile: no run is lost, none comes twice, and every listing ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_pai.api import (
    PaiPagingError,
    PaiResponseError,
    PaiUsageError,
    Request,
    Response,
    RunQuery,
    list_experiments,
    list_runs,
    list_workspaces,
    paging,
    walk_runs,
)
from airflow_provider_pai.api.metrics import metric_history

START = datetime(2025, 10, 20, 12, tzinfo=timezone.utc)
NOUNS = {"ListRuns": ("Runs", "RunId"), "ListExperiment": ("Experiments", "ExperimentId")}


@dataclass
class Service:
    """A listing service that behaves in every way that the API page allows, with a history of changes.

    ``history[n]`` holds what happens between the n-th and the next request: ``"+"`` inserts an entry that
    is the newest, at least a second later, and a number deletes the entry at that place (modulo how many
    there are). Afterwards nothing changes.
    """

    size: int = 0
    history: list[list[Any]] = field(default_factory=list)
    token: str = "offset"
    text_tokens: bool = False
    end: Any = 0
    empty_pages: bool = False
    totals: bool = True
    honours_order: bool = True
    largest_page: int = 100

    def __post_init__(self) -> None:
        self.clock = START
        self.made = 0
        self.entries: list[dict[str, Any]] = []
        for index in range(self.size):
            self.insert(START + timedelta(minutes=index - self.size - 1))
        self.always = {entry["id"] for entry in self.entries}
        self.ever = set(self.always)
        self.requests: list[Request] = []

    def insert(self, created: datetime) -> None:
        self.made += 1
        self.entries.append({"id": f"id-{self.made:03}", "created": created})

    def change(self, what: Any) -> None:
        if what == "+":
            self.clock += timedelta(seconds=1)
            self.insert(self.clock)
            self.ever.add(self.entries[-1]["id"])
        elif self.entries:
            self.always.discard(self.entries.pop(what % len(self.entries))["id"])

    def __call__(self, request: Request) -> Response:
        if 0 < len(self.requests) <= len(self.history):
            for what in self.history[len(self.requests) - 1]:
                self.change(what)
        self.requests.append(request)
        entries = list(self.entries)
        if request.query["OrderBy"].endswith("DESC") and self.honours_order:
            entries.reverse()
        size = min(int(request.query["MaxResults"]), self.largest_page)
        position = int(request.query.get("PageToken", "0"))
        # With empty pages an odd token stands for one of these, before the entries of the next token.
        position, blank = ((position + 1) // 2, position % 2 == 1) if self.empty_pages else (position, False)
        offset = position * size if self.token == "index" else position
        page = [] if blank else entries[offset : offset + size]
        following = offset if blank else offset + size
        body = self.envelope(following, size, blank=blank)
        noun, identity = NOUNS[request.action]
        body[noun] = [self.entry(entry, identity) for entry in page]
        headers = {"date": format_datetime(self.clock, usegmt=True)}
        return Response(status=200, headers=headers, body=json.dumps(body).encode())

    def envelope(self, following: int, size: int, *, blank: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"requestId": "R-1"}
        if self.totals:
            body["TotalCount"] = len(self.entries)
        if following < len(self.entries):
            token = following // size if self.token == "index" else following
            token = 2 * token - (not blank) if self.empty_pages else token
            body["NextPageToken"] = str(token) if self.text_tokens else token
        elif self.end != "absent":
            body["NextPageToken"] = self.end
        return body

    @staticmethod
    def entry(entry: dict[str, Any], identity: str) -> dict[str, Any]:
        return {identity: entry["id"], "Name": entry["id"], "GmtCreateTime": entry["created"].isoformat()}


def ids(entries: list[Any]) -> list[str]:
    return [getattr(entry, "run_id", None) or entry.experiment_id for entry in entries]


def rising(values: list[Any]) -> bool:
    return values == sorted(values)


FREEDOMS = st.fixed_dictionaries(
    {
        "size": st.integers(0, 14),
        "token": st.sampled_from(["offset", "index"]),
        "text_tokens": st.booleans(),
        "end": st.sampled_from([0, "0", None, "", "absent"]),
        "empty_pages": st.booleans(),
        "largest_page": st.integers(1, 5),
    }
)
CHANGES = st.lists(st.just("+") | st.integers(0, 20), max_size=4)
QUIET_ENOUGH = st.lists(CHANGES, max_size=paging.MAX_PASSES - 1)  # so that nothing disturbs the last pass
INSERTIONS = st.lists(st.lists(st.just("+"), max_size=3), max_size=8)
PAGE_SIZES = st.integers(1, 6)
HIDDEN_SKIP = [[], ["+", 0]]  # a deletion that an insertion hides from TotalCount


# --- histories


@pytest.mark.parametrize("order", ["GmtCreateTime ASC", "GmtCreateTime DESC", "Name ASC", "Name DESC"])
@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES)
@example(freedoms={"size": 6}, history=HIDDEN_SKIP, size=2)
def test_a_listing_loses_no_run_that_stayed_and_returns_none_twice(play, order, freedoms, history, size):
    service = Service(**freedoms, history=history)
    found = ids(play(list_runs(RunQuery(order_by=order), page_size=size), service))
    assert service.always <= set(found) <= service.ever
    assert len(found) == len(set(found))
    assert rising(found if order.endswith("ASC") else found[::-1])


@pytest.mark.parametrize("order", ["GmtCreateTime ASC", "GmtCreateTime DESC"])
@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES, after=st.booleans())
def test_a_listing_stays_right_where_the_service_ignores_the_order(
    play, order, freedoms, history, size, after
):
    service = Service(**freedoms, history=history, honours_order=False)
    start = START - timedelta(minutes=5)
    query = RunQuery(order_by=order, created_after=start if after else None)
    wanted = {entry["id"] for entry in service.entries if not after or entry["created"] >= start}
    found = ids(play(list_runs(query, page_size=size), service))
    assert service.always & wanted <= set(found)
    assert len(found) == len(set(found))


@given(freedoms=FREEDOMS, history=INSERTIONS, size=PAGE_SIZES)
def test_without_total_counts_a_listing_still_survives_insertions(play, freedoms, history, size):
    service = Service(**freedoms, history=history, totals=False)
    found = ids(play(list_runs(RunQuery(), page_size=size), service))
    assert service.always <= set(found) <= service.ever
    assert len(found) == len(set(found))
    assert rising(found)


@given(
    freedoms=FREEDOMS,
    history=QUIET_ENOUGH,
    size=PAGE_SIZES,
    minutes=st.integers(0, 16),
    most=st.none() | st.integers(1, 8),
)
def test_a_window_that_opens_loses_nothing(play, freedoms, history, size, minutes, most):
    service = Service(**freedoms, history=history)
    start = START - timedelta(minutes=minutes)
    wanted = {entry["id"] for entry in service.entries if entry["created"] >= start}
    found = ids(play(list_runs(RunQuery(created_after=start), page_size=size, max_runs=most), service))
    stayed = sorted(service.always & wanted)
    assert rising(found)
    assert len(found) == len(set(found))
    if most is None:
        assert (
            set(stayed)
            <= set(found)
            <= (wanted | (service.ever - {f"id-{n:03}" for n in range(service.size + 1)}))
        )
    else:
        # The result holds all runs that stayed and come before its last run.
        assert len(found) <= most
        assert {run_id for run_id in stayed if len(found) < most or run_id <= found[-1]} <= set(found)


@given(
    freedoms=FREEDOMS,
    history=st.lists(
        st.lists(st.just("+"), max_size=3) | st.lists(st.integers(0, 20), max_size=3),
        max_size=paging.MAX_PASSES - 1,
    ),
    size=PAGE_SIZES,
    minutes=st.integers(0, 16),
    most=st.none() | st.integers(1, 8),
)
@example(freedoms={"size": 3, "largest_page": 1}, history=[[0]], size=1, minutes=0, most=2)
def test_a_window_that_closes_and_a_first_few_lose_nothing(play, freedoms, history, size, minutes, most):
    # A listing that is left early cannot notice a deletion hidden by an insertion between the same pages.
    service = Service(**freedoms, history=history)
    end = START - timedelta(minutes=minutes)
    wanted = {entry["id"] for entry in service.entries if entry["created"] < end}
    found = ids(play(list_runs(RunQuery(created_before=end), page_size=size, max_runs=most), service))
    stayed = sorted(service.always & wanted)
    assert rising(found)
    assert len(found) == len(set(found))
    assert set(found) <= wanted
    assert {run_id for run_id in stayed if most is None or len(found) < most or run_id <= found[-1]} <= set(
        found
    )


@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES, most=st.integers(1, 8))
@example(freedoms={"size": 6}, history=[["+", 0]], size=2, most=4)
def test_newest_first_a_listing_that_is_left_early_loses_nothing(play, freedoms, history, size, most):
    service = Service(**freedoms, history=history)
    query = RunQuery(order_by="GmtCreateTime DESC")
    found = ids(play(list_runs(query, page_size=size, max_runs=most), service))
    assert len(found) == len(set(found)) <= most
    assert {run_id for run_id in service.always if len(found) < most or run_id >= found[-1]} <= set(found)


@pytest.mark.parametrize(
    ("query", "service"),
    [
        ({}, {"totals": False, "history": [[0]]}),
        ({"order_by": "GmtCreateTime ASC", "max_runs": 4}, {"history": [["+", 0]]}),
        ({"order_by": "Name ASC", "max_runs": 4}, {"history": [["+", 0]]}),
        ({"created_before": START - timedelta(minutes=2)}, {"history": [["+", 0]]}),
    ],
)
def test_what_a_listing_can_lose_stands_in_the_docs(play, query, service):
    pai = Service(size=6, **service)
    most = query.pop("max_runs", None)
    end = query.get("created_before", START)
    first = [entry["id"] for entry in pai.entries if entry["created"] < end][1:most]
    found = ids(play(list_runs(RunQuery(**query), page_size=2, max_runs=most), pai))
    assert not set(first) <= set(found)


@given(freedoms=FREEDOMS, history=QUIET_ENOUGH, size=PAGE_SIZES)
def test_a_listing_of_experiments_loses_none_that_stayed(play, freedoms, history, size):
    service = Service(**freedoms, history=history)
    found = ids(play(list_experiments(page_size=size), service))
    assert service.always <= set(found) <= service.ever
    assert len(found) == len(set(found))


@given(freedoms=FREEDOMS, history=st.lists(CHANGES, min_size=5, max_size=60), size=PAGE_SIZES)
def test_a_listing_ends_complete_or_with_a_paging_error_whatever_changes(play, freedoms, history, size):
    service = Service(**freedoms, history=history)
    try:
        found = ids(play(list_runs(RunQuery(), page_size=size), service))
    except PaiPagingError as failure:
        assert "deleted" in str(failure)
    else:
        assert service.always <= set(found) <= service.ever
        assert len(found) == len(set(found))


def test_endless_deletions_are_a_paging_error_within_bounded_passes(play):
    service = Service(size=400, history=[[0]] * 400)
    with pytest.raises(PaiPagingError, match=r"deleted .* 5 times"):
        play(list_runs(RunQuery(), page_size=100), service)
    assert len(service.requests) <= 4 * paging.MAX_PASSES


def test_deletions_hidden_by_insertions_in_every_pass_are_a_paging_error_and_not_a_silent_loss(play):
    service = Service(size=10, history=[["+", 0]] * 200)
    with pytest.raises(PaiPagingError):
        play(list_runs(RunQuery(), page_size=5), service)


def test_a_listing_that_does_not_change_is_read_once(play):
    for order in ("GmtCreateTime ASC", "GmtCreateTime DESC", "Name ASC"):
        service = Service(size=9)
        play(list_runs(RunQuery(order_by=order), page_size=3), service)
        assert len(service.requests) == 3


def test_a_service_that_counts_in_its_own_way_is_read_twice_and_believed(play):
    def answer(request: Request) -> Response:
        response = Service.__call__(service, request)
        body = {**json.loads(response.body), "TotalCount": 1000}
        return Response(status=200, headers=response.headers, body=json.dumps(body).encode())

    service = Service(size=9)
    assert len(play(list_runs(RunQuery(), page_size=3), answer)) == 9
    assert len(service.requests) == 6


# --- what a listing costs, and where it stops


def test_a_window_that_opens_late_is_read_only_from_the_newest_end(play):
    service = Service(size=100)
    runs = play(list_runs(RunQuery(created_after=START - timedelta(minutes=4)), page_size=10), service)
    assert ids(runs) == ["id-098", "id-099", "id-100"]
    assert [request.query["OrderBy"] for request in service.requests] == ["GmtCreateTime DESC"]


def test_a_window_that_opens_among_runs_of_one_moment_loses_none_of_them(play):
    service = Service(size=9)
    moment = service.entries[3]["created"]
    for entry in service.entries[3:6]:  # two of which come on a page after the first
        entry["created"] = moment
    runs = play(list_runs(RunQuery(created_after=moment), page_size=2), service)
    assert sorted(ids(runs)) == [f"id-{number:03}" for number in range(4, 10)]


def test_a_window_that_closes_early_is_read_only_from_the_oldest_end(play):
    service = Service(size=100)
    runs = play(list_runs(RunQuery(created_before=START - timedelta(minutes=98)), page_size=10), service)
    assert ids(runs) == ["id-001", "id-002", "id-003"][: len(runs)]
    assert len(runs) == 3
    assert len(service.requests) == 1


def test_the_first_few_cost_no_more_pages_than_they_fill(play):
    service = Service(size=100)
    assert ids(play(list_runs(RunQuery(), page_size=10, max_runs=15), service)) == [
        f"id-{n:03}" for n in range(1, 16)
    ]
    assert len(service.requests) == 2


def test_max_runs_counts_what_matches_and_not_what_is_read(play):
    service = Service(size=100)
    runs = play(list_runs(RunQuery(name="id-055"), page_size=10, max_runs=1), service)
    assert ids(runs) == ["id-055"]
    assert len(service.requests) == 6


def test_a_listing_never_mixes_ways_to_page_or_order(play):
    service = Service(size=5)
    play(list_runs(RunQuery(), page_size=2), service)
    for number, request in enumerate(service.requests):
        assert {"PageNumber", "PageSize", "SortBy", "Order", "GmtCreateTime"}.isdisjoint(request.query)
        assert ("PageToken" in request.query) == (number > 0)
        assert request.query["OrderBy"] == "GmtCreateTime ASC"


@pytest.mark.parametrize("value", [0, -1, "10", 1.5, True])
@pytest.mark.parametrize("name", ["page_size", "max_runs"])
def test_impossible_sizes_are_refused_before_anything_is_sent(name, value):
    with pytest.raises(PaiUsageError, match=name):
        next(list_runs(RunQuery(), **{name: value}))
    with pytest.raises(PaiUsageError, match=name):
        walk_runs(RunQuery(), **{name: value})


def test_a_paginator_holds_one_page_and_asks_for_the_next_only_on_demand(play):
    service = Service(size=7)
    listing = walk_runs(RunQuery(), page_size=3)
    pages = []
    while not listing.done:
        pages.append(ids(play(listing.next_page(), service)))
        assert len(service.requests) == len(pages)
    assert [len(page) for page in pages] == [3, 3, 1]


def test_a_paginator_stops_once_it_has_enough(play):
    service = Service(size=50)
    listing = walk_runs(RunQuery(), page_size=3, max_runs=4)
    found = []
    while not listing.done:
        found += ids(play(listing.next_page(), service))
    assert found[:4] == ["id-001", "id-002", "id-003", "id-004"]
    assert len(service.requests) == 2


# --- tokens that never end


def tokens(values: Iterator[Any], noun: str = "Runs") -> Any:
    """A service whose pages are empty and whose tokens are these."""

    def answer(_: Request) -> Response:
        body = {"requestId": "R-1", noun: [], "NextPageToken": next(values)}
        return Response(status=200, headers={}, body=json.dumps(body).encode())

    return answer


def listings() -> dict[str, Any]:
    return {
        "Runs": lambda: list_runs(RunQuery()),
        "Experiments": lambda: list_experiments(),
        "Metrics": lambda: metric_history("run-1", "k"),
    }


@pytest.mark.parametrize(("noun", "ask"), listings().items(), ids=listings().keys())
@pytest.mark.parametrize("circle", [[7, 7], ["7", 7], [1, 2, 3, 1], ["a", "b", "a"], [-1, -1]], ids=repr)
def test_a_token_that_comes_twice_is_an_error_and_not_a_loop(play, noun, ask, circle):
    with pytest.raises(PaiPagingError, match=rf"{circle[0]}.*second time.*R-1"):
        play(ask(), tokens(iter(circle), noun))


@pytest.mark.parametrize(("noun", "ask"), listings().items(), ids=listings().keys())
def test_tokens_without_end_are_bounded(play, monkeypatch, noun, ask):
    monkeypatch.setattr(paging, "MAX_PAGES", 50)
    sent: list[Request] = []
    with pytest.raises(PaiPagingError, match="50 pages"):
        play(ask(), tokens(iter(range(1, 1000)), noun), sent)
    assert len(sent) == 50


def test_the_bound_on_pages_leaves_room_for_long_histories():
    assert paging.MAX_PAGES * paging.PAGE_SIZE >= 1_000_000


@pytest.mark.parametrize("end", [0, "0", "", None])
def test_every_sign_of_the_end_ends(play, end):
    sent: list[Request] = []
    play(list_runs(RunQuery()), tokens(iter([1, end])), sent)
    assert [request.query.get("PageToken") for request in sent] == [None, "1"]


def test_a_token_that_is_not_text_is_an_error_that_stays(play):
    half = Response(status=200, headers={}, body=b'{"Runs": [], "NextPageToken": "\\ud800"}')
    sent: list[Request] = []
    with pytest.raises(PaiResponseError, match=r"page token '\\ud800' is not valid text") as caught:
        play(list_runs(RunQuery()), lambda _: half, sent)
    assert not caught.value.retryable
    assert len(sent) == 1


def test_a_token_is_echoed_to_the_letter(play):
    sent: list[Request] = []
    play(list_runs(RunQuery()), tokens(iter(["eyJ/+=", 2**63, 0])), sent)
    assert [request.query.get("PageToken") for request in sent] == [None, "eyJ/+=", str(2**63)]


# --- metrics and workspaces


def metric_pages(entries: list[dict[str, Any]], size: int, overlap: int = 0) -> Any:
    def answer(request: Request) -> Response:
        offset = int(request.query.get("PageToken", "0"))
        following = offset + size
        body = {
            "Metrics": entries[max(0, offset - overlap) : following],
            "NextPageToken": following if following < len(entries) else 0,
        }
        return Response(status=200, headers={}, body=json.dumps(body).encode())

    return answer


@given(
    values=st.lists(st.floats() | st.just("NaN") | st.none(), max_size=12),
    size=st.integers(1, 5),
    overlap=st.integers(0, 2),
)
def test_a_history_of_metrics_comes_whole_in_order_and_once(play, values, size, overlap):
    entries = [
        {"Key": "k", "Value": value, "Step": step, "Timestamp": 5} for step, value in enumerate(values)
    ]
    found = play(metric_history("run-1", "k", page_size=size), metric_pages(entries, size, overlap))
    assert [metric.step for metric in found] == list(range(len(values)))


@pytest.mark.parametrize("timestamp", [5, None])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_value_that_was_logged_twice_is_there_twice(play, timestamp, size):
    values = [0.9, 0.95, 0.9]
    entries = [{"Key": "k", "Value": value, "Step": 10, "Timestamp": timestamp} for value in values]
    found = play(metric_history("run-1", "k", page_size=size), metric_pages(entries, size))
    assert [metric.value for metric in found] == values
    nameless = [{"Key": "k", "Value": 0.0}] * 5
    assert len(play(metric_history("run-1", "k", page_size=size), metric_pages(nameless, size))) == 5


def test_metrics_of_other_keys_are_left_out(play):
    entries = [{"Key": key, "Value": 1, "Step": 0} for key in ("k", "other")]
    assert [metric.key for metric in play(metric_history("run-1", "k"), metric_pages(entries, 9))] == ["k"]


def workspace_pages(count: int, largest: int, total: Any) -> Any:
    def answer(request: Request) -> Response:
        assert "PageToken" not in request.query
        size = min(int(request.query["PageSize"]), largest)
        offset = (int(request.query["PageNumber"]) - 1) * size
        numbers = range(count)[offset : offset + size]
        body = {"Workspaces": [{"WorkspaceId": str(number)} for number in numbers], "TotalCount": total}
        return Response(status=200, headers={}, body=json.dumps(body).encode())

    return answer


@given(count=st.integers(0, 12), largest=st.integers(1, 5), size=st.integers(1, 6), given_total=st.booleans())
def test_a_listing_of_workspaces_is_complete_whatever_page_size_is_granted(
    play, count, largest, size, given_total
):
    answer = workspace_pages(count, largest, count if given_total else None)
    found = play(list_workspaces(page_size=size), answer)
    assert [workspace.workspace_id for workspace in found] == [str(number) for number in range(count)]


@pytest.mark.parametrize(("total", "sent_for_it"), [(None, 2), (1, 1), (5, 2)])
def test_a_service_that_ignores_the_page_number_ends(play, total, sent_for_it):
    body = {"Workspaces": [{"WorkspaceId": "1"}], "TotalCount": total}
    sent: list[Request] = []
    same = Response(status=200, headers={}, body=json.dumps(body).encode())
    try:
        assert len(play(list_workspaces(), lambda _: same, sent)) == 1
    except PaiPagingError as failure:
        assert (total, "page 2 with what came before" in str(failure)) == (5, True)
    assert len(sent) == sent_for_it


def test_workspaces_without_end_are_bounded(play, monkeypatch):
    monkeypatch.setattr(paging, "MAX_PAGES", 20)
    with pytest.raises(PaiPagingError, match="20 pages"):
        play(list_workspaces(), workspace_pages(10**6, 1, None))
