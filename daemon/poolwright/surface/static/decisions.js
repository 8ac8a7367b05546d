// Decisions: marks on the chart of the level, the list beside it, and the dialog that explains one.

import * as api from "./api.js";
import { byId, make, say } from "./dom.js";
import { clock } from "./units.js";
import { action } from "./words.js";

const MARK_PX = 20; // marks nearer to each other than this become one
const MOST_LISTED = 500; // the newest of the time that is shown

/** What was done: `probed workers 4 → 6`, `held workers 4`. Settings are `workers=4 threads=2`. */
function deed({ action: did, from, setting }) {
  const { text } = action(did);
  if (!setting) return text;
  const before = new Map((from ?? "").split(" ").map((pair) => pair.split("=")));
  const parts = setting.split(" ").map((pair) => {
    const [knob, level] = pair.split("=");
    const was = before.get(knob);
    return was && was !== level ? `${knob} ${was} → ${level}` : `${knob} ${level}`;
  });
  return `${text} ${parts.join(", ")}`;
}

function line(decision) {
  const detail = decision.detail ? ` (${decision.detail})` : "";
  return `${deed(decision)}: ${decision.reason_text}${detail}`;
}

/** Newest first, as the daemon gives them. */
export class Decisions {
  constructor() {
    this.pool = null;
    this.shown = []; // newest first
    this.open = null; // the id of what the dialog explains
    this.list = byId("decisions");
    this.dialog = byId("why");
    this.marks = make("div", {
      class: "marks",
      role: "group",
      "aria-label": "Decisions on the chart",
    });
    this.marks.addEventListener("keydown", (event) => this.walkMarks(event));
    byId("why-close").addEventListener("click", () => this.dialog.close());
    byId("why-older").addEventListener("click", () => this.explain(this.at() + 1));
    byId("why-newer").addEventListener("click", () => this.explain(this.at() - 1));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the ground round it
    });
  }

  /** What the daemon knows of [fromS, toS]. */
  async load(pool, fromS, toS, signal) {
    const found = await api.decisions(pool, fromS, toS, MOST_LISTED, signal);
    const same =
      pool === this.pool &&
      found[0]?.id === this.shown[0]?.id &&
      found.length === this.shown.length;
    this.pool = pool;
    if (same) return false;
    this.shown = found;
    this.showList();
    return true;
  }

  showList() {
    const held = document.activeElement?.dataset.decision;
    this.list.replaceChildren(
      ...this.shown.map((decision, i) => {
        const { sign } = action(decision.action);
        return make(
          "li",
          {},
          make(
            "button",
            {
              type: "button",
              "data-decision": decision.id,
              "data-action": decision.action,
              on: { click: () => this.explain(i) },
            },
            make("span", { class: "sign", "aria-hidden": "true" }, sign),
            make("time", {}, clock(decision.time_s)),
            make("b", {}, deed(decision)),
            make("span", { class: "what" }, decision.reason_text),
          ),
        );
      }),
    );
    if (this.shown.length === 0) {
      this.list.append(make("li", { class: "muted" }, "None in this time."));
    }
    this.list.querySelector(`[data-decision="${held}"]`)?.focus();
  }

  /** Puts the marks where the plot has their times. */
  place(u) {
    const groups = [];
    for (let i = this.shown.length - 1; i >= 0; i -= 1) {
      const x = u.valToPos(this.shown[i].time_s, "x");
      if (x < 0 || x > u.over.clientWidth) continue;
      const last = groups.at(-1);
      if (last && x - last.x < MARK_PX) last.indices.push(i);
      else groups.push({ x, indices: [i] });
    }
    while (this.marks.children.length > groups.length) this.marks.lastChild.remove();
    while (this.marks.children.length < groups.length) this.marks.append(this.newMark());
    this.groups = groups;
    groups.forEach((group, i) => this.placeMark(this.marks.children[i], group, u));
    const tabbed = this.marks.querySelector('[tabindex="0"]');
    if (!tabbed) this.marks.lastChild?.setAttribute("tabindex", "0");
  }

  newMark() {
    const mark = make("button", { type: "button", class: "mark", tabindex: "-1" });
    mark.addEventListener("click", () => {
      const at = [...this.marks.children].indexOf(mark);
      this.explain(this.groups[at].indices.at(-1)); // the newest of those it stands for
    });
    return mark;
  }

  placeMark(mark, { x, indices }, u) {
    const newest = this.shown[indices.at(-1)];
    const { sign } = action(newest.action);
    const many = indices.length > 1;
    say(mark, many ? String(indices.length) : sign);
    mark.dataset.action = many ? "many" : newest.action;
    mark.dataset.decision = newest.id;
    const words = `${clock(newest.time_s)} ${line(newest)}`;
    const label = many ? `${indices.length} decisions, the newest: ${words}` : words;
    if (mark.title !== label) {
      mark.title = label;
      mark.setAttribute("aria-label", label);
    }
    mark.style.transform = `translateX(${Math.round(u.over.offsetLeft + x)}px)`;
  }

  /** One stop for the tabulator; the arrows go from mark to mark. */
  walkMarks(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const at = [...this.marks.children].indexOf(document.activeElement);
    const next = step && at >= 0 ? this.marks.children[at + step] : null;
    if (!next) return;
    event.preventDefault();
    this.marks.children[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  }

  /** Where in the list, which may have grown, the open one is now. */
  at() {
    return this.shown.findIndex((decision) => decision.id === this.open);
  }

  /** Opens the dialog on the decision at an index of the list. */
  async explain(index) {
    const decision = this.shown[index];
    if (!decision) return;
    this.open = decision.id;
    const { sign } = action(decision.action);
    say(byId("why-title"), `${this.pool}, ${clock(decision.time_s)}`);
    say(byId("why-line"), `${sign} ${line(decision)}`);
    say(byId("why-text"), "Asking the daemon …");
    byId("why-older").disabled = index >= this.shown.length - 1;
    byId("why-newer").disabled = index <= 0;
    if (!this.dialog.open) this.dialog.showModal();
    let text;
    try {
      ({ text } = await api.explanation(this.pool, decision.id));
    } catch (error) {
      text = `The daemon does not explain it: ${error.message}`;
    }
    if (this.open === decision.id) say(byId("why-text"), text);
  }
}
