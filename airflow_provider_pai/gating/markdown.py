"""The verdict of a gate as Markdown, for a person who decides: in an approval, a mail or a chat.

What comes from PAI, such as the names of runs and metrics, is shown as it is: it cannot become a link, HTML,
or another cell of the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_pai.gating.rules import format_numbers
from airflow_provider_pai.gating.verdict import Check, Verdict

__all__ = ["MOST_CHECKS", "verdict_markdown"]

MOST_CHECKS = 50
"""How many checks the table has at most; those that failed come first then."""
LONGEST_NAME = 128
LONGEST_REASON = 1000
PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
STARTS_A_LINK = re.compile(r"(://|www|@)", re.IGNORECASE)
"""Markdown of GitHub's kind makes links of bare addresses, even where their punctuation is escaped."""
HAIR_SPACE = "\u200a"
NOT_IN_A_TARGET = re.compile(r"[^A-Za-z0-9:/?#&=%~._+,;@!$'*-]")


def verdict_markdown(verdict: Verdict | Mapping[str, Any], *, links: Mapping[str, str] | None = None) -> str:
    """Return a verdict as a sentence and a table of its checks.

    :param verdict: the output of a gate, or the verdict itself.
    :param links: the address of each run that has one, by the run's id.
    :raises PaiUsageError: what is given is not a verdict.
    """
    verdict = Verdict.of(verdict)
    addresses = links or {}
    outcome = "passed" if verdict.passed else "did not pass"
    parts = [f"**The gate {outcome}:** {_prose(verdict.reason)}"]
    if verdict.run is not None:
        run_id, name = str(verdict.run["run_id"]), verdict.run.get("name")
        shown = _linked(str(name or run_id), addresses.get(run_id))
        parts.append(f"Run: {shown}" + (f" ({_code(run_id)})" if name not in (None, run_id) else ""))
    if verdict.checks:
        parts.append(_table(verdict, addresses))
    left = len(verdict.checks) - MOST_CHECKS
    if left > 0:
        parts.append(f"And {left} more checks; the log of the gate has them all.")
    return "\n\n".join(parts) + "\n"


def _table(verdict: Verdict, links: Mapping[str, str]) -> str:
    checks = sorted(verdict.checks, key=lambda check: check.passed)
    checks = (verdict.checks if len(checks) <= MOST_CHECKS else checks)[:MOST_CHECKS]
    several = len({check.run_id for check in verdict.checks}) > 1
    headers = [*(["run"] if several else []), "metric", "rule", "value", "limit", "baseline", "result"]
    lines = [headers, ["---"] * len(headers)]
    for check in checks:
        run = [_linked(check.run_name or check.run_id, links.get(check.run_id))] if several else []
        lines.append([*run, *_cells(check, links)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(check: Check, links: Mapping[str, str]) -> list[str]:
    value, baseline, limit = format_numbers(check.value, check.baseline, check.limit)
    if check.baseline_run_id is not None:
        baseline += f" of {_linked(check.baseline_run_id, links.get(check.baseline_run_id))}"
    result = "pass" if check.passed else "**FAIL**"
    return [_code(check.metric), _code(check.rule), value, limit, baseline, result]


def _code(text: str) -> str:
    """Return a text as code, in which nothing means anything else. A pipe would end the cell even there."""
    shown = _line(text, LONGEST_NAME).replace("|", "¦")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _linked(text: str, address: str | None) -> str:
    if address is None or not address.startswith(("https://", "http://")):
        return _code(text)
    target = NOT_IN_A_TARGET.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), address)
    return f"[{_code(text)}]({target})"


def _prose(text: str) -> str:
    """Return a text whose punctuation means nothing, and whose addresses are no links."""
    broken = STARTS_A_LINK.sub(f"\\1{HAIR_SPACE}", _line(text, LONGEST_REASON))
    return PUNCTUATION.sub(r"\\\1", broken)


def _line(text: str, most: int) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split()) or "-"
    return line if len(line) <= most else line[: most - 1] + "…"
