// Budgets, proof of benefit, the policy in force, and the health of every sensor.

import { byId, make, scrolling, table } from "./dom.js";
import { clock, digits, gain, name, number, seconds, setting } from "./units.js";
import { said } from "./words.js";

const HOUR_S = 3600;
const STATUS_SIGNS = { ok: "✓ ok", no_data: "○ no data", stale: "! stale", error: "✕ error" };
const BROKEN = ["error", "stale", "no_data", "ok"]; // the worst first

const pairs = (rows) =>
  make(
    "dl",
    {},
    rows.flatMap(([head, text]) => [make("dt", {}, head), make("dd", {}, text)]),
  );

function panel(id, title, ...children) {
  byId(id).replaceChildren(make("h3", {}, title), ...children.flat().filter(Boolean));
}

/** A bar of what is left, with the same in words. */
function bar(label, left, most, words) {
  const share = most > 0 ? Math.max(0, Math.min(1, left / most)) : 0;
  const meter = make("meter", { min: "0", max: "1", value: String(share), "aria-label": label });
  return make("div", { class: "budget" }, make("span", {}, label), meter, make("span", {}, words));
}

export function budgets(status) {
  const evidence = Object.fromEntries(status.decision.evidence);
  const { explore } = status.policy;
  const kinds = [
    ["Probes", "probes_left", explore.probes_per_hour, digits],
    ["Time for probes", "probe_seconds_left", explore.budget_ratio * HOUR_S, seconds],
    ["Error budget for probes", "slo_seconds_left", explore.slo_budget_ratio * HOUR_S, seconds],
  ];
  const bars = kinds
    .filter(([, key]) => evidence[key] !== undefined)
    .map(([label, key, income, words]) => {
      const left = evidence[key];
      const owed = left < 0 ? `${words(-left)} owed` : `${words(left)} left`;
      return bar(label, left, income, `${owed}, ${words(income)} an hour`);
    });
  const rates = [
    ["short", evidence.burn_short],
    ["long", evidence.burn_long],
  ]
    .filter(([, rate]) => rate !== undefined)
    .map(([window, rate]) => `${digits(rate)} (${window} window)`);
  const burn = rates.length
    ? make(
        "p",
        {},
        `The SLO's error budget burns at ${rates.join(" and ")}; ` +
          `above ${digits(explore.burn_rate)} in both nothing is tried.`,
      )
    : null;
  panel(
    "budgets",
    "Budgets",
    bars.length ? bars : make("p", { class: "muted" }, "None is counted yet."),
    burn,
  );
}

/** What tuning is worth over the baseline, with its 95 % interval. */
function worth(seen) {
  if (!seen) return "Not measured: tuning was not compared with the baseline yet.";
  const { mean, lower, upper, count } = seen;
  if (lower === null) return `${gain(mean)} in ${count} comparisons; too few for an interval`;
  return `${gain(mean)} (95 %: ${gain(lower)} to ${gain(upper)}), from ${count} comparisons`;
}

export function benefit(status) {
  const { benefit: seen, kept } = status;
  const proven = seen && seen.lower !== null && seen.lower > 0 ? "✓ proven" : "not proven";
  const last = kept.holdouts
    .slice(-5)
    .reverse()
    .map(({ gain_ratio: ratio, load_rps: rps, tuned, baseline }) => {
      const pair = `${setting(tuned)} against ${setting(baseline)}`;
      return make("li", {}, `${gain(ratio)} at ${number("load_rps", rps)}: ${pair}`);
    });
  panel(
    "benefit",
    "Proof of benefit",
    make("p", { class: "big" }, proven),
    make("p", {}, worth(seen)),
    pairs([
      ["baseline", setting(status.baseline)],
      ["held", setting(status.decision.setting)],
    ]),
    last.length ? make("ul", {}, last) : null,
  );
}

export function policy(status, counters) {
  const { policy: given } = status;
  const slo = given.slo.map(({ response, below, confidence }) => {
    const sure = digits(confidence * 100);
    return `${name(response)} below ${number(response, below)} (${sure} %)`;
  });
  const objective = given.objective.map(
    ([response, weight]) => `${name(response)} ${digits(weight)}`,
  );
  const bounds = given.knobs.map(
    (knob) => `${knob.name} ${knob.lower} to ${knob.upper}, by ${knob.slew_per_move} at most`,
  );
  const counted = Object.fromEntries(counters);
  const count = (what) => `${digits(counted[what] ?? 0)} ${what}`;
  panel(
    "policy",
    "Policy in force",
    pairs([
      ["name", `${given.name}, mode ${given.mode}`],
      ["SLO", slo.join("; ") || "none"],
      ["minimises", objective.join(", ")],
      ["bounds", bounds.join("; ")],
      ["learner", `${said(status.learner)}${status.plan ? `, plan ${status.plan.version}` : ""}`],
      [
        "so far",
        `${count("moves")}, ${count("probes")}, ${count("retreats")} in ${count("ticks")}`,
      ],
      ["sha256", given.sha256.slice(0, 12) || "–"],
      ["actuator", status.endpoint],
    ]),
  );
}

export function sensors(status) {
  const took = Object.fromEntries(status.sensor_durations_s);
  const rows = [...status.tick.readings]
    .sort((a, b) => BROKEN.indexOf(a.status) - BROKEN.indexOf(b.status))
    .map((one) => [
      name(one.signal),
      STATUS_SIGNS[one.status] ?? one.status,
      reading(one),
      `${one.source}${one.estimated ? " (estimated)" : ""}`,
      seconds(Math.max(0, (status.tick.mono_ns - one.taken_mono_ns) / 1e9)),
      took[one.source] === undefined ? "–" : seconds(took[one.source]),
      one.detail,
    ]);
  const bad = rows.filter((row) => !row[1].startsWith("✓")).length;
  const caption =
    `${rows.length} signals, ${bad ? `${bad} of them not ok` : "all ok"}, ` +
    `at ${clock(status.tick.wall_ns / 1e9)}`;
  const made = table(
    caption,
    ["signal", "health", "value", "source", "age", "took", "detail"],
    rows,
  );
  for (const row of made.tBodies[0].rows) row.dataset.health = row.cells[1].textContent.slice(2);
  const held = byId("sensors").querySelector(".scrolls");
  if (held) {
    const { scrollLeft } = held;
    held.replaceChildren(made);
    held.scrollLeft = scrollLeft;
  } else {
    panel("sensors", "Sensors", scrolling("Sensors, as a table", made));
  }
}

function reading(one) {
  if (one.value === null) return "–";
  const std = one.std === null ? "" : ` ± ${number(one.signal, one.std)}`;
  return number(one.signal, one.value) + std;
}
