// Asks the admin API.  The token, where there is one, is kept as long as the tab is open.
const KEY = "lunmesh-token";
const SECONDS_MAX = 15;

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

export async function call(path, body) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, signal: AbortSignal.timeout(SECONDS_MAX * 1000) };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  const response = await fetch(path, options);
  const said = await response.json();
  if (!response.ok) throw new Refused(response.status, said.detail);
  return said;
}
