// Small makers of elements. What comes from the daemon is text and never markup.

/** The element of this id, which index.html has. */
export const byId = (id) => document.getElementById(id);

/** An element; `attributes` whose value is null or false are left out, `on` holds listeners. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, then] of Object.entries(value)) made.addEventListener(event, then);
    } else if (value !== null && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

/** Text into an element, only when it differs: a screen reader is not told the same twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A table with a caption; rows are lists of cells, the first of which heads its row. */
export function table(caption, heads, rows) {
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        heads.map((head) => make("th", { scope: "col" }, head)),
      ),
    ),
    make(
      "tbody",
      {},
      rows.map(([first, ...rest]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, first),
          rest.map((cell) => make("td", {}, cell)),
        ),
      ),
    ),
  );
}

/** A box that scrolls sideways by itself, so that the page never does. */
export const scrolling = (label, child) =>
  make("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": label }, child);

/** A value of the stylesheet, e.g. `--ink`. */
export const style = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();
