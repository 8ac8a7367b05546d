// The head of a pool: its phase and reason, what a person has to know, and the figures of now.

import { byId, make, say } from "./dom.js";
import { gain, number, setting } from "./units.js";
import { action, phase, POWER, reason, said } from "./words.js";

const TILES = [
  ["level", "Level"],
  ["load_rps", "Load"],
  ["latency_p50_s", "p50"],
  ["latency_p95_s", "p95"],
  ["latency_p99_s", "p99"],
  ["jitter_s", "Jitter"],
  ["error_ratio", "Errors"],
  ["cpu_cores", "CPU"],
  ["memory_bytes", "Memory"],
  ["power_w", "Power"],
];

/** Response -> what it has to stay below, of the policy in force. */
export const limitsOf = (policy) =>
  Object.fromEntries((policy?.slo ?? []).map((slo) => [slo.response, slo.below]));

export class Standing {
  constructor() {
    this.badge = make("span", { class: "badge", "aria-live": "polite" });
    this.title = make("h2");
    this.mode = make("span", { class: "muted" });
    this.why = make("p", { class: "reason" });
    this.notices = make("ul", { class: "notices" });
    byId("head").replaceChildren(
      make("div", { class: "titles" }, this.title, this.badge, this.mode),
      this.why,
      this.notices,
    );
    this.tiles = Object.fromEntries(TILES.map(([quantity, label]) => [quantity, tile(label)]));
    byId("tiles").replaceChildren(...Object.values(this.tiles).map((one) => one.box));
  }

  /** `point`: the newest tick's; `status`: the newest status of the pool, or null. */
  show(point, status) {
    const { sign, text, tone } = phase(point.phase);
    say(this.title, point.pool);
    say(this.badge, `${sign} ${text}`);
    this.badge.dataset.tone = tone;
    say(this.why, `${action(point.action).text}: ${reason(point.reason, point.detail)}`);
    const limits = limitsOf(status?.policy);
    for (const [quantity] of TILES) {
      if (quantity !== "level") this.fill(quantity, point[quantity], limits[quantity]);
    }
    this.fillLevel(point);
    if (status) this.showStatus(status);
  }

  showStatus(status) {
    const { policy } = status;
    say(this.mode, `mode ${policy.mode}, policy ${policy.name}`);
    const lines = notices(status);
    if (this.told !== JSON.stringify(lines)) {
      this.told = JSON.stringify(lines);
      this.notices.replaceChildren(
        ...lines.map(([tone, head, text]) =>
          make("li", { "data-tone": tone }, make("b", {}, head), " ", text),
        ),
      );
    }
    this.fillSources(status);
  }

  fill(quantity, value, limit) {
    const { value: place, note, box } = this.tiles[quantity];
    say(place, number(quantity, value));
    const over = limit !== undefined && value !== null && value !== undefined && value > limit;
    box.dataset.tone = over ? "bad" : "";
    if (limit !== undefined)
      say(note, `${over ? "✕ above" : "✓ below"} ${number(quantity, limit)}`);
  }

  fillLevel(point) {
    const { value, note } = this.tiles.level;
    say(value, `${number("level", point.applied)}`);
    const differs = point.wanted !== point.applied || point.commanded !== point.applied;
    const wanted = number("level", point.wanted);
    const commanded = number("level", point.commanded);
    say(note, differs ? `wanted ${wanted}, commanded ${commanded}` : others(point) || "as wanted");
  }

  fillSources({ sample, recent, policy }) {
    const { power_source: source, power_std_w: std } = sample;
    const doubt = std === null ? "" : `± ${number("power_w", std)}, `;
    const from = source ? (POWER[source] ?? `from ${source}`) : "no source";
    say(this.tiles.power_w.note, doubt + from);
    const share = sample.memory_limit_bytes
      ? `of ${number("memory_bytes", sample.memory_limit_bytes)}`
      : "";
    say(this.tiles.memory_bytes.note, share);
    const host = sample.host_cpu_ratio;
    say(this.tiles.cpu_cores.note, host === null ? "" : `host ${number("cpu_ratio", host)} busy`);
    if (!limitsOf(policy).latency_p50_s) {
      say(
        this.tiles.latency_p50_s.note,
        recent.estimated ? "estimated" : `last ${number("span_s", recent.span_s)}`,
      );
    }
  }
}

/** The knobs after the first, where there are several: `threads 4`. */
function others(point) {
  const rest = Object.entries(point.knobs ?? {}).slice(1);
  return rest.map(([knob, levels]) => `${knob} ${number("level", levels.applied)}`).join(", ");
}

function tile(label) {
  const value = make("b");
  const note = make("small");
  return { value, note, box: make("div", { class: "tile" }, make("span", {}, label), value, note) };
}

/** [tone, heading, words] of what a person has to know or decide. */
function notices(status) {
  const { decision, tick, policy, sample } = status;
  const lines = decision.guard_trips.map((trip) => ["bad", "✕ guard", reason(trip)]);
  if (!tick.applied) lines.push(["bad", "✕ not read back", tick.fault || "the level is not known"]);
  for (const missing of sample.missing) lines.push(["bad", "✕ not seen", said(missing)]);
  if (status.learner === "failed") {
    const fault = tick.learner_fault || "it failed, and will be asked again";
    lines.push(["warn", "! learner", fault]);
  }
  lines.push(...settled(status));
  if (tick.quiet) lines.push(["plain", "quiet", tick.quiet]);
  if (!tick.may_probe) {
    const rival = tick.rival || "another pool";
    lines.push(["plain", "waits", `${rival} holds this host's experiment`]);
  }
  if (decision.advice) lines.push(adviceLine(status.pool, decision.advice));
  else if (policy.mode !== "auto") {
    lines.push(["plain", "moves nothing", `the mode is ${policy.mode}`]);
  }
  return lines;
}

/** What an operator or a policy has settled, with the command that ends it. */
function settled({ pool, kept, tick }) {
  const lines = tick.overrides.map((one) => ["warn", "! override", one.reason]);
  if (kept.phase_why) {
    const words = `${kept.phase_why} (poolwright resume ${pool})`;
    lines.push(["warn", `‖ ${said(kept.phase)}`, words]);
  }
  if (kept.pin) {
    const words = `${setting(kept.pin)} ${kept.pin_why} (poolwright unpin ${pool})`;
    lines.push(["warn", "‖ pinned", words]);
  }
  return lines;
}

function adviceLine(pool, { id, replaces, setting: advised, gain: expected }) {
  const way = `${setting(replaces)} → ${setting(advised)}`;
  const half = expected && Math.round(196 * expected.std); // 95 %
  const worth = expected ? `, expected gain ${gain(expected.mean)} ± ${half} %` : "";
  return ["good", "▸ advice", `${way}${worth} (poolwright approve ${pool} ${id})`];
}
