// The server's public endpoints as functions. What goes wrong is one of the two errors below, or an AbortError.

const TOKEN = "ganlib.token"; // sessionStorage: kept until the tab is closed

/** The server answered, but not with what was asked for. `seconds` is its Retry-After, `field` what it found wrong. */
export class Refusal extends Error {
  constructor(status, message, field, seconds) {
    super(message);
    Object.assign(this, { name: "Refusal", status, field, seconds });
  }
}

/** No answer came: the network or the server is gone. */
export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
    this.name = "Unreachable";
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const useToken = (token) => sessionStorage.setItem(TOKEN, token);

async function call(path, signal, body) {
  const headers = {};
  if (hasToken()) headers.Authorization = `Bearer ${sessionStorage.getItem(TOKEN)}`;
  if (body) headers["Content-Type"] = "application/json";
  let response, text;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body, signal, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // Not the server's own words, but those of something on the way to it: the status has to do.
  }
  if (response.ok && answer) return answer;
  const { message, param } = answer?.error ?? {};
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new Refusal(
    response.ok ? 502 : response.status,
    message || `The server answered ${response.status} ${response.statusText}`.trim() + ".",
    param ?? null,
    seconds > 0 ? seconds : null,
  );
}

/** Whether every model that the server was started with is loaded. */
export async function ready(signal) {
  let response;
  try {
    response = await fetch("v2/health/ready", { signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  return response.ok;
}

/** The loaded versions of each model, the current one first, then the newest, by the model's name. */
export async function models(signal) {
  const byName = new Map();
  for (const entry of (await call("v1/models", signal)).data) {
    const name = entry.id.slice(0, -`@${entry.version}`.length);
    if (entry.id !== `${name}@${entry.version}`) continue; // the current one, under its short name
    byName.set(name, [...(byName.get(name) ?? []), { ...entry, name }]);
  }
  return byName;
}

/** Images of some settings (see settings.js) as `{remarks, files}`, files being the bytes of PNG files. */
export async function generate(asked, signal) {
  const { model, prompt, count, truncation, towards } = asked;
  const fields = { model, prompt, n: Number(count), truncation: Number(truncation), output_format: "png" };
  const seeds = [["seed", asked.seed]];
  if (towards) {
    fields.position = Number(towards.position);
    if (towards.prompt) fields.to_prompt = towards.prompt;
    if (!towards.prompt || towards.seed !== asked.seed) seeds.push(["to_seed", towards.seed]);
  }
  // A seed may be beyond what a JavaScript number holds, so its digits are written as they are.
  const digits = seeds.map(([field, seed]) => `,"${field}":${BigInt(seed)}`).join("");
  const answer = await call("v1/images/generations", signal, JSON.stringify(fields).replace(/}$/, `${digits}}`));
  const files = answer.data.map((image) => Uint8Array.from(atob(image.b64_json), (letter) => letter.charCodeAt(0)));
  return { remarks: answer.remarks, files };
}
