"""One poll for everybody who waits for runs of one workspace with the same labels.

A poller owns a task that belongs to no trigger. Each interval it asks for the newest page, and sends each
subscriber what concerns them. What that page leaves open is answered with as few requests as possible: by
reading pages back, or by asking a question exactly. :mod:`airflow_provider_pai.waiting` draws the whole path.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import msgspec

from airflow_provider_pai.api import PaiError, RunQuery, list_runs
from airflow_provider_pai.api.flow import Flow, call
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.operations import page_request
from airflow_provider_pai.waiting.client import SharedClient, apart
from airflow_provider_pai.waiting.listing import MOST_PAGES, NEWEST_FIRST, Listing, ReadingBack
from airflow_provider_pai.waiting.questions import Question, Questions, Subscription, UnforeseenError, Update

__all__ = ["Poller", "subscribe"]

log = logging.getLogger(__name__)

TRUSTED_POLLS = 100
"""After so many polls everything is looked at again: changes may cancel out in TotalCount."""
GATHERING_SECONDS = 1.0
"""How long the first poll waits for others to subscribe, such as all waits of a restarted triggerer."""
STEP_SECONDS = 1.0
"""How soon a shorter interval is noticed while a page is awaited."""


class Poller:
    """Polls for all subscribers of one workspace and label."""

    def __init__(self, client: SharedClient, workspace_id: str | None, labels: dict[str, str]) -> None:
        self.questions = Questions()
        self.listing = Listing()
        self.number = 0
        self._client = client
        self._workspace_id = workspace_id
        self._query = RunQuery(workspace_id=workspace_id, labels=labels or None, order_by=NEWEST_FIRST)
        self._back: ReadingBack | None = None
        self._changed_meanwhile = False
        self._trusted = 0
        self._subscribed = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, question: Question, subscription: Subscription) -> Question:
        """Begin to tell somebody what concerns a question; the first one starts the polls."""
        question = self.questions.add(question, subscription)
        self._subscribed.set()
        if self._task is None:
            self._start()
        return question

    async def close(self) -> None:
        """Stop, and wait until nothing of it is left."""
        self._closed = True
        reading = self._back.task if self._back else None
        left = [task for task in (self._task, reading, *self._asking) if task is not None]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        if reading is not None and not reading.cancelled():
            reading.exception()  # nobody is left to hear of it

    def _start(self) -> None:
        self._task = apart(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start again what ended although somebody waits: they would never be told anything."""
        if not self._closed:
            error = None if task.cancelled() else task.exception()
            log.error("The polls for %s ended and are started again.", self._query.labels, exc_info=error)
            self._start()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(min(GATHERING_SECONDS, self.questions.interval / 2))
        # Pollers that started together go their own ways from the second poll on.
        share = random.random()
        while True:
            started = clock()
            left = functools.partial(self._seconds_left, started, share)
            self._subscribed.clear()
            try:
                await self._poll()
                await self._look_further(left)
            except PaiError as error:
                self.questions.fail(error)
            except Exception as error:
                log.exception("A poll failed in an unforeseen way.")
                self.questions.fail(UnforeseenError(f"{type(error).__name__}: {error}"))
            while (seconds := left()) > 0:  # whoever subscribes may want a shorter interval
                # Not asyncio.wait_for: before Python 3.12 it may lose a cancellation.
                due = asyncio.get_running_loop().call_later(seconds, self._subscribed.set)
                try:
                    await self._subscribed.wait()
                finally:
                    due.cancel()
                self._subscribed.clear()
            share = 1.0

    def _seconds_left(self, started: float, share: float) -> float:
        return started + self.questions.interval * share - asyncio.get_running_loop().time()

    # --- the newest page ----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Read the newest page, tell whom it concerns, and note what it leaves open."""
        self._send_away((await self._client.settings()).workspace_id)
        page = await self._newest_page()
        self.number += 1
        first, before = self.number == 1, self.listing.discrepancy
        self.questions.tell(self.listing.take_newest(page, self.number))
        counted = self.listing.discrepancy
        sign = first or counted not in (None, 0)
        unknown = sign or counted is None or self._trusted >= TRUSTED_POLLS
        if self._back is not None:  # what it has passed already is read again once it is done
            self._changed_meanwhile |= counted is None or counted != before
            unknown = False
        else:
            unknown |= self._changed_meanwhile
            self._changed_meanwhile = False
            self._back = ReadingBack(
                page,
                self.listing.reach(page),
                sign=sign,
                discrepancy=counted or 0,
                changed=unknown and counted is not None,
            )
        self._trusted = 0 if unknown else self._trusted + 1
        below = self.listing.reach(page)
        for question in self.questions:
            if not self.listing.covers(question.query, question.enough, below):
                question.doubted |= (unknown and not first) or self._may_be_measured(question)

    async def _newest_page(self) -> RunPage:
        """Return the newest page, and in one with it as many more as were filled since the last poll."""
        page = await self._client.run(self._page(), lambda limit: limit.polls)
        runs, last, pages = list(page.runs), page, 1
        while last.next_token and self.listing.is_newer(last) and pages < MOST_PAGES:
            last = await self._client.run(self._page(last.next_token), lambda limit: limit.beyond)
            known = {run.run_id for run in runs}
            runs += [run for run in last.runs if run.run_id not in known]
            pages += 1
        return msgspec.structs.replace(page, runs=runs, next_page_token=last.next_page_token)

    def _page(self, token: str = "") -> Callable[[], Flow[RunPage]]:
        return functools.partial(call, page_request(self._query, NEWEST_FIRST, token=token), RunPage)

    def _send_away(self, workspace_id: str | None) -> None:
        """End the subscriptions that follow the connection, where it names another workspace now."""
        if workspace_id != self._workspace_id:
            for question in self.questions:
                for subscription in question.subscriptions:
                    if subscription.follows_connection:
                        subscription.queue.put_nowait(None)

    def _may_be_measured(self, question: Question) -> bool:
        """Tell whether values may have been logged to awaited runs that were not read in this poll."""
        return any(
            not self.listing.was_read(run_id, self.number)
            for subscription in question.subscriptions
            for run_id in subscription.pending
        )

    # --- what the newest page leaves open -----------------------------------------------------------------

    async def _look_further(self, seconds_left: Callable[[], float]) -> None:
        """Read pages back while that costs less than asking, and ask what pages do not answer."""
        back = self._back
        while back is not None:
            await self._answer_from_pages(back)
            pages = self._pages_worth_reading(back)
            for question in self.questions:
                if not question.open:
                    continue
                in_reach = self.listing.pages_to(question.query, question.enough) <= pages
                if pages == back.pages or (not in_reach and (question.due or not back.sign)):
                    self._ask(question)
            if pages == back.pages:
                self._end_reading(back)
                return
            try:
                page = await self._next_page(back, seconds_left)
            except PaiError as error:
                for question in self.questions:
                    if question.open:
                        question.send(Update(error=error))
                return
            if page is None:
                return  # the next poll is due
            self._take_next(back, page)

    async def _answer_from_pages(self, back: ReadingBack) -> None:
        """Answer what the pages that were read answer."""
        for question in self.questions:
            if question.doubted and self.listing.covers(question.query, question.enough, back.below):
                question.doubted = False  # whom news on these pages concern was told
            if question.due and not question.doubted and question.subscriptions:
                fresh = 0 if question.news_only else self.number
                runs = self.listing.answer(question.query, question.enough, fresh)
                if runs is not None:
                    question.answer(runs)
                    await asyncio.sleep(0)  # a thousand answers at once would stall the event loop
            if not question.open:
                question.settle()

    def _pages_worth_reading(self, back: ReadingBack) -> int:
        """Return how many pages to read, those read included, for the fewest requests in all."""
        if not back.token or not self.listing.in_order or back.pages >= MOST_PAGES:
            return back.pages
        wanted, doubted_further_back = [], 0
        for question in self.questions:
            if question.open:
                pages = max(self.listing.pages_to(question.query, question.enough), back.pages + 1)
                wanted.append(pages)
                doubted_further_back += question.doubted and pages > MOST_PAGES
        best, least = back.pages, float(len(wanted))
        for answered, pages in enumerate(sorted(wanted), 1):
            cost = pages - back.pages + len(wanted) - answered
            if pages <= MOST_PAGES and cost < least:
                best, least = int(pages), cost
        # Where so many would ask, the change may be among pages that are kept: if not now, then next time.
        return MOST_PAGES if back.sign and doubted_further_back > MOST_PAGES else best

    async def _next_page(self, back: ReadingBack, seconds_left: Callable[[], float]) -> RunPage | None:
        """Return the next page, or ``None`` where the next poll is due before it comes."""
        if back.task is None:
            lane = (lambda limit: limit.beyond) if back.sign else (lambda limit: limit.without_a_sign)
            back.task = apart(self._client.run(self._page(back.token), lane))
        while not back.task.done():
            if (seconds := seconds_left()) <= 0:
                return None
            await asyncio.wait({back.task}, timeout=min(seconds, STEP_SECONDS))
        task, back.task = back.task, None
        return task.result()

    def _take_next(self, back: ReadingBack, page: RunPage) -> None:
        if page.total_count is not None and page.total_count < (back.total or 0):
            back.token = ""  # a run may have been skipped, so what follows would prove nothing
            return
        adjoins = page.total_count is not None and page.total_count == back.total
        news = self.listing.take_next(page, self.number, back.below, back.border, adjoins=adjoins)
        self.questions.tell(news)
        back.passed(page, self.listing.reach(page, back.below))
        back.found_all = self.listing.explains(back.discrepancy)
        if back.found_all:
            for question in self.questions:
                question.doubted = question.doubted and self._may_be_measured(question)

    def _end_reading(self, back: ReadingBack) -> None:
        if not back.found_all:
            if back.changed:
                self.listing.forget_below(back.below)  # it may be anywhere there
            self.listing.accept()  # the rest lies further back, where everybody asks for themselves
        self._back = None

    # --- a question of its own ----------------------------------------------------------------------------

    def _ask(self, question: Question) -> None:
        """Ask PAI just this question, unless that is under way."""
        if question.task is not None and question.due and not question.in_flight and not question.sign:
            question.stop_asking()  # it waits among those for which there is no hurry
        if question.task is None:
            question.sign = question.due
            question.task = apart(self._answer(question))
            self._asking.add(question.task)
            question.task.add_done_callback(self._asking.discard)

    async def _answer(self, question: Question) -> None:
        def from_now_on() -> None:
            question.in_flight = True
            question.due = question.doubted = False  # what happens from now on is not in the answer

        try:
            runs = await self._client.run(
                functools.partial(list_runs, question.query, max_runs=question.enough),
                lambda limit: limit.beyond if question.sign else limit.without_a_sign,
                before_asking=from_now_on,
            )
            if question.enough is None or len(runs) < question.enough:
                self.listing.compare(question.query, runs)
            update = Update(runs=runs, complete=True)
        except PaiError as error:
            question.due, update = True, Update(error=error)
        except Exception as error:
            log.exception("A question failed in an unforeseen way.")
            question.due, update = True, Update(error=UnforeseenError(f"{type(error).__name__}: {error}"))
        question.task, question.in_flight = None, False
        question.send(update)


_pollers: WeakKeyDictionary[SharedClient, dict[object, Poller]] = WeakKeyDictionary()


@asynccontextmanager
async def subscribe(
    client: SharedClient, workspace_id: str | None, question: Question, subscription: Subscription
) -> AsyncIterator[None]:
    """Send a subscriber what concerns a question, over the poll of all who wait for the same labels."""
    of_client = _pollers.setdefault(client, {})
    labels = dict(question.query.label_items)
    key = workspace_id, tuple(labels.items())
    poller = of_client.get(key)
    if poller is None:
        poller = of_client[key] = Poller(client, workspace_id, labels)
    question = poller.add(question, subscription)
    try:
        yield
    finally:
        poller.questions.remove(question, subscription)
        if not poller.questions:
            del of_client[key]
            if not of_client:
                _pollers.pop(client, None)
            await poller.close()
