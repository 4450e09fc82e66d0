"""Who waits for what, and what is there already: the same for every contestant.

Two hundred experiments are evaluated every day, and five DAGs wait for each. When the waits begin, 2,000
runs of the day carry the label already, all of other experiments, whose waits are over; the 98,000 before
them belong to the awaited experiments and to earlier days. So every wait is open, and a wait has to look
past the newest page as soon as its window begins earlier than that page.
"""

from __future__ import annotations

import random
from datetime import datetime, timezone
from typing import Any, NamedTuple

LABEL = "is_evaluation:true"
EXPERIMENTS = 200
OTHERS = 800
HISTORY = 100_000
TODAY = 2_000
DAY_SECONDS = 12 * 3600.0
EARLIER_SECONDS = 50 * 24 * 3600.0


class Record(NamedTuple):
    """What the server knows of a labelled run; they sort by time of creation."""

    created: float
    number: int
    experiment: str
    name: str


class Scene(NamedTuple):
    """How far back the waits look: ``window`` in seconds before now, ``None`` for all time."""

    name: str
    window: float | None
    meaning: str
    total_count: bool = True
    interval: float = 0.0
    """The shortest that the rate limit allows for."""


SCENES = {
    scene.name: scene
    for scene in (
        Scene("recent", 600.0, "waits for runs created in the last 10 minutes, which the newest page shows"),
        Scene(
            "day",
            DAY_SECONDS,
            f"waits for runs of the last 12 hours: {TODAY:,} of other experiments carry the label",
        ),
        # 14 requests in 3 seconds may look for what nothing announces, so these 20 pages take 4.3 seconds.
        Scene("uncounted", DAY_SECONDS, "as day, but PAI tells no TotalCount", False, interval=5.0),
        Scene("ever", None, "waits for one run each, by its name, however old; only a restart is measured"),
    )
}


def experiment_id(number: int) -> str:
    """Return the id of an awaited experiment."""
    return f"exp-{number:014d}"


def history(now: float) -> list[Record]:
    """Return the runs that carry the label when the waits begin, oldest first."""
    chance = random.Random(20210204)
    earlier = HISTORY - TODAY
    step, today_step = EARLIER_SECONDS / earlier, DAY_SECONDS / TODAY
    records = []
    for number in range(HISTORY):
        if number < earlier:
            created = now - DAY_SECONDS - EARLIER_SECONDS + number * step
            experiment = experiment_id(chance.randrange(EXPERIMENTS))
        else:
            created = now - DAY_SECONDS + (number - earlier) * today_step
            experiment = experiment_id(EXPERIMENTS + chance.randrange(OTHERS))
        records.append(Record(created, number, experiment, f"evaluation_of_candidate_{number}"))
    return records


def waits(scene: Scene, count: int, now: float) -> list[dict[str, Any]]:
    """Return the filters of each wait, all of them different."""
    return [_wait(scene, number, now) for number in range(count)]


def _wait(scene: Scene, number: int, now: float) -> dict[str, Any]:
    experiment, dag = number % EXPERIMENTS, number // EXPERIMENTS
    filters: dict[str, Any] = {"experiment_id": experiment_id(experiment)}
    if scene.window is None:
        return {**filters, "name": f"awaited_{number}"}
    # Five DAGs began at different times, the last of them when 60 % of the window was still to come.
    created = now - scene.window * (1 - 0.1 * (dag % 5)) - dag // 5
    return {**filters, "created_after": iso(created)}


def ended_by(count: int, experiment: int) -> list[int]:
    """Return the waits that a run of an experiment ends once it is labelled."""
    return list(range(experiment, count, EXPERIMENTS))


def awaited(scene: Scene, experiment: int, chance: random.Random) -> dict[str, Any]:
    """Return a run as ``/label`` of the server takes it: it is there since a while, unlabelled."""
    assert scene.window is not None
    age = chance.uniform(0.0, 0.5 * scene.window)
    return {"experiment": experiment_id(experiment), "age": age, "name": f"awaited_{experiment}"}


def iso(seconds: float) -> str:
    """Return a time as the API writes it."""
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
