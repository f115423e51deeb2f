// Who is signed in. The access token lives in memory only; the refresh token in this tab's sessionStorage, so that a reload
// does not ask for the password and closing the tab forgets it. Each refresh token works once: one refresh at a time.

const KEY = "headwater.refresh";
const EARLY_MS = 60_000;

let current = null; // {accessToken, expiresAt, person, tenant, tenants}
let refreshing = null;
const listeners = new Set();

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || `The server answered ${status}.`);
    this.status = status;
    this.code = body?.code ?? "";
    this.body = body;
  }
}

export const session = () => current;
export const onChange = (listener) => listeners.add(listener);

function keep(answer) {
  current = {
    accessToken: answer.access_token,
    expiresAt: Date.now() + answer.expires_in_s * 1000,
    person: answer.person,
    tenant: answer.tenant,
    tenants: answer.tenants,
  };
  if (answer.refresh_token) sessionStorage.setItem(KEY, answer.refresh_token);
  for (const listener of listeners) listener(current);
}

function forget() {
  const was = current;
  current = null;
  sessionStorage.removeItem(KEY);
  if (was) for (const listener of listeners) listener(null);
}

async function post(path, body, token) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(`/api/v1${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

export async function signIn(email, password) {
  keep(await post("/auth/login", { email, password }));
}

/** After a reload: true where the tab was signed in and still may be. */
export async function restore() {
  if (!sessionStorage.getItem(KEY)) return false;
  try {
    await refresh();
    return true;
  } catch (error) {
    if (error instanceof Problem && error.status < 500) return false;
    throw error;
  }
}

export async function switchTenant(slug) {
  keep(await post("/auth/switch", { tenant: slug }, await token()));
}

export async function signOut() {
  const held = current;
  forget();
  if (held) await post("/auth/logout", {}, held.accessToken).catch(() => null);
}

function refresh() {
  refreshing ??= (async () => {
    try {
      const refreshToken = sessionStorage.getItem(KEY);
      if (!refreshToken) throw new Problem(401, { detail: "Please sign in again." });
      keep(await post("/auth/refresh", { refresh_token: refreshToken }));
    } catch (error) {
      if (error instanceof Problem && error.status < 500 && error.status !== 429) forget();
      throw error;
    } finally {
      refreshing = null;
    }
  })();
  return refreshing;
}

/** An access token that is good for a while yet. */
export async function token(force = false) {
  if (!current || force || Date.now() > current.expiresAt - EARLY_MS) await refresh();
  return current.accessToken;
}
