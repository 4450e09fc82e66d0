// One verdict: which metric failed, by how much, since when, and against which run.

import { inAirflow, pages } from "./address.js";
import { historyAt, places, verdictAt, verdictsAt } from "./airflow.js";
import { chart } from "./charts.js";
import { link, make, mark, moment, outward, progressOf, table } from "./dom.js";
import { failed, failingSince, finding, margin, nameOf, numbers } from "./words.js";

const MOST_OLDER = 50;
const AT_A_TIME = 6;

export async function verdict(main, asked) {
  const progress = progressOf("verdicts");
  main.replaceChildren(make("h1", {}, `${asked.dag} › ${asked.task}`), progress.shown);
  const [decided, kept, found] = await Promise.all([
    verdictAt(asked),
    historyAt(asked).catch(() => ({ runs: [], series: [], left_out: 0 })),
    places({ dag: asked.dag, task: asked.task }),
  ]);
  const same = found.filter(({ map }) => map === asked.map);
  const here = same.findIndex(({ run }) => run === asked.run);
  const run = runsOf(decided, kept);
  const short = shortNames(decided, kept);
  const since = make("ul", { class: "findings" }, findings(decided, run, () => " …"));
  main.replaceChildren(
    make("h1", {}, `${asked.dag} › ${asked.task} `, mark(decided.passed)),
    since,
    facts(asked, same[here], decided, run),
    neighbours(same, here),
    checksOf(decided, short),
    ...historiesOf(decided, kept, short),
  );
  const olderToo = await backToAPass(same.slice(Math.max(here, 0)), decided);
  since.replaceChildren(...findings(decided, run, (metric) => sinceWhen(olderToo, metric)));
}

// Reads this verdict and those before it until each metric that failed has passed, a few at a time.
async function backToAPass(some, decided) {
  const metrics = new Set(failed(decided).map(({ metric }) => metric));
  const read = [];
  const open = () => [...metrics].some((metric) => failingSince(read, metric).more);
  while (open() && read.length < Math.min(some.length, MOST_OLDER)) {
    read.push(...(await verdictsAt(some.slice(read.length, read.length + AT_A_TIME), () => {})));
  }
  return { read, all: read.length === some.length };
}

function sinceWhen({ read, all }, metric) {
  const { when, count, more } = failingSince(read, metric);
  if (when === undefined) {
    return "";
  }
  const runs = count === 1 ? "this DAG run" : `${count} DAG runs`;
  if (more && all) {
    return [" It has failed since the first verdict, ", moment(when), ` (${runs}).`];
  }
  return [more ? " It has failed since before " : " It has failed since ", moment(when), ` (${runs}).`];
}

function findings(decided, run, since) {
  const open = failed(decided);
  const told = open.length > 0 ? open : decided.checks;
  const several = new Set(told.map(({ run_id }) => run_id)).size > 1;
  const items = told.map((check) =>
    make(
      "li",
      {},
      several ? [run(check.run_id), ": "] : undefined,
      make("strong", {}, finding(check), "."),
      open.length > 0 ? since(check.metric) : undefined,
      several ? undefined : [" Judged run: ", run(check.run_id)],
      check.baseline_run_id ? [several ? " Compared" : ", compared", " with the baseline ", run(check.baseline_run_id)] : "",
      ".",
    ),
  );
  return items.length > 0 ? items : [make("li", {}, make("strong", {}, decided.reason))];
}

// Returns how a run is shown: with its name, and as a link to PAI where there is one.
function runsOf(decided, kept) {
  const known = new Map(kept.runs.map((run) => [run.run_id, run]));
  return (run_id) => {
    const found = known.get(run_id) ?? decided.checks.find((check) => check.run_id === run_id);
    const name = found?.name ?? found?.run_name ?? null;
    return outward(found?.url, nameOf({ run_id, name }));
  };
}

// Returns how a run is called where there is little room: by its name, if no other has the same.
function shortNames(decided, kept) {
  const named = [...kept.runs, ...decided.checks.map(({ run_id, run_name }) => ({ run_id, name: run_name }))];
  const names = new Map(named.map((run) => [run.run_id, run.name]));
  const ofAll = [...names.values()];
  return (run_id) => {
    const name = names.get(run_id);
    return name && ofAll.filter((other) => other === name).length === 1 ? name : nameOf({ run_id, name });
  };
}

