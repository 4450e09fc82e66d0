"""The poll for runs of one workspace with the same labels.

Each interval it asks for the newest page, and sends each subscriber what concerns them. What that page leaves
open is answered with as few requests as possible: by reading pages back, or by asking a question exactly.
:mod:`airflow_provider_pai.waiting` draws the whole path.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from airflow_provider_pai.api import PaiError, RunQuery, list_runs
from airflow_provider_pai.api.flow import Flow, call
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.operations import page_request
from airflow_provider_pai.waiting.client import SharedClient, apart
from airflow_provider_pai.waiting.listing import MOST_PAGES, NEWEST_FIRST, Listing, ReadingBack
from airflow_provider_pai.waiting.poller import Poller
from airflow_provider_pai.waiting.questions import Subscription, UnforeseenError, Update
from airflow_provider_pai.waiting.run_questions import RunQuestion, RunQuestions
from airflow_provider_pai.waiting.trigger import PollingTrigger

__all__ = ["RunPoller", "run_updates"]

log = logging.getLogger(__name__)

TRUSTED_POLLS = 100
"""After so many polls everything is read again: changes may cancel out in TotalCount."""
STEP_SECONDS = 1.0
"""How soon a shorter interval is noticed while a page is awaited."""


class RunPoller(Poller[RunQuestion]):
    """Polls for all subscribers of one workspace and label."""

    questions: RunQuestions

    def __init__(self, client: SharedClient, question: RunQuestion) -> None:
        super().__init__(client, question)
        self.questions = RunQuestions()
        self.listing = Listing()
        self.number = 0
        labels = dict(question.query.label_items) or None
        self._query = RunQuery(workspace_id=question.workspace_id, labels=labels, order_by=NEWEST_FIRST)
        self._back: ReadingBack | None = None
        self._changed_meanwhile = False
        self._trusted = 0
        self._asking: set[asyncio.Task[None]] = set()

    def under_way(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of requests beside the poll."""
        reading = self._back.task if self._back else None
        return [*self._asking, *([reading] if reading is not None else [])]

    async def poll(self, seconds_left: Callable[[], float]) -> None:
        """Read the newest page, and what it leaves open."""
        await self._poll()
        await self._look_further(seconds_left)

    # --- the newest page ----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Read the newest page, pass its news to the questions, and note what it leaves open."""
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

    def _may_be_measured(self, question: RunQuestion) -> bool:
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
        """Answer the questions for which the pages that were read are enough."""
        for question in self.questions:
            if question.doubted and self.listing.covers(question.query, question.enough, back.below):
                question.doubted = False  # the news on these pages were passed on
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
        # Where so many would query, the change may be on the pages that are kept: if not now, then next time.
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
            self.listing.accept()  # the rest lies further back, where each question is asked by itself
        self._back = None

    # --- a question of its own ----------------------------------------------------------------------------

    def _ask(self, question: RunQuestion) -> None:
        """Ask PAI just this question, unless that is under way."""
        if question.task is not None and question.due and not question.in_flight and not question.sign:
            question.stop_asking()  # it waits among those for which there is no hurry
        if question.task is None:
            question.sign = question.due
            question.task = apart(self._answer(question))
            self._asking.add(question.task)
            question.task.add_done_callback(self._asking.discard)

    async def _answer(self, question: RunQuestion) -> None:
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
            update = Update(found=runs, complete=True)
        except PaiError as error:
            question.due, update = True, Update(error=error)
        except Exception as error:
            log.exception("A query failed with an unexpected error.")
            question.due, update = True, Update(error=UnforeseenError(f"{type(error).__name__}: {error}"))
        question.task, question.in_flight = None, False
        question.send(update)


def run_updates(
    trigger: PollingTrigger, query: RunQuery, enough: int | None, *, news_only: bool = False
) -> AsyncGenerator[tuple[Update, Subscription], None]:
    """Yield what concerns a trigger that waits for runs, for ever.

    The workspace is the query's own, or else the one that the connection names at any time.
    """

    def question(workspace_id: str | None) -> RunQuestion:
        located = msgspec.structs.replace(query, workspace_id=workspace_id)
        return RunQuestion(located, enough, news_only=news_only)

    return trigger.updates(query.workspace_id, RunPoller, question)
