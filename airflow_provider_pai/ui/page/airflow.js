// Reads Airflow's REST API as the user who looks at this page: each answer once, and six at a time.

import { go, inAirflow } from "./address.js";

const AT_ONCE = 6;
const PAGE = 100;
const HISTORY = "pai_gate_history";
const TRIED = "pai-gates-login";

export class Refused extends Error {}

let running = 0;
let leaving; // once this page goes to the login
const waiting = [];
const answers = new Map();

async function oneOfSix(work) {
  while (running >= AT_ONCE) {
    await new Promise((start) => waiting.push(start));
  }
  running += 1;
  try {
    return await work();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

function get(path) {
  if (!answers.has(path)) {
    const answer = oneOfSix(() => ask(inAirflow.api(path)));
    answers.set(path, answer);
    answer.catch(() => answers.delete(path));
  }
  return answers.get(path);
}

async function ask(address) {
  // Airflow 3.1 wants the token in a header. Where a script can read it, the others take it so as well; where
  // it is an old one, which Airflow left in the browser, the cookie alone counts.
  const token = storedToken();
  let answer = token && (await fetch(address, { headers: { Authorization: `Bearer ${token}` } }));
  if (!answer || answer.status === 401 || answer.status === 403) {
    answer = await fetch(address);
  }
  if (answer.status === 401) {
    return logIn();
  }
  sessionStorage.removeItem(TRIED);
  if (answer.status === 403) {
    throw new Refused("You may not read this: your role in Airflow must be able to read the DAG and its XComs.");
  }
  if (answer.status === 404) {
    throw new Refused("Airflow has no such gate or verdict (any more), or you may not read it.");
  }
  if (!answer.ok) {
    throw new Error(`Airflow answered ${answer.status} ${answer.statusText}.`);
  }
  return answer.json();
}

function storedToken() {
  return localStorage.getItem("token") ?? /(?:^|; )_token=([^;]+)/.exec(document.cookie)?.[1];
}

// A page asks for several things at once, and goes to the login once; a page that came back from there does not.
function logIn() {
  leaving ??= leave();
  return leaving;
}

async function leave() {
  if (sessionStorage.getItem(TRIED)) {
    sessionStorage.removeItem(TRIED);
    throw new Refused("Airflow still refuses this page after the login. Open Airflow, and then this page again.");
  }
  sessionStorage.setItem(TRIED, "yes");
  localStorage.removeItem("token"); // Airflow 3.1 would prefer it, expired as it is, to the new one
  go(inAirflow.login());
  await new Promise(() => {}); // the browser leaves this page
}

const entries = ({ dag = "~", run = "~", task = "~" }) =>
  `dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}` +
  `/taskInstances/${encodeURIComponent(task)}/xcomEntries`;

// Returns where verdicts are, newest first: {dag, run, task, map, when}. Airflow lists them without values.
export async function places(within, { days } = {}) {
  const since = days ? `&run_after_gte=${new Date(Date.now() - days * 864e5).toISOString()}` : "";
  const list = (offset) =>
    get(`${entries(within)}?xcom_key=${HISTORY}&limit=${PAGE}&offset=${offset}${since}`);
  const first = await list(0);
  const offsets = [];
  const size = first.xcom_entries.length || PAGE; // Airflow may be set to shorter pages
  for (let offset = size; offset < first.total_entries; offset += size) {
    offsets.push(offset);
  }
  const others = await Promise.all(offsets.map(list));
  const found = [first, ...others].flatMap((page) => page.xcom_entries);
  return found
    .map((entry) => ({
      dag: entry.dag_id,
      run: entry.run_id,
      task: entry.task_id,
      map: entry.map_index,
      when: entry.run_after ?? entry.logical_date ?? entry.timestamp, // Airflow 3.1 lists no run_after
    }))
    .sort((one, other) => Date.parse(other.when) - Date.parse(one.when) || one.map - other.map);
}

const valueOf = async (key, place) => (await get(`${entries(place)}/${key}?map_index=${place.map}`)).value;

export async function verdictAt(place) {
  const verdict = await valueOf("return_value", place);
  if (!Array.isArray(verdict?.checks)) {
    throw new Refused("This task has no verdict of a gate.");
  }
  return verdict;
}

export async function historyAt(place) {
  const { runs = [], series = [], left_out = 0 } = (await valueOf(HISTORY, place)) ?? {};
  return { runs, series, left_out };
}

// Returns the verdicts at some places, each {...place, verdict} or {...place, problem}, and tells how many are read.
export async function verdictsAt(some, progress) {
  let done = 0;
  const read = async (place) => {
    try {
      return { ...place, verdict: await verdictAt(place) };
    } catch (problem) {
      return { ...place, problem: problem.message };
    } finally {
      done += 1;
      progress(done, some.length);
    }
  };
  return Promise.all(some.map(read));
}
