"""The verdict as Markdown says what was judged, and nothing that comes from PAI becomes anything but text."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import drive
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from airflow_provider_pai.api import Metric, PaiUsageError, Run
from airflow_provider_pai.gating.markdown import MOST_CHECKS, verdict_markdown
from airflow_provider_pai.gating.rules import parse_rules
from airflow_provider_pai.gating.verdict import Verdict, judge

MARKDOWN = MarkdownIt("gfm-like")
MARKDOWN.linkify.set({"fuzzy_link": False, "fuzzy_email": False})  # it would make one of any `a.com`
HOSTILE = (
    "a|b`c\n| x | <img src=x onerror=alert(1)> [y](https://evil.example) www.evil.example **b** \\| ``` &lt;"
)


def run(run_id: str, name: str | None = None, **metrics: float) -> Run:
    return Run(
        run_id=run_id,
        name=name,
        metrics=[Metric(key=key, value=value) for key, value in metrics.items()],
        labels={},
    )


def judged(runs: list[Run], rules: dict[str, Any], **given: Any) -> Verdict:
    verdict: Verdict = drive(judge(runs, parse_rules(rules), **given), lambda _: pytest.fail("asks PAI"))
    return verdict


def tokens(text: str) -> list[Any]:
    """Everything that a renderer finds in a text, what is within lines included."""
    found = MARKDOWN.parse(text)
    return [*found, *(child for token in found for child in token.children or ())]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables of a text, as they are shown."""
    table: list[list[str]] = []
    for token in MARKDOWN.parse(text):
        if token.type == "tr_open":
            table.append([])
        elif token.type == "inline" and token.level > 3:
            shown = [child.content for child in token.children or () if child.type in ("text", "code_inline")]
            table[-1].append("".join(shown))
    return table


def test_it_says_what_was_judged() -> None:
    verdict = judged(
        [run("run-2", "night", accuracy=0.95, loss=0.4)],
        {"accuracy": ">= baseline + 0.01", "loss": "< 0.35"},
        baselines=[run("run-1", "champion", accuracy=0.93)],
    )
    shown = verdict_markdown(
        verdict, links={"run-2": "https://pai.example/2", "run-1": "https://pai.example/1"}
    )
    assert shown.startswith("**The gate did not pass:** night ")
    assert "Run: [`night`](https://pai.example/2) (`run-2`)" in shown
    baseline = "0.93 of [`run-1`](https://pai.example/1)"
    assert f"| `accuracy` | `>= baseline + 0.01` | 0.95 | 0.94 | {baseline} | pass |" in shown
    assert "| `loss` | `< 0.35` | 0.4 | 0.35 | - | **FAIL** |" in shown
    assert verdict_markdown(verdict.to_dict()) == verdict_markdown(verdict)  # as it comes from XCom


def test_several_runs_are_told_apart() -> None:
    verdict = judged(
        [run("run-1", accuracy=0.5), run("run-2", "b", accuracy=0.95)], {"accuracy": "> 0.9"}, select="any"
    )
    assert [cells[0] for cells in rows(verdict_markdown(verdict))] == ["run", "run-1", "b"]


def test_without_a_run_there_is_no_table() -> None:
    shown = verdict_markdown(judged([], {"accuracy": "> 0.9"}, sought="no run matches labels='a:b'"))
    assert rows(shown) == []
    assert "there is no run to judge" in shown


def test_what_failed_comes_first_where_not_all_is_shown() -> None:
    runs = [run(f"run-{number}", accuracy=0.95 if number else 0.5) for number in range(MOST_CHECKS + 5)]
    shown = verdict_markdown(judged(runs, {"accuracy": "> 0.9"}, select="any"))
    table = rows(shown)
    assert len(table) == MOST_CHECKS + 1
    assert table[1][0] == "run-0"
    assert "And 5 more checks" in shown
    assert len(shown) < 10_000


@given(st.text(st.characters(codec="utf-8"), max_size=300))
@example(HOSTILE)
@example("`" * 200)
@example("\\")
@example("x" * 300)
@example("https://evil.example www.evil.example mailto:a@evil.example HTTP://evil.example")
def test_nothing_from_pai_is_more_than_text(text: str) -> None:
    metric = text if _is_metric(text) else "m"
    runs = [run("run-1", text, **{metric: 0.5}), run("run-2", "b", **{metric: 0.7})]
    verdict = judged(runs, {metric: [">= 0.9", "< 0.1"]}, select="all")
    shown = verdict_markdown(verdict, links={"run-1": f"https://pai.example/{text}"})
    found = tokens(shown)
    table = rows(shown)
    assert len(table) == 1 + len(verdict.checks)
    assert {len(cells) for cells in table} == {len(table[0])}
    assert not [token for token in found if token.type.startswith("html") or token.type in ("image", "fence")]
    hrefs = {str(token.attrs["href"]) for token in found if token.type == "link_open"}
    assert all(href.startswith("https://pai.example/") for href in hrefs)
    assert len(shown) < 10_000


def _is_metric(text: str) -> bool:
    try:
        drive(judge([run("run-1", **{text: 1.0})], parse_rules({text: "> 0"})), [])
    except (AssertionError, PaiUsageError):  # PAI is asked for the history of a metric that the run has not
        return False
    return True


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//evil.example", ""])
def test_an_address_that_is_not_of_the_web_is_no_link(address: str) -> None:
    shown = verdict_markdown(judged([run("run-1", m=1)], {"m": "> 0"}), links={"run-1": address})
    assert not [token for token in tokens(shown) if token.type == "link_open"]


def test_what_is_not_a_verdict_is_refused() -> None:
    with pytest.raises(PaiUsageError, match="not the output of a PaiRunGateOperator"):
        verdict_markdown({"run_id": "run-1"})


# --- the digest


def test_a_digest_changes_with_what_decides_and_with_nothing_else() -> None:
    rules = {"accuracy": "> 0.9"}
    one = judged([run("run-1", "night", accuracy=0.95)], rules)
    assert one.digest() == Verdict.of(one.to_dict()).digest()
    labelled = Run(
        run_id="run-1", name="night", metrics=[Metric(key="accuracy", value=0.95)], labels={"a": "b"}
    )
    assert judged([labelled], rules).digest() == one.digest()
    others = [
        judged([run("run-1", "night", accuracy=0.96)], rules),
        judged([run("run-2", "night", accuracy=0.95)], rules),
        judged([run("run-1", "night", accuracy=0.95)], {"accuracy": "> 0.8"}),
        judged([run("run-1", "night", accuracy=0.85)], rules),
    ]
    assert len({verdict.digest() for verdict in (one, *others)}) == 5
