"""One poll for many: whatever happens between two requests, everybody is told in time.

A model says what every subscriber must know after each poll. The other side is the emulator, whose pages are
made small, so that a few runs are a long history.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from airflow_db import airflow_db  # noqa: F401 - a fixture
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_pai.api import RunQuery
from airflow_provider_pai.emulator import PaiEmulator
from airflow_provider_pai.waiting import listing, run_poller
from airflow_provider_pai.waiting.client import shared_client
from airflow_provider_pai.waiting.listing import NEWEST_FIRST
from airflow_provider_pai.waiting.questions import Subscription
from airflow_provider_pai.waiting.run_poller import TRUSTED_POLLS, RunPoller
from airflow_provider_pai.waiting.run_questions import RunQuestion

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
Wanted = tuple[int | None, int | None, bool]
"""Which experiment somebody waits for, and from what age on; ``None`` for any. And whether news will do."""
POLLS = st.lists(st.lists(CREATES | CHANGES, max_size=3), min_size=1, max_size=7)
WANTED = st.tuples(
    st.none() | st.integers(0, EXPERIMENTS - 1), st.none() | st.integers(0, AGES), st.booleans()
)
WAITERS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 2]), WANTED), min_size=1, max_size=6)
"""At which poll each begins to wait, and for what."""


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
        self._one_at_a_time = threading.Lock()

    def apply(self, change: Create | Change) -> None:
        """Let something happen, in the emulator and in the model; also from requests that come at once."""
        with self._one_at_a_time:
            self._apply(change)

    def _apply(self, change: Create | Change) -> None:
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


class Waiter:
    """A subscriber, and what it was told."""

    def __init__(self, world: World, wanted: Wanted) -> None:
        experiment, age, news_only = wanted
        enough = 1000 if news_only else None
        self.question = RunQuestion(world.query(experiment, age), enough, news_only=news_only)
        self.subscription = Subscription(1.0, follows_connection=False)
        self.truth = lambda: world.labelled(experiment, age).keys()
        self.seen: set[str] = set()
        self.was_told_else = False

    def knows(self) -> bool:
        """Tell whether it knows of all that is there; of what went again it need not be told."""
        return self.truth() <= self.seen and not self.was_told_else

    def take(self, *, nothing_happens: bool) -> None:
        """Read what was sent; an answer must be the truth, where nothing happened since it was asked."""
        while not self.subscription.queue.empty():
            update = self.subscription.queue.get_nowait()
            assert update is not None
            assert update.error is None
            if update.found is not None:
                found = {run.run_id for run in update.found}
                self.seen = found if update.complete else self.seen | found
                if update.complete:
                    self.was_told_else = nothing_happens and found != self.truth()


class Polled:
    """A poller whose polls the test makes, and its subscribers."""

    def __init__(self, world: World, made: RunPoller) -> None:
        self.world = world
        self.poller = made
        self.waiters: list[Waiter] = []
        self.hidden = False
        """What changed further back and cancels out in TotalCount is what nobody can know."""
        self._before: dict[str, datetime] = {}

    def join(self, wanted: Wanted) -> None:
        """Let one more subscriber wait."""
        waiter = Waiter(self.world, wanted)
        waiter.question = self.poller.add(waiter.question, waiter.subscription)
        waiter.take(nothing_happens=False)  # what the poll before this one knew
        self.waiters.append(waiter)

    def all_know(self) -> bool:
        """Tell whether everybody knows what can be known."""
        return self.hidden or all(waiter.knows() for waiter in self.waiters)

    async def poll(self, *, nothing_happens: bool = True) -> int:
        """Poll once, let everything be asked that is open, and return the number of requests."""
        asked = self.world.pai.request_counts.get("ListRuns", 0)
        made, known = self.poller, self.poller.listing.since
        await made._poll()
        depth = await self._look_further()
        for waiter in self.waiters:
            waiter.take(nothing_happens=nothing_happens)
        now = self.world.labelled()
        if self._before and made.listing.total is not None and not self._looked_at_all(made):
            listing, number = made.listing, made.number
            news = {run for run in now if now[run] >= known and listing.was_read(run, number)}
            self.hidden |= cancels_out(self._before, now, depth, news)
        self._before = now
        return await self._requests_since(asked)

    async def _requests_since(self, asked: int) -> int:
        """Count the requests of a poll; one that was cancelled on its way reaches PAI a moment later."""
        seen, known = self.world.pai.request_counts["ListRuns"], 0
        while seen - asked > 1 and seen != known:
            known = seen
            await asyncio.sleep(0.02)
            seen = self.world.pai.request_counts["ListRuns"]
        return seen - asked

    @staticmethod
    def _looked_at_all(made: RunPoller) -> bool:
        return made._trusted == 0 and made.number > 1

    async def _look_further(self) -> datetime:
        made = self.poller
        while made._back is not None:
            await made._look_further(lambda: 60.0)
        while made._asking:
            await asyncio.wait(made._asking)
            await asyncio.sleep(0)
        if not made.listing.in_order:
            return LATEST
        read = [
            run for run_id, run in made.listing.runs.items() if made.listing.was_read(run_id, made.number)
        ]
        return min((run.gmt_create_time for run in read), default=LATEST)

    async def look_at_all(self) -> None:
        """Poll as every 100th time, when nothing can stay hidden."""
        self.poller._trusted = TRUSTED_POLLS
        await self.poll()
        self.hidden = False


def cancels_out(
    before: dict[str, datetime], now: dict[str, datetime], edge: datetime, news: set[str]
) -> bool:
    """Tell whether as many came as went up to a moment, but for news, which TotalCount cannot tell."""
    came = [run for run in now.keys() - before.keys() - news if now[run] <= edge]
    went = [run for run in before.keys() - now.keys() if before[run] <= edge]
    return len(came) == len(went) > 0


@asynccontextmanager
async def polled(world: World, wanted: list[Wanted]) -> AsyncIterator[Polled]:
    async with shared_client("pai_default", None) as client:
        made = RunPoller(client, RunQuestion(world.query(0, None)))
        made._start = lambda: None  # the test polls
        seen = Polled(world, made)
        for each in wanted:
            seen.join(each)
        try:
            yield seen
        finally:
            await made.close()


@pytest.fixture(scope="module")
def served(airflow_db: None) -> Iterator[PaiEmulator]:  # noqa: F811
    """One emulator for all histories; each has a workspace of its own in it."""
    with PaiEmulator() as emulator, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRFLOW_CONN_PAI_DEFAULT", emulator.connection_uri)
        emulator.quirks.max_results = PAGE
        for room in (listing, run_poller):
            patched.setattr(room, "MOST_PAGES", listing.MOST_PAGES)
        patched.setattr(listing, "PAGE_SIZE", PAGE)  # what it reckons with
        patched.setattr("airflow_provider_pai.waiting.rate_limit.QUOTA_SECONDS", 0.0)  # counted, not timed
        yield emulator


HISTORIES = settings(suppress_health_check=[HealthCheck.too_slow])
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
    listing.MOST_PAGES = run_poller.MOST_PAGES = most
    return World(served)


def most_requests(seen: Polled) -> int:
    """What a poll may cost at the most: all pages, and then all pages for each question."""
    return (-(-len(seen.world.labelled()) // PAGE) + 1) * (1 + len(seen.waiters))


@HISTORIES
@history
@example(
    before=[Create(0, 0, True), Create(0, 0, False), Create(0, 0, True), Create(0, 0, True)],
    polls=[[Change("delete", 0), Change("label", 0), Create(0, 0, True)]],
    waiters=[(0, (None, None, True))],
    order="honoured",
    most=50,
)
@example(
    before=[
        Create(0, 0, True),
        Create(0, 0, True),
        Create(0, 0, True),
        Create(0, 0, False),
        Create(0, 0, True),
    ],
    polls=[[Change("label", 3), Change("unlabel", 0)]],
    waiters=[(0, (None, None, False))],
    order="honoured",
    most=50,
)
@example(
    before=[
        Create(0, 0, False),
        Create(0, 1, True),
        Create(0, 1, True),
        Create(0, 0, False),
        Create(0, 1, True),
    ],
    polls=[[Change("label", 0)], [Change("delete", 0), Change("label", 2), Change("unlabel", 0)]],
    waiters=[(0, (None, None, False))],
    order="honoured",
    most=50,
)
@example(
    before=[Create(0, 1, False), Create(0, 0, True), Create(0, 0, True), Create(0, 0, True)],
    polls=[[Change("label", 0), Change("unlabel", 1), Create(0, 0, True)], []],
    waiters=[(0, (None, None, False))],
    order="honoured",
    most=50,
)
@example(
    before=[
        *(Create(0, 30, True), Create(0, 12, False), Create(0, 20, False), Create(0, 14, True)),
        *(Create(0, 22, True), Create(0, 24, True), Create(0, 0, True)),
    ],
    polls=[
        [],
        [],
        [Create(0, 0, False), Create(0, 24, True), Create(0, 24, True)],
        [Change("label", 0), Create(0, 0, False), Change("delete", 35)],
        [Create(0, 32, False), Create(0, 39, True)],
        [Create(0, 23, True), Create(0, 23, True), Change("label", 41)],
        [Change("label", 0), Change("unlabel", 4)],
    ],
    waiters=[(2, (None, None, False)), (0, (None, 0, True)), (0, (None, 23, False))],
    order="honoured",
    most=50,
)
@example(
    before=[
        *(Create(1, 37, True), Create(1, 25, False), Create(1, 7, False), Create(1, 26, False)),
        *(Create(0, 37, False), Create(2, 27, True), Create(2, 34, True), Create(0, 27, True)),
        *(Create(0, 25, True), Create(0, 15, True), Create(1, 37, True), Create(0, 10, True)),
        *(Create(2, 28, False), Create(0, 1, False), Create(1, 8, True), Create(2, 35, True)),
        Create(2, 9, False),
    ],
    polls=[
        [Change("label", 36)],
        [Create(1, 22, True), Change("label", 40)],
        [Change("measure", 29), Change("label", 41)],
        [Change("measure", 54), Change("delete", 57), Create(2, 32, False)],
        [Change("unlabel", 16)],
        [],
        [Create(2, 27, False)],
    ],
    waiters=[
        *((0, (None, None, False)), (0, (None, None, True)), (1, (None, 28, False)), (1, (None, 28, False))),
        *((0, (1, 0, True)), (2, (1, 12, False))),
    ],
    order="honoured",
    most=50,
)
@pytest.mark.any_airflow
@pytest.mark.parametrize("total_count", ["given", "absent"])
def test_everybody_is_told_at_the_next_poll(served, before, polls, waiters, order, most, total_count):
    world = prepared(served, total_count, order, most)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with polled(world, []) as seen:
            for number, changes in enumerate([[], *polls]):
                for change in changes:
                    world.apply(change)
                joining = [wanted for joins, wanted in waiters if joins == number]
                for wanted in joining:
                    seen.join(wanted)
                requests = await seen.poll()
                assert seen.all_know()
                if number > 0 and not changes and not joining and total_count == "given":
                    assert requests == 1
                assert requests <= most_requests(seen)
                if seen.hidden:
                    await seen.look_at_all()
                    assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


@HISTORIES
@history
@example(
    before=[Create(0, 1, True), Create(0, 0, True)],
    polls=[[Create(0, 0, True)], [Create(0, 0, True), Change("label", 0), Change("unlabel", 0)]],
    waiters=[(0, (None, None, False))],
    order="honoured",
    most=50,
)
@example(
    before=[Create(0, 1, True), Create(0, 0, True), Create(0, 1, True)],
    polls=[[Create(0, 1, True), Change("label", 0)], [Create(0, 0, False), Create(0, 0, True)]],
    waiters=[(0, (None, None, False)), (0, (None, None, True)), (1, (None, 0, False))],
    order="honoured",
    most=50,
)
@pytest.mark.any_airflow
@pytest.mark.parametrize("total_count", ["given", "absent"])
def test_what_happens_between_two_requests_of_a_poll_is_told_in_time(
    served, before, polls, waiters, order, most, total_count
):
    world = prepared(served, total_count, order, most)
    for change in before:
        world.apply(change)

    async def story() -> None:
        async with polled(world, []) as seen:
            pending: list[Create | Change] = []
            for number, changes in enumerate(polls):
                pending[:] = changes
                for wanted in [wanted for joins, wanted in waiters if joins == number]:
                    seen.join(wanted)
                served.before_request(lambda *_: pending and world.apply(pending.pop(0)))
                await seen.poll(nothing_happens=False)
                served.before_request(None)
                for change in pending:
                    world.apply(change)
            await seen.poll()
            await seen.poll()
            if total_count == "given":  # what cancels out shows with time
                await seen.look_at_all()
            assert seen.all_know()

    asyncio.run(asyncio.wait_for(story(), 60))


EVERYBODY: list[Wanted] = [(experiment, age, False) for experiment in (0, 1) for age in range(10)]
"""Twenty who ask different questions, for any of which a late label may matter."""


def labelled_history(served: PaiEmulator, most: int = 50, total_count: str = "given") -> World:
    """Thirty runs, ten pages, all created since the windows of EVERYBODY began.

    Two of them are awaited, and have no label yet.
    """
    world = prepared(served, total_count, "honoured", most)
    for age in range(10, 40):
        awaited = age in (12, 33)
        world.apply(Create(1 if awaited else 2, age, not awaited))
    return world


LATE, LATER = Change("label", 23), Change("label", 2)


def story_of(world: World, wanted: list[Wanted]):
    """Let a test be a coroutine that gets the poller and its subscribers."""

    def run(story) -> None:
        async def told() -> None:
            async with polled(world, wanted) as seen:
                await story(seen)

        asyncio.run(asyncio.wait_for(told(), 60))

    return run


@pytest.mark.parametrize("then", ["something else changes", "nothing changes any more"])
def test_what_cancels_out_further_back_shows_with_the_next_change_or_in_time(served, monkeypatch, then):
    monkeypatch.setattr(run_poller, "TRUSTED_POLLS", 5)
    world = prepared(served, "given", "honoured", 50)
    for age in range(20, 40):
        world.apply(Create(0, age, True))
    world.apply(Create(1, 1, False))
    world.apply(Create(1, 2, False))

    @story_of(world, [(1, None, False)])
    async def _(seen: Polled) -> None:
        (waiter,) = seen.waiters
        await seen.poll()
        world.apply(Change("label", 20))
        world.apply(Change("unlabel", 0))
        assert await seen.poll() == 1
        assert waiter.seen == set()
        if then == "something else changes":
            world.apply(Change("label", 21))
            await seen.poll()
        else:
            assert [await seen.poll() for _ in range(4)] == [1, 1, 1, 1]
            assert await seen.poll() > 1
        assert waiter.seen == waiter.truth() != set()


def test_what_the_newest_page_explains_costs_no_look_further_back(served):
    world = prepared(served, "given", "honoured", 50)
    for age in range(20, 35):
        world.apply(Create(0, age, True))

    @story_of(world, [(1, None, False), (2, 5, False)])
    async def _(seen: Polled) -> None:
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
        assert all(waiter.seen == waiter.truth() for waiter in seen.waiters)


def test_pages_are_read_back_to_the_late_label_and_no_further(served):
    world = labelled_history(served)

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        assert await seen.poll() == 10  # all pages: fewer than there are questions
        world.apply(LATE)
        assert await seen.poll() == 3  # six are newer
        world.apply(Change("unlabel", 23))
        assert await seen.poll() == 3
        world.apply(Create(2, 20, True))
        assert await seen.poll() == 7  # 18 are newer
        assert await seen.poll() == 1
        assert seen.all_know()


def test_who_joins_is_told_what_others_have_asked_for_themselves(served):
    world = prepared(served, "given", "honoured", 50)
    for age in (26, 28, 30):
        world.apply(Create(0, age, True))
    world.apply(Create(1, 27, False))

    @story_of(world, [(0, None, False)])
    async def _(seen: Polled) -> None:
        await seen.poll()
        for age in (38, 39, 40):
            world.apply(Create(0, age, True))
        await seen.poll()  # all down to minute 26 is known, and the newest page ends at minute 38
        world.apply(Change("label", 3))
        await seen.poll()  # the one who waits asks, which costs less than to read back
        seen.join((1, 27, False))
        await seen.poll()
        assert all(waiter.knows() for waiter in seen.waiters)
        assert seen.waiters[1].seen


def test_a_label_further_back_than_anybody_has_read_is_told(served):
    world = labelled_history(served)

    @story_of(world, [(1, None, False)])
    async def _(seen: Polled) -> None:
        assert await seen.poll() == 2  # one page, and the only question: fewer than all pages
        world.apply(LATER)
        for wanted in EVERYBODY:
            seen.join(wanted)
        assert await seen.poll() <= 10 + 2  # all pages, and who waits longer than they were known asks
        assert all(waiter.seen == waiter.truth() for waiter in seen.waiters)


def test_a_label_that_is_set_while_pages_are_read_sends_nobody_further_back(served):
    world = labelled_history(served)

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        await seen.poll()
        world.apply(LATE)
        third = served.request_counts["ListRuns"] + 3
        # TotalCount of the newest page does not know of this one, which the third page shows.
        served.before_request(lambda _, count: count == third and world.apply(Create(0, 33, True)))
        assert await seen.poll(nothing_happens=False) == 3
        served.before_request(None)
        assert await seen.poll() == 1
        assert seen.all_know()


def test_a_label_that_is_set_while_a_lost_one_is_looked_for_is_told(served):
    world = labelled_history(served)

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        await seen.poll()
        world.apply(Change("unlabel", 1))
        second = served.request_counts["ListRuns"] + 2

        def meanwhile(*_: object) -> None:
            if served.request_counts["ListRuns"] == second:
                world.apply(LATER)

        served.before_request(meanwhile)
        await seen.poll(nothing_happens=False)
        served.before_request(None)
        await seen.poll()
        assert seen.all_know()


def test_without_total_count_the_pages_that_the_windows_need_are_read_each_interval(served):
    world = labelled_history(served, total_count="absent")

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        for change in (None, LATE, LATER, None):
            if change:
                world.apply(change)
            assert await seen.poll() in (10, 11)
            assert seen.all_know()


def test_without_total_count_few_questions_are_asked_themselves(served):
    world = labelled_history(served, total_count="absent")

    @story_of(world, EVERYBODY[:3])
    async def _(seen: Polled) -> None:
        await seen.poll()
        for change in (None, LATE, LATER, None):
            if change:
                world.apply(change)
            assert await seen.poll() == 1 + 3
            assert seen.all_know()


def test_a_new_subscriber_is_told_from_what_was_read_before(served):
    world = labelled_history(served)

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        await seen.poll()
        for wanted, cost in (((1, 3, False), 0), ((2, 35, False), 2)):
            waiter = Waiter(world, wanted)
            waiter.question = seen.poller.add(waiter.question, waiter.subscription)
            seen.waiters.append(waiter)
            # Where runs match, PAI is asked what was logged to them since.
            assert await seen.poll() == 1 + cost
            assert waiter.knows()


def test_a_listing_holds_no_more_than_its_pages(served):
    world = labelled_history(served, most=4)

    @story_of(world, EVERYBODY)
    async def _(seen: Polled) -> None:
        for age in range(32, 40):
            await seen.poll()
            kept = seen.poller.listing
            assert len(kept.runs) == len(kept._order) == len(kept._read_at) <= 4 * PAGE
            assert seen.all_know()
            world.apply(Create(2, age, True))
        world.apply(LATER)  # further back than it shows
        await seen.poll()
        assert seen.all_know()


def test_where_many_ask_in_vain_the_next_late_label_is_found_by_pages(served):
    world = prepared(served, "given", "honoured", 6)
    for age in range(10, 40):
        world.apply(Create(2, age, True))
    for age in (1, 32):
        world.apply(Create(1, age, False))

    @story_of(world, [(1, None, False), *((0, age, False) for age in range(10))])
    async def _(seen: Polled) -> None:
        assert await seen.poll() == 6 + 11  # all pages that a listing holds, and eleven questions
        world.apply(Change("label", 30))
        assert await seen.poll() == 6 + 11
        assert seen.all_know()
        world.apply(Change("label", 31))
        assert await seen.poll() == 3 + 1  # the one whose run it is asks
        assert seen.all_know()


def test_waits_for_runs_by_their_ids_share_the_poll(served):
    world = labelled_history(served)
    late = list(world.runs)[LATE.index]

    @story_of(world, [])
    async def _(seen: Polled) -> None:
        of: dict[str, Subscription] = {}
        for run_id, run in world.runs.items():
            query = RunQuery(
                workspace_id=world.workspace_id,
                labels=LABEL,
                run_id=(run_id,),
                created_after=run.created,
                order_by=NEWEST_FIRST,
            )
            of[run_id] = Subscription(1.0, follows_connection=False)
            seen.poller.add(RunQuestion(query, 100), of[run_id])
        assert await seen.poll() == 10  # all pages, and no GetRun
        assert served.request_counts.get("GetRun", 0) == 0
        for run_id, subscription in of.items():
            update = subscription.queue.get_nowait()
            assert [run.run_id for run in update.found] == [run_id] * world.runs[run_id].labelled
        world.apply(LATE)
        assert await seen.poll() == 3  # the pages down to it
        assert [run_id for run_id, subscription in of.items() if not subscription.queue.empty()] == [late]
        assert served.request_counts.get("GetRun", 0) == 0


def test_equal_questions_are_asked_once(served):
    world = labelled_history(served)

    @story_of(world, [(1, None, False)] * 7)
    async def _(seen: Polled) -> None:
        assert await seen.poll() == 1 + 1
        world.apply(LATE)
        assert await seen.poll() == 1 + 1
        assert seen.all_know()


@pytest.mark.parametrize(("index", "cost"), [(30, 0), (0, 1)])
def test_runs_to_which_values_may_be_logged_cost_one_question_where_they_are_old(served, index, cost):
    world = labelled_history(served)
    world.apply(Create(1, 40, True))
    world.apply(Change("label", 2))
    run_id = list(world.runs)[30 if cost == 0 else 2]

    @story_of(world, [(1, None, False)] * 5)
    async def _(seen: Polled) -> None:
        await seen.poll()
        for waiter in seen.waiters:
            waiter.subscription.pending = [run_id]
        for _ in range(3):
            assert await seen.poll() == 1 + cost
