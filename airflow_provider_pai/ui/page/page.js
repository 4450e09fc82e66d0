// Shows the view that the address asks for.

import { asked, inAirflow, leadOutOfFrame, pages } from "./address.js";
import { Refused } from "./airflow.js";
import { redraw } from "./charts.js";
import { link, make } from "./dom.js";
import { gate } from "./gate.js";
import { gates } from "./gates.js";
import { follow } from "./theme.js";
import { verdict } from "./verdict.js";

const views = { gates, gate, verdict };
const main = document.getElementById("main");
const wanted = asked();

function trail({ view, dag, task }) {
  const steps = [
    link(inAirflow.home(), "Airflow"),
    view === "gates" ? "PAI gates" : link(pages.gates(), "PAI gates"),
    view === "verdict" ? link(pages.gate(wanted), `${dag} › ${task}`) : undefined,
    view === "verdict" ? "Verdict" : view === "gate" ? `${dag} › ${task}` : undefined,
  ];
  return steps.filter(Boolean).map((step) => make("li", {}, step));
}

async function show() {
  try {
    await views[wanted.view](main, wanted);
  } catch (problem) {
    const words = problem instanceof Refused ? problem.message : `Airflow cannot be read: ${problem.message}`;
    main.replaceChildren(make("h1", {}, "PAI gates"), make("p", { role: "alert", class: "problem" }, words));
    if (!(problem instanceof Refused)) {
      throw problem;
    }
  } finally {
    main.dataset.ready = "yes";
  }
}

document.title = wanted.view === "gates" ? "PAI gates" : `${wanted.dag} › ${wanted.task} · PAI gates`;
document.getElementById("trail").replaceChildren(...trail(wanted));
leadOutOfFrame();
follow(redraw);
show();
