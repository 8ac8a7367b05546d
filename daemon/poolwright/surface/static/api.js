// The daemon's API. Every path is of this origin; there is no other.

/** The JSON of a path; throws an Error with what the daemon says when it refuses. */
export async function get(path, signal) {
  const answer = await fetch(path, { signal, cache: "no-store", credentials: "same-origin" });
  if (!answer.ok) {
    const said = (await answer.text()).trim();
    const error = new Error(said || `${path}: status ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return answer.json();
}

const pool = (name) => `/api/v1/pools/${encodeURIComponent(name)}`;

export const status = (signal) => get("/api/v1/status", signal);

export const poolStatus = (name, signal) =>
  get(`/api/v1/status/${encodeURIComponent(name)}`, signal);

/** Columns over [fromS, toS], at most `points` of them. */
export const history = (name, fromS, toS, points, signal) =>
  get(`${pool(name)}/history?from_s=${fromS}&to_s=${toS}&points=${points}`, signal);

export const decisions = (name, fromS, toS, limit, signal) =>
  get(`${pool(name)}/decisions?from_s=${fromS}&to_s=${toS}&limit=${limit}`, signal);

export const explanation = (name, id, signal) => get(`${pool(name)}/decisions/${id}`, signal);

export const surrogate = (name, signal) => get(`${pool(name)}/surrogate`, signal);

export const schedule = (name, signal) => get(`${pool(name)}/schedule`, signal);

export const events = () => new EventSource("/api/v1/events");
