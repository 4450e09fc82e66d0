"""Move labels to a run, so that one run always carries each label.

The order of the steps keeps that promise, whatever fails and whoever promotes at the same time. A promotion
first lists the runs that carry the label now. Then it labels the winner, and reads it to check the label.
Only then it removes the label from the listed runs. A failure leaves at worst both old and new runs with the
label, and a repeated promotion ends with the winner alone. Of two promotions at the same time at most one can
have listed the other's winner, so at least one winner keeps the label.

Source: the vendor's API pages for GetRun, ListRuns, UpdateRun and DeleteRunLabel of AIWorkSpace 2021-02-04.
"""

from __future__ import annotations

import msgspec

from airflow_provider_pai.api.errors import (
    PaiError,
    PaiLabelNotSeenError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiUsageError,
)
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.operations import get_run, list_runs, remove_label, set_run_labels
from airflow_provider_pai.api.query import Labels, RunQuery, parse_labels

__all__ = ["Promotion", "promote_run"]


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion changed: nothing, where ``promoted`` is False and ``demoted_run_ids`` is empty."""

    run_id: str
    labels: dict[str, str]
    promoted: bool
    """Whether the run got a label now. False if it carried all of them before."""
    demoted_run_ids: list[str]


def promote_run(run_id: str, labels: Labels, *, among: RunQuery | None = None) -> Flow[Promotion]:
    """Set ``labels`` on a run, then remove them from the other runs that ``among`` matches.

    ``among`` may name an experiment or other labels; without a workspace it means the run's own. Labels that
    are not named stay as they are, whether PAI merges or replaces labels.

    :raises PaiUsageError: ``among`` does not match the run itself; nothing was changed.
    :raises PaiNotFoundError: there is no such run, and nothing was changed; or PAI does not find a label
        that it shows, and that run keeps it.
    :raises PaiLabelNotSeenError: a label was set but does not show; no other run has lost it.
    """
    wanted = parse_labels(labels)
    if not wanted:
        raise PaiUsageError("there is no label to move; name one, such as 'champion:true'.")
    among = among or RunQuery()
    winner = yield from get_run(run_id)
    if not among.matches(winner):
        raise PaiUsageError(
            f"The run {run_id!r} does not match the filters of the runs of which one carries {wanted}, so "
            "none of them would carry it afterwards. Name another run, or change the filters."
        )
    holders: dict[str, list[Run]] = {}
    for key, value in wanted.items():
        holders[key] = yield from list_runs(_carrying(key, value, among, winner))
    promoted = not _carries(winner, wanted)
    if promoted:
        yield from set_run_labels(run_id, wanted)
        seen = yield from get_run(run_id)
        if not _carries(seen, wanted):
            raise PaiLabelNotSeenError(
                f"GetRun: the run {run_id} was given {wanted} but shows {seen.labels}; promote it again",
                status=200,
            )
    demoted = [(run.run_id, key) for key, runs in holders.items() for run in runs if run.run_id != run_id]
    for holder_id, key in demoted:
        yield from _demote(holder_id, key, wanted[key])
    ids = list(dict.fromkeys(holder_id for holder_id, _ in demoted))
    return Promotion(run_id=run_id, labels=wanted, promoted=promoted, demoted_run_ids=ids)


def _carrying(key: str, value: str, among: RunQuery, winner: Run) -> RunQuery:
    labels = {**dict(among.label_items), key: value}
    workspace_id = among.workspace_id or winner.workspace_id
    return msgspec.structs.replace(among, labels=labels, workspace_id=workspace_id)


def _carries(run: Run, labels: dict[str, str]) -> bool:
    return labels.items() <= run.labels.items()


def _demote(run_id: str, key: str, value: str) -> Flow[None]:
    refused: PaiError
    try:
        if (yield from remove_label(run_id, key)):
            return
        refused = PaiNotJsonError(
            f"DeleteRunLabel: the answer is empty, and the run {run_id} still carries {key}:{value}. Usually "
            "a proxy or gateway answered instead of PAI",
            status=200,
        )
    except PaiNotFoundError as error:
        # The label, or the run, is gone already; or a gateway on the way does not know such an address.
        refused = error
    try:
        run = yield from get_run(run_id)
    except PaiNotFoundError:
        return
    if _carries(run, {key: value}):
        raise refused
