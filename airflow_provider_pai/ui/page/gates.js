// All gates that the user may see, newest verdict first.

import { pages } from "./address.js";
import { places, verdictsAt } from "./airflow.js";
import { make, link, mark, moment, progressOf, table } from "./dom.js";
import { nameOf } from "./words.js";

const DAYS = 30;
const AT_A_TIME = 50;

export async function gates(main) {
  await show(main, { days: DAYS });
}

async function show(main, period) {
  const progress = progressOf("gates");
  main.replaceChildren(make("h1", {}, "PAI gates"), progress.shown);
  const newest = new Map();
  for (const place of await places({}, period)) {
    const gate = JSON.stringify([place.dag, place.task]);
    if (!newest.has(gate)) {
      newest.set(gate, place);
    }
  }
  const found = [...newest.values()];
  const list = make("div");
  const more = make("div", { class: "more" });
  main.replaceChildren(make("h1", {}, "PAI gates"), list, more);

  const read = [];
  const readMore = async () => {
    const next = progressOf("gates");
    more.replaceChildren(next.shown);
    read.push(...(await verdictsAt(found.slice(read.length, read.length + AT_A_TIME), next.tell)));
    list.replaceChildren(listOf(read, period));
    more.replaceChildren(...buttons());
  };
  const buttons = () => {
    const made = [];
    if (read.length < found.length) {
      made.push(button(`Show ${Math.min(AT_A_TIME, found.length - read.length)} more gates`, readMore));
    }
    if (period.days) {
      made.push(button("Show older gates too", () => show(main, {})));
    }
    return made;
  };
  await readMore();
}

function button(text, press) {
  const made = make("button", { type: "button" }, text);
  made.addEventListener("click", press);
  return made;
}

function listOf(read, { days }) {
  const when = days ? `in DAG runs of the last ${days} days` : "in any DAG run";
  if (read.length === 0) {
    return make("p", {}, `No gate that you may see has decided ${when}.`);
  }
  return table(
    `The newest verdict of each gate ${when}`,
    ["Gate", "DAG run", "Verdict", "Judged run", "Reason"],
    read.map(({ verdict, problem, ...place }) => [
      link(pages.gate(place), `${place.dag} › ${place.task}`),
      moment(place.when),
      verdict ? link(pages.verdict(place), mark(verdict.passed)) : "–",
      verdict?.run ? nameOf(verdict.run) : "–",
      verdict?.reason ?? problem,
    ]),
  );
}
