// Says in words and numbers what a check found: by how much, and since when. It reads nothing.

const digits = (value, most) => String(Number(value.toPrecision(most)));

// Writes numbers in six digits, or in all of them where six would make different ones look equal.
export function numbers(...values) {
  const finite = [...new Set(values.filter(Number.isFinite))];
  const most = new Set(finite.map((value) => digits(value, 6))).size < finite.length ? 17 : 6;
  const write = (value) => (most === 6 ? digits(value, 6) : String(value));
  return values.map((value) => (Number.isFinite(value) ? write(value) : (value ?? "–")));
}

const comparison = (rule) => /[<>=]=?/.exec(rule)?.[0] ?? "";
const reading = (rule) => /^(max|min|step \d+)\b/.exec(rule)?.[0];

// The value that a rule is about: "accuracy", "max of accuracy".
export function subject({ metric, rule }) {
  const read = reading(rule);
  return read === undefined ? metric : read.startsWith("step") ? `${metric} at ${read}` : `${read} of ${metric}`;
}

export const isMeasured = (check) => Number.isFinite(check.value) && Number.isFinite(check.limit);

export function margin(check) {
  return isMeasured(check) ? digits(Math.abs(check.value - check.limit), 6) : "–";
}

// One sentence on a check: "accuracy 0.87 is below 0.9 by 0.03".
export function finding(check) {
  if (!isMeasured(check)) {
    return `${subject(check)}: ${check.reason}`;
  }
  const [value, limit] = numbers(check.value, check.limit);
  const side = check.value < check.limit ? "below" : check.value > check.limit ? "above" : "equal to";
  const what = side === "equal to" ? "" : ` by ${margin(check)}`;
  const sum = /baseline\s*([-+*]\s*\S+)/.exec(check.rule)?.[1];
  const from = /\bbaseline\b/.test(check.rule)
    ? ` (baseline ${numbers(check.baseline)[0]}${sum ? ` ${sum}` : ""})`
    : "";
  const rule = comparison(check.rule);
  const must = check.passed || !(side === "equal to" || rule === "==") ? "" : `; it must be ${rule} ${limit}`;
  return `${subject(check)} ${value} is ${side} ${limit}${from}${what}${must}`;
}

export const failed = (verdict, metric) =>
  verdict.checks.filter((check) => !check.passed && (metric === undefined || check.metric === metric));

// Returns since which of the verdicts, newest first, a metric has failed without a break: {when, count, more}.
// ``more``: the oldest verdict that was read failed as well.
export function failingSince(verdicts, metric) {
  const passed = verdicts.findIndex(({ verdict }) => !verdict || failed(verdict, metric).length === 0);
  const count = passed < 0 ? verdicts.length : passed;
  return { when: verdicts[count - 1]?.when, count, more: passed < 0 };
}

export const nameOf = (run) => (run.name && run.name !== run.run_id ? `${run.name} (${run.run_id})` : run.run_id);
