// Draws lines with plotly.js, where the extra "ui" is installed. Beside each chart stands a table.

import { make } from "./dom.js";

let library;
const charts = [];

// Returns plotly.js, or nothing: the server sends an empty script where it is not installed.
function plotly() {
  library ??= new Promise((resolve) => {
    const script = make("script", { src: new URL("plotly.js", import.meta.url) });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => resolve(undefined));
    document.head.append(script);
  });
  return library;
}

// Returns the place of a chart. ``lines`` are {name, kind, points}, ``kind`` judged, baseline or limit, and a
// point is {x, y, passed}, where ``passed`` is left out if nothing was decided there.
export function chart(title, lines, axis) {
  const place = make("div", { class: "chart" });
  const decided = lines.some(({ points }) => points.some(({ passed }) => passed !== undefined));
  const figure = make(
    "figure",
    {},
    make("div", { role: "img", "aria-label": `${title}. The table beside it has the values.` }, place),
    decided ? make("figcaption", {}, "● passed, ✗ did not pass") : undefined,
  );
  charts.push({ place, lines, axis });
  draw(charts.at(-1));
  return figure;
}

// Draws all charts again, in the colours of now.
export const redraw = () => charts.forEach(draw);

async function draw({ place, lines, axis }) {
  const drawer = await plotly();
  if (!place.isConnected) {
    return;
  }
  if (!drawer) {
    place.replaceChildren(
      make(
        "p",
        {},
        "Charts need an extra where Airflow's API server runs: ",
        make("code", {}, "pip install 'airflow-provider-pai[ui]'"),
      ),
    );
    return;
  }
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
  const axes = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
  await drawer.react(
    place,
    lines.map((line) => traceOf(line, colour)),
    {
      height: 340,
      margin: { l: 8, r: 8, t: 8, b: 8 },
      paper_bgcolor: "transparent",
      plot_bgcolor: "transparent",
      font: { color: colour("text"), family: colours.fontFamily, size: 13 },
      hoverlabel: { bgcolor: colour("back"), bordercolor: colour("line"), font: { color: colour("text") } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      showlegend: true,
      dragmode: false,
      hovermode: "closest",
      xaxis: { ...axes, title: { text: plain(axis) } },
      yaxis: axes,
    },
    { displayModeBar: false, responsive: true, doubleClick: false },
  );
}

// plotly.js takes some HTML in its texts.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function traceOf({ name, kind, points }, colour) {
  const failed = points.map(({ passed }) => passed === false);
  const marker = {
    judged: {
      symbol: failed.map((yes) => (yes ? "x" : "circle")),
      color: points.map(({ passed }) => colour(passed === undefined ? "judged" : passed ? "passed" : "failed")),
      size: points.length > 60 ? 5 : 9,
    },
    baseline: { symbol: "diamond-open", color: colour("baseline"), size: points.length > 60 ? 4 : 8 },
    limit: { symbol: "line-ew-open", color: colour("limit"), size: 14 },
  }[kind];
  const dash = { judged: "solid", baseline: "dot", limit: "dash" }[kind];
  const said = (yes) => (yes === undefined ? "" : yes ? ", passed" : ", did not pass");
  return {
    name: plain(name),
    x: points.map(({ x }) => x),
    y: points.map(({ y }) => (Number.isFinite(y) ? y : null)),
    text: points.map(({ x, y, passed }) => plain(`${name}: ${y} at ${x}${kind === "judged" ? said(passed) : ""}`)),
    hoverinfo: "text",
    type: "scatter",
    mode: "lines+markers",
    line: { color: colour(kind), dash, width: 2 },
    marker,
  };
}
