// A chart whose x is no time, with its words and its table.

import { fit, painted } from "./chart.js";
import { make, say, scrolling, table } from "./dom.js";

const { uPlot } = globalThis;
const HEIGHT = 240;

export const known = (value) => value !== null && value !== undefined;

/** A share as people say it. */
export const percent = (ratio) => (known(ratio) ? `${Math.round(ratio * 100)} %` : "–");

/** A panel with a chart whose x is no time; `draw()` gives uPlot's options, `data` its columns. */
export class Picture {
  constructor(place, title) {
    this.title = title;
    this.words = make("p", { class: "words" });
    this.control = make("span", { class: "legend" });
    this.plotPlace = make("div", { class: "plot", role: "img", "aria-label": title });
    this.rows = make("div");
    this.details = make(
      "details",
      { class: "rows" },
      make("summary", {}, `${title} as a table`),
      this.rows,
    );
    place.replaceChildren(
      make(
        "figure",
        { class: "panel" },
        make("figcaption", {}, make("h3", {}, title), this.control),
        this.words,
        make("div", { class: "stage" }, this.plotPlace),
        this.details,
      ),
    );
    this.options = null;
    this.data = null;
    fit(this.plotPlace, () => this.plot ?? { setSize() {} }, HEIGHT);
    painted(this);
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    if (!this.options) return;
    const width = this.plotPlace.clientWidth || 300;
    const common = { width, height: HEIGHT, legend: { show: false }, padding: [12, 12, 0, 0] };
    this.plot = new uPlot({ ...common, ...this.options() }, this.data, this.plotPlace);
  }

  nothing(why) {
    this.options = null;
    this.build();
    say(this.words, why);
    this.rows.replaceChildren();
    this.details.hidden = true;
    this.plotPlace.hidden = true;
    this.control.hidden = true;
  }

  something() {
    this.details.hidden = false;
    this.plotPlace.hidden = false;
    this.control.hidden = false;
  }

  tell(label, heads, rows) {
    this.plotPlace.setAttribute("aria-label", label);
    if (!this.details.open || this.rows.childElementCount === 0) {
      this.rows.replaceChildren(scrolling(`${this.title}, as a table`, table(label, heads, rows)));
    }
  }
}
