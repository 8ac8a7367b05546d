// Numbers as people read them: the unit is what the name of a quantity ends in.

const UNKNOWN = "–";

/** Three significant digits, never in powers of ten. */
export function digits(value) {
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(size < 1 ? 2 : 3)));
}

/** A span of time: ms below a second, s below two minutes, min below two hours, h, days. */
export function seconds(value) {
  const size = Math.abs(value);
  if (size < 1) return `${digits(value * 1000)} ms`;
  if (size < 120) return `${digits(value)} s`;
  if (size < 7200) return `${digits(value / 60)} min`;
  return size < 172800 ? `${digits(value / 3600)} h` : `${digits(value / 86400)} d`;
}

function bytes(value) {
  const [size, unit] = [
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ].find(([least]) => Math.abs(value) >= least) ?? [1, "B"];
  return `${digits(value / size)} ${unit}`;
}

const WRITERS = [
  ["_rps", (value) => `${digits(value)}/s`],
  ["_ratio", (value) => `${digits(value * 100)} %`],
  ["_bytes", bytes],
  ["_cores", (value) => `${digits(value)} cores`],
  ["_w", (value) => `${digits(value)} W`],
  ["_s", seconds],
];

/** `value` with its unit, a dash where it is not known. */
export function number(quantity, value) {
  if (value === null || value === undefined) return UNKNOWN;
  const writer = WRITERS.find(([suffix]) => quantity.endsWith(suffix));
  return writer ? writer[1](value) : digits(value);
}

/** `latency_p99_s` as people say it: `latency p99`. */
export function name(quantity) {
  const writer = WRITERS.find(([suffix]) => quantity.endsWith(suffix) && suffix !== "_ratio");
  return (writer ? quantity.slice(0, -writer[0].length) : quantity).replaceAll("_", " ");
}

/** A share with its sign: `+12 %`. */
export const gain = (ratio) => `${ratio > 0 ? "+" : ""}${digits(ratio * 100)} %`;

const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };

/** The time of day here, with the date when it is another day's. */
export function clock(timeS) {
  const then = new Date(timeS * 1000);
  const said = then.toLocaleTimeString("en-GB", CLOCK);
  const today = then.toDateString() === new Date().toDateString();
  return today ? said : `${then.toLocaleDateString("sv-SE")} ${said}`;
}

/** A setting of the API, `{levels: [[knob, level], ...]}`, in words: `workers=4`. */
export function setting(given) {
  if (given === null || given === undefined) return UNKNOWN;
  if (typeof given !== "object") return String(given);
  return given.levels.map((pair) => pair.join("=")).join(" ");
}

/** The level of one knob in a setting, null where it is not known. */
export function level(given, knob) {
  const pair = given?.levels?.find(([one]) => one === knob);
  return pair ? pair[1] : null;
}
