"""Start a DAG when a version of a model is approved: a trigger for Airflow's AssetWatcher (Airflow 3.0 on).

What a restart may repeat or miss: :mod:`airflow_provider_pai.waiting.announcing`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from airflow_provider_pai.api.model_records import ModelVersion
from airflow_provider_pai.registry.condition import QUESTION, VersionCondition
from airflow_provider_pai.registry.poller import version_updates
from airflow_provider_pai.waiting.announcing import AnnouncingTrigger, Match, watched_asset
from airflow_provider_pai.waiting.condition import interval_seconds

__all__ = ["PaiModelVersionEventTrigger", "pai_model_asset"]


class PaiModelVersionEventTrigger(AnnouncingTrigger):
    """Fire whenever a version of a model gets an approval: for ``AssetWatcher(name=…, trigger=…)``.

    One event for each version, with the payload ``{"version": {model_name, model_id, version_name,
    approval_status, uri, run_id, version_description, labels, metrics}}``. The trigger never ends by
    itself: a poll that fails is logged, and the next one follows an interval later. A version is announced
    once, even if its approval is taken back and given again. What a restart may repeat or miss:
    :mod:`airflow_provider_pai.waiting.announcing`.

    :param model_name: the model's name; the model need not exist yet.
    :param model_id: the model's id, instead of its name.
    :param labels: labels that a version must carry, as a dict or as ``"key:value,key:value"``.
    :param approval: ``Approved``, ``Rejected`` or ``Pending``, which a new version is.
    :param poke_interval: time between polls, in seconds or as a timedelta; all triggers and sensors of the
        same model share them.
    :raises PaiUsageError: when the DAG is parsed: arguments that make no sense.
    """

    question = QUESTION

    def __init__(
        self,
        *,
        model_name: str | None = None,
        model_id: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        approval: str = "Approved",
        pai_conn_id: str = "pai_default",
        region: str | None = None,
        workspace_id: str | None = None,
        poke_interval: float | timedelta = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model_name = model_name
        self.model_id = model_id
        self.labels = labels
        self.approval = approval
        self.pai_conn_id = pai_conn_id
        self.region = region
        self.workspace_id = workspace_id
        self.poke_interval = interval_seconds(poke_interval)
        self.condition()  # a mistake shows when the DAG is parsed

    def condition(self) -> VersionCondition:
        """Return which versions to announce."""
        names = ("model_name", "model_id", "labels", "approval", "workspace_id")
        return VersionCondition.of(**self.given(names), on_rejected="wait")

    async def matches(self) -> AsyncGenerator[list[Match], None]:
        """Yield the versions that have the approval, whenever one of the model changes."""
        condition = self.condition()
        async with aclosing(version_updates(self, condition)) as updates:
            async for update, _ in updates:
                if update.error is not None:
                    self.log.warning("Poll failed, the next one follows: %s", update.error)
                if update.found is None:
                    continue
                yield [
                    Match(
                        _identity(version), version.gmt_create_time, condition.record(update.found, version)
                    )
                    for version in condition.approved(update.found)
                ]

    def payloads(self, news: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the payloads of the events that announce these versions."""
        return [{"version": record} for record in news]


def _identity(version: ModelVersion) -> str:
    """Return what tells a version from a later one of its name."""
    created = version.gmt_create_time
    return f"{version.version_name}@{int(created.timestamp()) if created else ''}"


def pai_model_asset(name: str, **watched: Any) -> Any:
    """Return an asset that is updated whenever a version of a model is approved, for ``schedule=[…]``.

    :param name: the asset's name.
    :param watched: the arguments of :class:`PaiModelVersionEventTrigger`.
    """
    return watched_asset(name, PaiModelVersionEventTrigger(**watched))
