"""One poll for many: whatever happens between the polls, everybody is told in time, and of nothing else.

A model says what every waiter must know after each poll. The other side is the emulator, whose pages are made
small, so that a few runs are a long history.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from airflow_db import airflow_db  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_pai.api import RunQuery, list_runs
from airflow_provider_pai.emulator import PaiEmulator
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.waiting import listing as view
from airflow_provider_pai.waiting import poller as watch
from airflow_provider_pai.waiting.client import shared_client
from airflow_provider_pai.waiting.listing import NEWEST_FIRST, Baseline, asked_at, pin_baseline
from airflow_provider_pai.waiting.poller import BLIND_POLLS, Look, Seat, Snapshot, Waiter, Watch

pytestmark = pytest.mark.timeout(600)

LABEL = {"is_evaluation": "true"}
PAGE = 3
EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
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
Wanted = tuple[int | None, int | None]
"""Which experiment somebody waits for, and from what age on; ``None`` for any."""
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
        self._created = itertools.count()

    def apply(self, change: Create | Change) -> None:
        """Let something happen, in the emulator and in the model."""
        if isinstance(change, Create):
            created = START + timedelta(minutes=change.age)
            if self.pai.quirks.order == "by_name":  # oldest first, and equal times would hide that
                created += timedelta(milliseconds=next(self._created))
            run_id = self.pai.add_run(
                created.strftime("run-%H-%M-%f"),
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

    def query(self, experiment: int | None = None, age: int | None = None) -> RunQuery:
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


@dataclass(frozen=True)
class Pinned:
    """What a wait began from, as the sensor pins it: what was there, and what its own question found."""

    baseline: Baseline | None
    asked: datetime
    seen: frozenset[str]
    labelled: dict[str, datetime]


def pin(world: World, wanted: Wanted) -> Pinned:
    """Begin a wait in a worker."""
    with PaiHook().client() as client:
        baseline = client.run(pin_baseline(world.query(*wanted)))
        runs, asked = client.run(asked_at(list_runs(world.query(*wanted))))
    return Pinned(baseline, asked, frozenset(run.run_id for run in runs), world.labelled())


class Told:
    """A waiter, who looks when a snapshot gives it a reason to, as the triggers do."""

    def __init__(self, world: World, seat: Seat, wanted: Wanted, pinned: Pinned | None = None) -> None:
        self.seat = seat
        self.truth = lambda: world.labelled(*wanted).keys()
        self.pinned = pinned
        self.seen = set(pinned.seen) if pinned else set()
        self.told_else = False
        self._looked = False

    def knows(self) -> bool:
        """Tell whether it knows of all that is there; of what went again it need not be told."""
        return self.truth() <= self.seen and not self.told_else

    async def take(self, snapshot: Snapshot | None) -> None:
        """Look if there is a reason to."""
        if snapshot is None:
            return
        look, view = self.seat.waiter.look, snapshot.view
        query = look.query
        assert snapshot.error is None
        if self._looked and not snapshot.beyond and not any(map(query.matches, snapshot.news)):
            return
        runs = view.answer(query)
        began = None if self._looked else self.pinned
        unchanged = began is not None and look.settled_by(view, snapshot.unchanged_since)
        if runs is None and unchanged and not view.matching(query):
            self.seen = set(began.seen)
        else:
            if runs is None:
                runs, _ = await self.seat.ask(None)
            self.seen = {run.run_id for run in runs}
        self.told_else = self.seen != self.truth()
        self._looked = True


class Watched:
    """A watch whose polls the test makes, and those who wait at it.

    What changed further back and cancels out in TotalCount is what nobody can know; ``hidden`` tells of it
    until the watch looks everywhere again.
    """

    def __init__(self, world: World, watch: Watch, told: list[Told]) -> None:
        self.world = world
        self.watch = watch
        self.told = told
        self.hidden = False
        self._before: dict[str, datetime] = {}

    def all_know(self) -> bool:
        """Tell whether everybody knows what can be known."""
        return self.hidden or all(waiter.knows() for waiter in self.told)

    async def poll(self) -> int:
        """Poll once, let everybody look who has a reason to, and return the number of requests."""
        known = self.world.pai.request_counts.get("ListRuns", 0)
        snapshot = await self.watch._poll()
        # All at once, as triggers do: only then are equal questions asked once.
        await asyncio.gather(*(waiter.take(snapshot) for waiter in self.told))
        view, now = self.watch._view, self.world.labelled()
        depth = min((now[run] for run in view.read & now.keys()), default=LATEST)
        if snapshot is not None and snapshot.beyond:
            self.hidden = False
        elif self._before and not (view.whole and depth == min(now.values(), default=LATEST)):
            self.hidden |= cancels_out(self._before, now, depth if view.sure else LATEST)
        self._before = now
        return self.world.pai.request_counts["ListRuns"] - known


def cancels_out(before: dict[str, datetime], now: dict[str, datetime], edge: datetime) -> bool:
    """Tell whether as many came as went up to a moment, which TotalCount cannot tell."""
    came = [run for run in now.keys() - before.keys() if now[run] <= edge]
    went = [run for run in before.keys() - now.keys() if before[run] <= edge]
    return len(came) == len(went) > 0


@asynccontextmanager
async def watched(
    world: World, waiters: list[Wanted], pinned: dict[Wanted, Pinned] | None = None
) -> AsyncIterator[Watched]:
    async with shared_client("pai_default", None) as client:
        made = Watch(client, world.query(None, None))
        told = []
        with ExitStack() as stack:
            for wanted in waiters:
                began = pinned[wanted] if pinned else None
                look = Look(world.query(*wanted), *((began.baseline, began.asked) if began else ()))
                joined = made.joined(Waiter(look, 1.0))
                told.append(Told(world, stack.enter_context(joined), wanted, began))
            yield Watched(world, made, told)


@pytest.fixture(scope="module")
def served(airflow_db: None) -> Iterator[PaiEmulator]:  # noqa: F811
    """One emulator for all histories; each has a workspace of its own in it."""
    with PaiEmulator() as emulator, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRFLOW_CONN_PAI_DEFAULT", emulator.connection_uri)
        emulator.quirks.max_results = PAGE
        for room in (view, watch):
            patched.setattr(room, "PAGE_SIZE", PAGE)  # what they reckon with
            patched.setattr(room, "MOST_PAGES", view.MOST_PAGES)
        patched.setattr(view, "PINNED_RUNS", 2)
        patched.setattr("airflow_provider_pai.waiting.client.QUOTA_SECONDS", 0.0)  # counted, not timed
        yield emulator


HISTORIES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
history = given(
    before=st.lists(CREATES, max_size=25),
    polls=POLLS,
    waiters=WAITERS,
    order=st.sampled_from(["honoured", "honoured", "by_name"]),
    most=st.sampled_from([50, 50, 4]),
)


def prepared(served: PaiEmulator, total_count: str, order: str, most: int) -> World:
    """A new workspace, in which PAI answers like this and a view holds so many pages."""
    served.quirks.total_count, served.quirks.order = total_count, order
    view.MOST_PAGES = watch.MOST_PAGES = most
    return World(served)


def most_requests(world: World, waiters: list[Wanted]) -> int:
    """What a poll may cost at the most: all pages, and then all pages for each question."""
    return (-(-len(world.labelled()) // PAGE) + 1) * (1 + len(set(waiters)))


@HISTORIES
@history
def test_everybody_is_told_at_the_next_poll(served, before, polls, waiters, order, most):
    world = prepared(served, "given", order, most)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with watched(world, waiters) as seen:
            for number, changes in enumerate([[], *polls]):
                for change in changes:
                    world.apply(change)
                requests = await seen.poll()
                assert seen.all_know()
                if number > 0 and not changes:
                    assert requests == 1
                assert requests <= most_requests(world, waiters)

    asyncio.run(asyncio.wait_for(story(), 60))


@HISTORIES
@history
def test_without_total_count_everybody_is_told_within_the_blind_polls(
    served, before, polls, waiters, order, most
):
    world = prepared(served, "absent", order, most)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with watched(world, waiters) as seen:
            for changes in [[], *polls]:
                for change in changes:
                    world.apply(change)
                await seen.poll()
            requests = [await seen.poll() for _ in range(BLIND_POLLS)]
            assert seen.all_know()
            assert sum(requests) <= BLIND_POLLS + most_requests(world, waiters)

    asyncio.run(asyncio.wait_for(story(), 60))


@HISTORIES
@history
@pytest.mark.parametrize("total_count", ["given", "absent"])
def test_who_comes_back_with_a_baseline_is_told_what_came_since(
    served, before, polls, waiters, order, most, total_count
):
    world = prepared(served, total_count, order, most)
    for change in before:
        world.apply(change)
    began = {wanted: pin(world, wanted) for wanted in waiters}
    for change in polls[0]:  # while no triggerer runs
        world.apply(change)

    async def story() -> None:
        async with watched(world, waiters, began) as seen:
            requests = await seen.poll()
            for waiter in seen.told:
                edge = waiter.pinned.baseline.edge if waiter.pinned.baseline else EARLIEST
                hidden = cancels_out(waiter.pinned.labelled, world.labelled(), edge)
                seen.hidden |= hidden
                assert hidden or waiter.knows()
            unmoved = not polls[0] and order == "honoured" and total_count == "given"
            if unmoved and all(waiter.pinned.baseline and not waiter.truth() for waiter in seen.told):
                assert requests == 1
            for changes in polls[1:]:
                for change in changes:
                    world.apply(change)
                await seen.poll()
                if total_count == "given":
                    assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize("then", ["something else changes", "nothing changes any more"])
def test_what_cancels_out_further_back_shows_with_the_next_change_or_in_time(served, monkeypatch, then):
    monkeypatch.setattr("airflow_provider_pai.waiting.poller.TRUSTED_POLLS", 5)
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


EVERYBODY = [(experiment, age) for experiment in (0, 1) for age in range(10)]
"""Twenty who ask different questions, for any of which a late label may matter."""


def labelled_history(served: PaiEmulator, most: int = 50) -> World:
    """Thirty runs, ten pages, all created since the windows of EVERYBODY began.

    Two of them are awaited, and have no label yet.
    """
    world = prepared(served, "given", "honoured", most)
    for age in range(10, 40):
        awaited = age in (12, 33)
        world.apply(Create(1 if awaited else 2, age, not awaited))
    return world


LATE, LATER = Change("label", 23), Change("label", 2)


def test_pages_are_read_back_to_the_late_label_and_no_further(served):
    world = labelled_history(served)

    async def story() -> None:
        async with watched(world, EVERYBODY) as seen:
            assert await seen.poll() == 10  # all pages: fewer than there are questions
            world.apply(LATE)
            assert await seen.poll() == 3  # six are newer
            world.apply(Change("unlabel", 23))
            assert await seen.poll() == 3
            world.apply(Create(2, 20, True))
            assert await seen.poll() == 7  # 18 are newer
            assert await seen.poll() == 1
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_who_joins_is_told_from_what_was_read_before(served):
    world = labelled_history(served)

    async def story() -> None:
        async with watched(world, EVERYBODY) as seen:
            await seen.poll()
            for wanted, cost in (((1, 3), 0), ((2, 35), 2)):
                with seen.watch.joined(Waiter(Look(world.query(*wanted)), 1.0)) as seat:
                    seen.told.append(Told(world, seat, wanted))
                    # Where runs match, PAI is asked what was logged to them since.
                    assert await seen.poll() == 1 + cost
                    assert seen.told[-1].knows()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_view_holds_no_more_than_its_pages(served):
    world = labelled_history(served, most=4)

    async def story() -> None:
        async with watched(world, EVERYBODY) as seen:
            for age in range(32, 40):
                await seen.poll()
                assert len(seen.watch._view.times) <= 4 * PAGE
                assert len(seen.watch._view.runs) <= 4 * PAGE
                assert seen.all_know()
                world.apply(Create(2, age, True))
            world.apply(LATER)  # further back than it shows
            await seen.poll()
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_where_many_ask_in_vain_the_next_late_label_is_found_by_pages(served):
    world = prepared(served, "given", "honoured", 6)
    for age in range(10, 40):
        world.apply(Create(2, age, True))
    for age in (1, 32):
        world.apply(Create(1, age, False))
    waiters = [(1, None), *((0, age) for age in range(10))]

    async def story() -> None:
        async with watched(world, waiters) as seen:
            assert await seen.poll() == 6 + 11  # all pages that a view holds, and eleven questions
            world.apply(Change("label", 30))
            assert await seen.poll() == 6 + 11
            assert seen.all_know()
            world.apply(Change("label", 31))
            assert await seen.poll() == 4 + 1  # the one whose run it is asks
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize(("came", "pages"), [(0, 1), (1, 1), (5, 3), (20, 8)])
def test_a_baseline_is_reached_by_as_many_pages_as_came_since(served, came, pages):
    world = labelled_history(served)
    began = {wanted: pin(world, wanted) for wanted in EVERYBODY}
    for _ in range(came):
        world.apply(Create(2, 40, True))

    async def story() -> None:
        async with watched(world, EVERYBODY, began) as seen:
            assert await seen.poll() == pages
            assert seen.all_know()
            world.apply(LATER)
            await seen.poll()
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize(
    ("seconds", "then", "requests"),
    [
        (10, [], 1),  # nothing changed
        (10, [Create(2, 40, True)], 1),
        (10, [LATER], 2 + 2),  # a late label: a second page may tell of it, then each of the two asks
        (0, [], 1 + 1),  # who can tell which of them asked first?
    ],
)
def test_a_baseline_serves_all_who_asked_after_it(served, seconds, then, requests):
    world = labelled_history(served)
    pinning, asking = (0, None), (1, 1)
    began = {pinning: pin(world, pinning)}
    served.clock_offset += seconds
    later = pin(world, asking)
    began[asking] = Pinned(None, later.asked, later.seen, later.labelled)
    for change in then:
        world.apply(change)

    async def story() -> None:
        async with watched(world, [pinning, asking], began) as seen:
            assert await seen.poll() == requests
            assert seen.all_know()
            world.apply(LATE)
            await seen.poll()
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_baseline_serves_nobody_who_asked_before_it(served):
    world = labelled_history(served)
    pinning, asking = (0, None), (1, None)
    early = pin(world, asking)
    served.clock_offset += 10
    world.apply(LATER)  # of which the one knows and the other does not
    began = {
        asking: Pinned(None, early.asked, early.seen, early.labelled),
        pinning: pin(world, pinning),
    }

    async def story() -> None:
        async with watched(world, [pinning, asking], began) as seen:
            assert await seen.poll() == 1 + 1
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_baseline_out_of_reach_is_not_read_for(served):
    world = labelled_history(served, most=4)
    waiters = [(0, None), (1, None)]
    began = {wanted: pin(world, wanted) for wanted in waiters}
    for _ in range(20):
        world.apply(Create(2, 40, True))

    async def story() -> None:
        async with watched(world, waiters, began) as seen:
            assert await seen.poll() == 1 + len(waiters)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_no_baseline_is_pinned_where_it_would_spare_nothing(served):
    world = labelled_history(served)
    asked = served.request_counts["ListRuns"]
    now = datetime.now(timezone.utc)
    with PaiHook().client() as client:
        for query in (
            world.query(),  # it is what everybody's poll asks
            RunQuery(workspace_id=world.workspace_id, labels=LABEL, order_by="Name ASC", verbose=False),
            RunQuery(workspace_id=world.workspace_id, labels=LABEL, created_after=now - timedelta(days=1)),
        ):
            assert client.run(pin_baseline(query)) is None
        assert served.request_counts["ListRuns"] == asked
        for wanted in ((0, None), (None, 3)):
            baseline = client.run(pin_baseline(world.query(*wanted)))
            assert (baseline.edge, baseline.older) == (START + timedelta(minutes=38), 27)
            assert baseline.known_at > now  # by PAI's clock, which is right here or ahead
        assert served.request_counts["ListRuns"] == asked + 2
        for total_count, order in (("absent", "honoured"), ("given", "by_name")):
            served.quirks.total_count, served.quirks.order = total_count, order
            assert client.run(pin_baseline(world.query(0))) is None
