// Where this page and Airflow are, and what an address of this page shows.
//
// The whole state is one parameter, such as ?verdict=my_dag/my_run/gate/-1, without any "&": the login of
// Airflow 3.1 forgets what follows one. Nothing here decodes "+", which ids of DAG runs have.

const page = new URL("./", import.meta.url);
const airflow = new URL("../../", page);

const joined = (...parts) => parts.map(encodeURIComponent).join("/");

export const pages = {
  gates: () => page.href,
  gate: ({ dag, task }) => `${page}?gate=${joined(dag, task)}`,
  verdict: ({ dag, run, task, map }) => `${page}?verdict=${joined(dag, run, task, map)}`,
};

export const inAirflow = {
  home: () => airflow.href,
  api: (path) => `${airflow}api/v2/${path}`,
  login: () => `${airflow}api/v2/auth/login?next=${encodeURIComponent(location.href)}`,
  dag: ({ dag }) => `${airflow}dags/${joined(dag)}`,
  dagRun: ({ dag, run }) => `${airflow}dags/${joined(dag)}/runs/${joined(run)}`,
  task: ({ dag, run, task, map }) =>
    `${airflow}dags/${joined(dag)}/runs/${joined(run)}/tasks/${joined(task)}${map < 0 ? "" : `/mapped/${map}`}`,
};

// Returns what the page is asked to show: the name of a view, and which gate or verdict.
export function asked() {
  const [view, place = ""] = location.search.slice(1).split("=");
  const parts = place.split("/").map(decoded);
  if (view === "gate" && parts.length === 2) {
    return { view, dag: parts[0], task: parts[1] };
  }
  if (view === "verdict" && parts.length === 4) {
    return { view, dag: parts[0], run: parts[1], task: parts[2], map: Number(parts[3]) };
  }
  return { view: "gates" };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a lone "%"
  }
}

// Goes to an address. Airflow shows this page in a frame that may not lead the window elsewhere; a link in
// the document around it may.
export function go(address) {
  const link = parent.document.createElement("a");
  link.href = address;
  if (parent !== window && new URL(address).origin !== location.origin) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  parent.document.body.append(link);
  link.click();
  link.remove();
}

// Lets links lead out of the frame, so that the window's address is always one that can be sent to a colleague.
export function leadOutOfFrame() {
  if (parent === window) {
    return;
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (link) {
      event.preventDefault();
      go(link.href);
    }
  });
}
