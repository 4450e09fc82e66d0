"""One poll for many: whatever happens between the polls, everybody is told in time, and of nothing else.

A model says what every waiter must have been told after each poll. The other side is the emulator, whose
pages are made small, so that a few runs are a long history.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from airflow_db import airflow_db  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_pai.api import RunQuery
from airflow_provider_pai.clients import shared_client
from airflow_provider_pai.emulator import PaiEmulator
from airflow_provider_pai.watch import BLIND_POLLS, NEWEST_FIRST, Seat, Snapshot, View, Waiter, Watch

pytestmark = pytest.mark.timeout(600)

LABEL = {"is_evaluation": "true"}
PAGE = 3
LATEST = datetime.max.replace(tzinfo=timezone.utc)
START = datetime(2025, 10, 20, tzinfo=timezone.utc)
EXPERIMENTS = 3
AGES = 40
"""Creation times that a run may have, in minutes after START."""


# --- histories


@dataclass(frozen=True)
class Create:
    """A run comes; most are labelled later."""

    experiment: int
    age: int
    labelled: bool


@dataclass(frozen=True)
class Change:
    """A run that is there is labelled, unlabelled or deleted; ``index`` wraps around."""

    what: str
    index: int


CREATES = st.builds(Create, st.integers(0, EXPERIMENTS - 1), st.integers(0, AGES), st.booleans())
CHANGES = st.builds(
    Change, st.sampled_from(["label", "label", "unlabel", "delete", "measure"]), st.integers(0, 60)
)
POLLS = st.lists(st.lists(CREATES | CHANGES, max_size=3), min_size=1, max_size=7)
WAITERS = st.lists(
    st.tuples(st.none() | st.integers(0, EXPERIMENTS - 1), st.none() | st.integers(0, AGES)),
    min_size=1,
    max_size=4,
)


@dataclass
class Model:
    """What a run of the emulator is like."""

    experiment: int
    created: datetime
    labelled: bool


class World:
    """A workspace of the emulator, and the model of what is in it."""

    def __init__(self, pai: PaiEmulator) -> None:
        self.pai = pai
        self.workspace_id = pai.add_workspace("of this history")
        self.experiments = [pai.add_experiment(workspace_id=self.workspace_id) for _ in range(EXPERIMENTS)]
        self.runs: dict[str, Model] = {}

    def apply(self, change: Create | Change) -> None:
        """Let something happen, in the emulator and in the model."""
        if isinstance(change, Create):
            created = START + timedelta(minutes=change.age)
            run_id = self.pai.add_run(
                experiment_id=self.experiments[change.experiment],
                labels=LABEL if change.labelled else None,
                gmt_create_time=created.isoformat(),
            )
            self.runs[run_id] = Model(change.experiment, created, change.labelled)
            return
        if not self.runs:
            return
        run_id = list(self.runs)[change.index % len(self.runs)]
        if change.what == "delete":
            self.pai.delete_run(run_id)
            del self.runs[run_id]
        elif change.what == "measure":
            self.pai.measure_run(run_id, {"f1": 0.9})
        elif change.what == "label":
            self.pai.label_run(run_id, LABEL)
            self.runs[run_id].labelled = True
        else:
            self.pai.unlabel_run(run_id, "is_evaluation")
            self.runs[run_id].labelled = False

    def query(self, experiment: int | None, age: int | None) -> RunQuery:
        """The query of a waiter: one experiment or all, from some moment on or from the beginning."""
        return RunQuery(
            workspace_id=self.workspace_id,
            labels=LABEL,
            experiment_id=None if experiment is None else self.experiments[experiment],
            created_after=None if age is None else START + timedelta(minutes=age),
            order_by=NEWEST_FIRST,
        )

    def labelled(self, experiment: int | None = None, age: int | None = None) -> dict[str, datetime]:
        """The runs that match such a query, and when they were created."""
        return {
            run_id: run.created
            for run_id, run in self.runs.items()
            if run.labelled
            and experiment in (None, run.experiment)
            and (age is None or run.created >= START + timedelta(minutes=age))
        }


class Told:
    """A waiter, who looks when a snapshot gives it a reason to, as the triggers do."""

    def __init__(self, world: World, seat: Seat, experiment: int | None, age: int | None) -> None:
        self.seat = seat
        self.truth = lambda: world.labelled(experiment, age).keys()
        self.seen: set[str] = set()
        self.excused = False
        self._looked = False

    async def take(self, snapshot: Snapshot | None) -> bool:
        """Look if there is a reason to, and tell whether there was."""
        if snapshot is None:
            return False
        query = self.seat.waiter.query
        assert snapshot.error is None
        if self._looked and not snapshot.beyond and not any(map(query.matches, snapshot.news)):
            return False
        self._looked = True
        if snapshot.view.covers(query):
            runs = [run for run in snapshot.view.runs.values() if query.matches(run)]
        else:
            runs, _ = await self.seat.ask(None)
        self.seen = {run.run_id for run in runs}
        assert self.seen == self.truth()  # of nothing else
        return True


class Watched:
    """A watch whose polls the test makes, and those who wait at it."""

    def __init__(self, world: World, watch: Watch, told: list[Told]) -> None:
        self.world = world
        self.watch = watch
        self.told = told
        self._last: tuple[dict[str, datetime], View] | None = None

    async def poll(self) -> int:
        """Poll once, let everybody look who has a reason to, and return the number of requests."""
        known = self.world.pai.request_counts.get("ListRuns", 0)
        snapshot = await self.watch._poll()
        # All at once, as triggers do: only then are equal questions asked once.
        looked = await asyncio.gather(*(waiter.take(snapshot) for waiter in self.told))
        hidden = self._cancels_out()
        for waiter, has_looked in zip(self.told, looked, strict=True):
            waiter.excused = not has_looked and (waiter.excused or hidden)
        return self.world.pai.request_counts["ListRuns"] - known

    def _cancels_out(self) -> bool:
        """Tell whether changes further back cancelled out in TotalCount: what the docstring excludes."""
        now, view = self.world.labelled(), self.watch._view
        last, self._last = self._last, (now, view)
        if last is None or view.whole:
            return False
        before, view_before = last
        edge = max(view.since, view_before.since) if view.sure and view_before.sure else LATEST
        came = [run for run in now.keys() - before.keys() if now[run] <= edge]
        went = [run for run in before.keys() - now.keys() if before[run] <= edge]
        return len(came) == len(went) > 0


@asynccontextmanager
async def watched(world: World, waiters: list[tuple[int | None, int | None]]) -> AsyncIterator[Watched]:
    async with shared_client("pai_default", None) as client:
        made = Watch(client, world.query(None, None))
        with ExitStack() as stack:
            seats = [
                stack.enter_context(made.joined(Waiter(world.query(*waiter), 1.0))) for waiter in waiters
            ]
            told = [Told(world, seat, *waiter) for seat, waiter in zip(seats, waiters, strict=True)]
            yield Watched(world, made, told)


@pytest.fixture(scope="module")
def served(airflow_db: None) -> Iterator[PaiEmulator]:  # noqa: F811
    """One emulator for all histories; each has a workspace of its own in it."""
    with PaiEmulator() as emulator, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRFLOW_CONN_PAI_DEFAULT", emulator.connection_uri)
        emulator.quirks.max_results = PAGE
        patched.setattr("airflow_provider_pai.watch.PAGE_SIZE", PAGE)  # what the watch reckons with
        patched.setattr("airflow_provider_pai.clients.QUOTA_SECONDS", 0.0)  # counted, not timed
        yield emulator


HISTORIES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
history = given(
    before=st.lists(CREATES, max_size=25),
    polls=POLLS,
    waiters=WAITERS,
    order=st.sampled_from(["honoured", "honoured", "ignored"]),
)


@HISTORIES
@history
def test_everybody_is_told_at_the_next_poll(served, before, polls, waiters, order):
    served.quirks.total_count, served.quirks.order = "given", order
    world = World(served)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with watched(world, waiters) as seen:
            for number, changes in enumerate([[], *polls]):
                for change in changes:
                    world.apply(change)
                requests = await seen.poll()
                for waiter in seen.told:
                    assert waiter.excused or waiter.truth() <= waiter.seen
                if number > 0 and not changes:
                    assert requests == 1
                pages = -(-len(world.labelled()) // PAGE) + 1
                assert requests <= pages * (1 + len(set(waiters)))

    asyncio.run(asyncio.wait_for(story(), 60))


@HISTORIES
@history
def test_without_total_count_everybody_is_told_within_the_blind_polls(served, before, polls, waiters, order):
    served.quirks.total_count, served.quirks.order = "absent", order
    world = World(served)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with watched(world, waiters) as seen:
            for changes in [[], *polls]:
                for change in changes:
                    world.apply(change)
                await seen.poll()
            requests = [await seen.poll() for _ in range(BLIND_POLLS)]
            for waiter in seen.told:
                assert waiter.truth() <= waiter.seen
            pages = -(-len(world.labelled()) // PAGE) + 1
            assert sum(requests) <= BLIND_POLLS + pages * (1 + len(set(waiters)))

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize("then", ["something else changes", "nothing changes any more"])
def test_what_cancels_out_further_back_shows_with_the_next_change_or_in_time(served, monkeypatch, then):
    monkeypatch.setattr("airflow_provider_pai.watch.TRUSTED_POLLS", 5)
    served.quirks.total_count, served.quirks.order = "given", "honoured"
    world = World(served)
    for age in range(20, 40):
        world.apply(Create(0, age, True))
    late, last = Create(1, 1, False), Create(1, 2, False)
    world.apply(late)
    world.apply(last)

    async def story() -> None:
        async with watched(world, [(1, None)]) as seen:
            (waiter,) = seen.told
            await seen.poll()
            world.apply(Change("label", 20))
            world.apply(Change("unlabel", 0))
            assert await seen.poll() == 1
            assert waiter.seen == set()
            if then == "something else changes":
                world.apply(Change("label", 21))
                await seen.poll()
            else:
                assert [await seen.poll() for _ in range(2)] == [1, 1]
                assert await seen.poll() > 1
            assert waiter.seen == waiter.truth() != set()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_what_the_newest_page_explains_costs_no_look_further_back(served):
    served.quirks.total_count, served.quirks.order = "given", "honoured"
    world = World(served)
    for age in range(20, 35):
        world.apply(Create(0, age, True))

    async def story() -> None:
        async with watched(world, [(1, None), (2, 5)]) as seen:
            await seen.poll()
            for change in (
                Create(0, 36, True),
                Change("unlabel", 15),
                Change("label", 15),
                Change("measure", 15),
                Create(0, 1, False),
                Change("delete", 15),
            ):
                world.apply(change)
                assert await seen.poll() == 1
            world.apply(Create(1, 37, True))
            assert await seen.poll() <= 1 + 1  # the one whose run it is asks
            assert all(waiter.seen == waiter.truth() for waiter in seen.told)

    asyncio.run(asyncio.wait_for(story(), 60))
