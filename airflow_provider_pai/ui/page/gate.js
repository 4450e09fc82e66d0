// One gate over time: for each metric of its rules the judged value, that day's limit, and the baseline.

import { inAirflow, pages } from "./address.js";
import { places, verdictsAt } from "./airflow.js";
import { chart } from "./charts.js";
import { link, make, mark, moment, progressOf, table } from "./dom.js";
import { margin, nameOf, numbers, subject } from "./words.js";

const AT_A_TIME = 50;

export async function gate(main, asked) {
  const progress = progressOf("verdicts");
  const heading = make("h1", {}, `${asked.dag} › ${asked.task}`);
  main.replaceChildren(heading, progress.shown);
  const found = await places(asked);
  const read = [];
  const body = make("div");
  const more = make("div", { class: "more" });
  main.replaceChildren(heading, body, more);

  const readMore = async () => {
    const next = progressOf("verdicts");
    more.replaceChildren(next.shown);
    read.push(...(await verdictsAt(found.slice(read.length, read.length + AT_A_TIME), next.tell)));
    body.replaceChildren(...overTime(asked, read, found.length));
    more.replaceChildren(...(read.length < found.length ? [older] : []));
  };
  const older = make("button", { type: "button" }, `Show ${AT_A_TIME} older verdicts`);
  older.addEventListener("click", readMore);
  await readMore();
}

function overTime(asked, read, all) {
  if (read.length === 0) {
    return [make("p", {}, "This gate has not decided yet, or you may not see it.")];
  }
  const passed = read.filter(({ verdict }) => verdict?.passed).length;
  const of = all > read.length ? `the newest ${read.length} of ${all}` : `${read.length}`;
  const checks = read.flatMap((at) => (at.verdict?.checks ?? []).map((check) => ({ ...check, at })));
  const metrics = [...new Set(checks.map(({ metric }) => metric))];
  return [
    make(
      "p",
      {},
      `${passed} of ${of} ${all === 1 ? "verdict" : "verdicts"} passed. `,
      link(inAirflow.dag(asked), "The DAG in Airflow"),
    ),
    ...metrics.map((metric) => ofMetric(metric, checks.filter((check) => check.metric === metric))),
    table(
      "Verdicts, newest first",
      ["DAG run", "Verdict", "Judged run", "Reason"],
      read.map(({ verdict, problem, ...place }) => [
        moment(place.when),
        verdict ? link(pages.verdict(place), mark(verdict.passed)) : "–",
        verdict?.run ? nameOf(verdict.run) : "–",
        verdict?.reason ?? problem,
      ]),
    ),
  ];
}

function ofMetric(metric, checks) {
  return make(
    "section",
    {},
    make("h2", {}, metric),
    make(
      "div",
      { class: "beside" },
      chart(`${metric} over the DAG runs`, linesOf(checks), "DAG run"),
      table(
        `${metric} over the DAG runs, newest first`,
        ["DAG run", "Result", "Value", "Limit", "Difference", "Baseline", "Rule"],
        checks.map((check) => [
          link(pages.verdict(check.at), moment(check.at.when)),
          mark(check.passed),
          ...numbers(check.value, check.limit),
          margin(check),
          numbers(check.baseline)[0],
          check.rule,
        ]),
        { tall: true },
      ),
    ),
  );
}

// Several rules may be about one value, and each has its own limit.
function linesOf(checks) {
  const lines = new Map();
  const oldestFirst = [...checks].sort((one, other) => Date.parse(one.at.when) - Date.parse(other.at.when));
  const add = (name, kind, check, value, passed) => {
    const key = `${kind} ${name}`;
    if (!lines.has(key)) {
      lines.set(key, { name, kind, points: new Map() });
    }
    const point = `${check.at.run} ${check.at.map} ${check.run_id}`;
    const points = lines.get(key).points;
    const before = points.get(point);
    points.set(point, { x: check.at.when, y: value, passed: passed && (before?.passed ?? true) });
  };
  for (const check of oldestFirst) {
    add(subject(check), "judged", check, check.value, check.passed);
    add(`limit ${check.rule}`, "limit", check, check.limit, true);
    if (check.baseline !== null) {
      add(`baseline ${subject(check)}`, "baseline", check, check.baseline, true);
    }
  }
  return [...lines.values()].map((line) => ({ ...line, points: [...line.points.values()] }));
}
