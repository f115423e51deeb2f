// The public API. A 401 is tried once more with a fresh token; every other problem is the caller's to show.

import { Problem, token } from "./session.js";

export { Problem };

/** query: name -> value or list of values; empty ones are left out. */
export async function get(path, query = {}, signal = undefined) {
  const parameters = new URLSearchParams();
  for (const [name, given] of Object.entries(query)) {
    for (const one of Array.isArray(given) ? given : [given]) {
      if (one !== null && one !== undefined && one !== "") parameters.append(name, one);
    }
  }
  const text = parameters.size ? `?${parameters}` : "";
  let response = await ask(path + text, await token(), signal);
  if (response.status === 401) response = await ask(path + text, await token(true), signal);
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, body);
  return body;
}

function ask(path, accessToken, signal) {
  return fetch(`/api/v1${path}`, { headers: { Authorization: `Bearer ${accessToken}`, Accept: "application/json" }, signal });
}

const profiles = new Map();

/** name -> {type, unit, description} of the metrics that a profile declares. */
export async function metricsOf(profileId) {
  if (!profiles.has(profileId)) {
    profiles.set(profileId, get(`/profiles/${profileId}`).then(
      (profile) => new Map((profile.definition.metrics ?? []).map((metric) => [metric.name, metric])),
      () => { profiles.delete(profileId); return new Map(); },
    ));
  }
  return profiles.get(profileId);
}
