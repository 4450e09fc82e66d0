"""The poll for the versions of one model.

Any version may be approved at any time, and neither a page nor TotalCount shows that. So each poll reads all
versions of the model, 100 in a request. All that wait for a version of the model share the poll.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable

from airflow_provider_pai.api import PaiError, PaiModelNotFoundError
from airflow_provider_pai.registry.condition import (
    ModelVersions,
    VersionCondition,
    read_versions,
    with_version,
)
from airflow_provider_pai.waiting.client import SharedClient
from airflow_provider_pai.waiting.poller import Poller
from airflow_provider_pai.waiting.questions import Question, Questions, Subscription, Update
from airflow_provider_pai.waiting.trigger import PollingTrigger

__all__ = ["VersionPoller", "VersionQuestion", "version_updates"]


POLLS_OF_A_NAME = 10
"""How many polls take a model for the one that has the name; models can be renamed."""


class VersionQuestion(Question):
    """Which versions a model has, and among them one that has to exist."""

    def __init__(self, condition: VersionCondition, workspace_id: str | None) -> None:
        subject = condition.model_id, condition.model_name
        super().__init__(workspace_id, subject, condition.named)
        self.condition = condition
        self._told: ModelVersions | None = None

    def answer(self, found: ModelVersions) -> None:
        """Send the subscribers what they do not know yet."""
        if found != self._told or not all(each.answered for each in self.subscriptions):
            self._told = found
            self.send(Update(found=found, complete=True))
        elif self.failed:
            self.send(Update())


class VersionPoller(Poller[VersionQuestion]):
    """Polls for all subscribers of one model."""

    def __init__(self, client: SharedClient, question: VersionQuestion) -> None:
        super().__init__(client, question)
        self.questions = Questions()
        self._condition = question.condition
        self._of_name: str | None = None
        """The id of the model that has the name."""
        self._number = 0

    async def poll(self, seconds_left: Callable[[], float]) -> None:
        """Read all versions, and send each subscriber what is new to them."""
        found = await self._read()
        for question in self.questions:
            try:
                named = functools.partial(with_version, found, question.condition.named)
                question.answer(await self._client.run(named, lambda limit: limit.polls))
            except PaiError as error:
                question.send(Update(error=error))

    async def _read(self) -> ModelVersions:
        if self._number % POLLS_OF_A_NAME == 0:
            self._of_name = None
        self._number += 1
        flow = functools.partial(
            read_versions,
            model_id=self._condition.model_id or self._of_name,
            model_name=self._condition.model_name,
            workspace_id=self._workspace_id,
        )
        try:
            found = await self._client.run(flow, lambda limit: limit.polls)
        except PaiModelNotFoundError:
            if self._condition.model_id or self._of_name is None:
                raise
            self._of_name = None  # it was deleted, and there may be another of its name
            return await self._read()
        self._of_name = found.model_id if found.versions else None
        return found


def version_updates(
    trigger: PollingTrigger, condition: VersionCondition
) -> AsyncGenerator[tuple[Update, Subscription], None]:
    """Yield what concerns a trigger that waits for versions, for ever."""
    question = functools.partial(VersionQuestion, condition)
    return trigger.updates(condition.workspace_id, VersionPoller, question)
