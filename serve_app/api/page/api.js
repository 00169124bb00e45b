// Calls the API. Knows its error shape, its stream of events and Retry-After; shows nothing.

/** An answer that is no success. `status` 0: there was no answer. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", field = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, field, retryAfter });
  }
}

let key = "";

/** The API key to send from now on; empty: none. */
export function useKey(given) {
  key = given.trim();
}

export const hasKey = () => key !== "";

/** The address of a route, beside the page. */
export const address = (path) => new URL(path, document.baseURI).href;

async function send(path, options) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(address(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message);
  }
}

/** Seconds of a Retry-After header in either of its forms, else null. */
export function seconds(header, now = Date.now()) {
  if (header === null) return null;
  if (/^\s*\d+\s*$/.test(header)) return Number(header);
  const moment = Date.parse(header);
  return Number.isNaN(moment) ? null : Math.max(0, Math.ceil((moment - now) / 1000));
}

async function failure(answer) {
  const rest = { status: answer.status, retryAfter: seconds(answer.headers.get("retry-after")) };
  let detail = null;
  try {
    detail = (await answer.json()).error;
  } catch {
    // A proxy's own page, say: there is only the status to tell.
  }
  if (typeof detail?.message !== "string") return new ApiError("", { ...rest, code: "http_error" });
  const field = typeof detail.field === "string" ? detail.field : null;
  return new ApiError(detail.message, { ...rest, code: String(detail.code), field });
}

async function parsed(answer) {
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("", { status: answer.status, code: "bad_response" });
  }
}

function posted(body, signal) {
  const headers = { "content-type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), signal };
}

export async function post(path, body, signal) {
  const answer = await send(path, posted(body, signal));
  if (!answer.ok) throw await failure(answer);
  return parsed(answer);
}

/** The state of the server: `{health, retryAfter}`; not ready (503) is an answer here. */
export async function health() {
  const answer = await send("healthz", { method: "GET" });
  if (!answer.ok && answer.status !== 503) throw await failure(answer);
  const body = await parsed(answer);
  if (!Array.isArray(body.services)) throw await failureOf(body, answer);
  return { health: body, retryAfter: seconds(answer.headers.get("retry-after")) };
}

function failureOf(body, answer) {
  const message = typeof body?.error?.message === "string" ? body.error.message : "";
  const retryAfter = seconds(answer.headers.get("retry-after"));
  return new ApiError(message, { status: answer.status, code: "unavailable", retryAfter });
}

/** Sends a request whose answer is a stream of events; `onPiece` gets the text as it is written.
 * Returns what the last event carries. */
export async function stream(path, body, signal, onPiece) {
  const answer = await send(path, posted({ ...body, stream: true }, signal));
  if (!answer.ok) throw await failure(answer);
  const broken = new ApiError("", { status: answer.status, code: "bad_response" });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) throw broken;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const { name, data } = fields(event, broken);
      if (name === "done") return data;
      if (name === "error") throw ended(data.error);
      onPiece(data.text);
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message);
  }
}

/** The error that ended a stream: its status was sent long before, as 200. */
function ended({ code, message, field }) {
  const status = ["overloaded", "unavailable", "timeout", "shutting_down"].includes(code) ? 503 : 500;
  return new ApiError(message, { status, code, field });
}

function fields(event, broken) {
  let name = "";
  const data = [];
  for (const line of event.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5));
  }
  try {
    return { name, data: JSON.parse(data.join("\n")) };
  } catch {
    throw broken;
  }
}
