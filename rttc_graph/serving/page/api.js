// The server's routes. The key stays in this tab: sessionStorage ends with it.

const KEY = "rttc-key";
const TENANT = "rttc-tenant";

export const session = { scopes: [], tenant: "", anyTenant: false, places: {}, version: "", isKnown: false };

export const savedKey = () => sessionStorage.getItem(KEY) || "";
export const savedTenant = () => sessionStorage.getItem(TENANT) || "";
const keep = (name, value) => (value ? sessionStorage.setItem(name, value) : sessionStorage.removeItem(name));
export const saveKey = (key) => keep(KEY, key);
export const saveTenant = (tenant) => keep(TENANT, tenant);

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const headers = () => {
  const given = { accept: "application/json", "content-type": "application/json" };
  return savedKey() ? { ...given, authorization: `Bearer ${savedKey()}` } : given;
};

async function failure(response) {
  let said = `the server said ${response.status}`;
  try {
    const body = await response.json();
    said = body.detail ?? body.error?.message ?? said;
  } catch { /* no JSON: the status has to do */ }
  return new ApiError(response.status, said);
}

async function sent(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server does not answer; is it still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export async function get(path) {
  return (await sent(path, { headers: headers() })).json();
}

export async function post(path, body = {}) {
  const tenant = session.anyTenant && savedTenant() ? { tenant: savedTenant() } : {};
  const told = JSON.stringify({ ...tenant, ...body });
  return (await sent(path, { method: "POST", headers: headers(), body: told })).json();
}

/** Learn what is served, and what the key opens; `isKnown` is false where a key is needed. */
export async function hello() {
  const index = await get("/");
  Object.assign(session, { places: index.places, version: index.version });
  try {
    const me = await get("/me");
    Object.assign(session, { scopes: me.scopes, tenant: me.tenant, anyTenant: me.any_tenant, isKnown: true });
  } catch (error) {
    Object.assign(session, { scopes: [], tenant: "", anyTenant: false, isKnown: false });
    if (error.status !== 401) throw error;
  }
}

export const may = (scope) => session.scopes.includes(scope);
export const has = (path) => path in session.places;

/** Ask a question; `onEvent` is given what happens on the way. Returns the report with the answer. */
export async function ask(question, rttc, onEvent, signal) {
  const tenant = session.anyTenant && savedTenant() ? { tenant: savedTenant() } : {};
  const body = {
    model: "rttc",
    stream: true,
    messages: [{ role: "user", content: question }],
    rttc: { ...rttc, ...tenant, progress: "live" },
  };
  const response = await sent("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  let answer = "";
  let report = null;
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new ApiError(200, chunk.error.message);
    const said = chunk.rttc;
    if (said?.event) onEvent(said);
    else if (said) report = said;
    answer += chunk.choices?.[0]?.delta?.content ?? "";
  }
  if (!report) throw new ApiError(200, "the stream ended before the answer");
  return { ...report, answer };
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ") || part === "data: [DONE]") continue;
      yield JSON.parse(part.slice(6));
    }
  }
}

let domains = null;
/** Names of the domains with samples; empty where the key may not see them. */
export async function domainNames() {
  if (!may("kb:read") || !has("/kb/search")) return [];
  domains ??= post("/kb/stats").then((found) => found.domains.map((one) => one.domain), () => []);
  return domains;
}
export const forgetDomains = () => { domains = null; };
