// Makes elements. All that comes from Airflow or PAI becomes text: nothing here parses HTML.

export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) {
      made.setAttribute(key, value);
    }
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return made;
}

export const link = (address, ...children) => make("a", { href: address }, ...children);

// A link to another host; addresses in XCom may be anything.
export const outward = (address, ...children) =>
  /^https?:\/\//i.test(address ?? "")
    ? make("a", { href: address, rel: "noopener noreferrer" }, ...children)
    : make("span", {}, ...children);

export const mark = (passed) =>
  passed
    ? make("span", { class: "mark passed" }, "✓ passed")
    : make("span", { class: "mark failed" }, "✗ did not pass");

export const moment = (when) =>
  make("time", { datetime: when }, new Date(when).toISOString().slice(0, 16).replace("T", " "), " UTC");

// A table whose rows become cards where the window is narrow; "tall" ones scroll in a box of their own.
export function table(caption, columns, rows, { tall = false } = {}) {
  const cells = (row) => row.map((cell, at) => make("td", { "data-label": columns[at] }, make("span", {}, cell)));
  return make(
    "div",
    { class: tall ? "box tall" : "box", role: "region", tabindex: 0, "aria-label": caption },
    make(
      "table",
      { class: tall ? undefined : "cards" },
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, columns.map((column) => make("th", { scope: "col" }, column)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, cells(row)))),
    ),
  );
}

// Shows how much is read, in words and as a bar.
export function progressOf(what) {
  const bar = make("progress", { "aria-label": what });
  const words = make("span", {}, `Reading ${what} …`);
  const shown = make("p", { class: "progress", role: "status" }, bar, words);
  const tell = (done, all) => {
    bar.max = Math.max(all, 1);
    bar.value = done;
    words.textContent = `Read ${done} of ${all} ${what}`;
  };
  return { shown, tell };
}