function facts(asked, place, decided, run) {
  const pairs = [
    ["DAG run", [link(inAirflow.dagRun(asked), asked.run), place ? [" of ", moment(place.when)] : ""].flat()],
    ["Task", link(inAirflow.task(asked), asked.map < 0 ? asked.task : `${asked.task} [${asked.map}]`)],
    ["Judged run", decided.run ? run(decided.run.run_id) : "none was chosen"],
    ["Baseline", decided.baseline_run_ids.length ? commas(decided.baseline_run_ids.map(run)) : "none"],
    ["Selected", decided.select],
    ["Reason", decided.reason],
  ];
  return make("dl", {}, pairs.flatMap(([term, what]) => [make("dt", {}, term), make("dd", {}, what)]));
}

const commas = (parts) => parts.flatMap((part, at) => (at ? [", ", part] : [part]));

function neighbours(same, here) {
  const to = (place, words) => (place ? make("li", {}, link(pages.verdict(place), words)) : undefined);
  return make(
    "nav",
    { "aria-label": "Other verdicts of this gate" },
    make(
      "ul",
      {},
      to(same[here + 1], "‹ Previous verdict"),
      to(here > 0 ? same[here - 1] : undefined, "Next verdict ›"),
      same.length > 0 ? make("li", {}, link(pages.gate(same[0]), "This gate over time")) : undefined,
    ),
  );
}

function checksOf(decided, short) {
  const failedFirst = [...decided.checks].sort((one, other) => one.passed - other.passed);
  return table(
    "Checks",
    ["Result", "Run", "Metric", "Rule", "Value", "Limit", "Difference", "Baseline", "Read from", "Reason"],
    failedFirst.map((check) => [
      mark(check.passed),
      short(check.run_id),
      check.metric,
      check.rule,
      ...numbers(check.value, check.limit),
      margin(check),
      check.baseline_run_id
        ? `${numbers(check.baseline)[0]} of ${short(check.baseline_run_id)}`
        : numbers(check.baseline)[0],
      check.read_from === "history" ? "all values" : "the run",
      check.reason,
    ]),
  );
}

function historiesOf(decided, kept, short) {
  const metrics = [...new Set(kept.series.map(({ metric }) => metric))];
  const sections = metrics.map((metric) => {
    const series = kept.series.filter((one) => one.metric === metric);
    const rules = decided.checks.filter((check) => check.metric === metric && Number.isFinite(check.limit));
    return historyOf(metric, series, rules, decided, short);
  });
  const missing = kept.left_out
    ? make("p", {}, `${kept.left_out} more histories are not kept: a gate keeps 64 KiB, and asks PAI 20 times at most.`)
    : undefined;
  return [...sections, missing].filter(Boolean);
}

function historyOf(metric, series, rules, decided, short) {
  const isBaseline = (run_id) => decided.baseline_run_ids.includes(run_id);
  const steps = [...new Set(series.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
  const ends = [steps[0], steps.at(-1)];
  const limits = new Map(rules.map((check) => [`${check.rule} ${check.limit}`, check]));
  const lines = [
    ...series.map(({ run_id, points }) => ({
      name: isBaseline(run_id) ? `baseline ${short(run_id)}` : short(run_id),
      kind: isBaseline(run_id) ? "baseline" : "judged",
      points: points.map(([step, value]) => ({ x: step, y: value })),
    })),
    ...[...limits.values()].map((check) => ({
      name: `limit ${check.rule}${check.passed ? "" : ", not met"}`,
      kind: "limit",
      points: ends.map((step) => ({ x: step, y: check.limit })),
    })),
  ];
  const values = series.map(({ points }) => new Map(points));
  const thinned = series.filter((one) => one.steps > one.points.length);
  return make(
    "section",
    {},
    make("h2", {}, metric),
    ...thinned.map((one) =>
      make("p", {}, `${short(one.run_id)}: ${one.points.length} of ${one.steps} steps are kept, peaks included.`),
    ),
    make(
      "div",
      { class: "beside" },
      steps.length > 1 ? chart(`${metric} by step`, lines, "step") : undefined,
      table(
        `${metric} by step`,
        ["Step", ...series.map(({ run_id }) => (isBaseline(run_id) ? `Baseline ${short(run_id)}` : short(run_id)))],
        steps.map((step) => [String(step), ...values.map((of) => (of.has(step) ? numbers(of.get(step))[0] : "–"))]),
        { tall: true },
      ),
    ),
  );
}
