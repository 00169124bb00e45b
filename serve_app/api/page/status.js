// What the page is doing and what went wrong: stages with elapsed time, errors with the field they
// are about, the wait before another try. Knows no route.

import { byId, el, show } from "./dom.js";
import { number, t } from "./i18n.js";

// Which control a request's field is.
const CONTROLS = {
  texts_original: "original",
  texts: "original",
  text: "original",
  texts_generated: "summary",
  n: "n",
};

let clock = null;
let began = 0;
let stage = null;

/** Shows a stage, as {key, step, steps}; the clock runs from the first one. */
export function showStage(next) {
  stage = next;
  show("progress", true);
  writeStage();
  if (clock === null) {
    began = performance.now();
    clock = setInterval(tick, 250);
    tick();
  }
}

function writeStage() {
  const { key, step, steps } = stage;
  const text = steps > 1 ? t("stage_of", { step, steps, stage: t(key) }) : t(key);
  byId("stage").textContent = text;
  say(text);
}

function tick() {
  const passed = Math.floor((performance.now() - began) / 1000);
  byId("elapsed").textContent = t("elapsed", { s: number(passed, 0) });
}

export function hideStage() {
  clearInterval(clock);
  clock = null;
  stage = null;
  show("progress", false);
}

/** Tells a screen reader, and nobody else. */
export function say(text) {
  byId("live").textContent = text;
}

let waiting = null;
let failure = null;

/** Whether a later try of the same request may succeed. */
export const isOverload = (error) => error.status === 503 || error.status === 429;

/** Shows an error and marks its field. With `retryIn`, counts the seconds down, then calls
 * `onRetry`. */
export function showFailure(error, { retryIn = null, onRetry = null } = {}) {
  clearFailure();
  failure = error;
  show("failure", true);
  show("retry", onRetry !== null);
  writeFailure();
  byId("retry").onclick = () => {
    clearFailure();
    onRetry();
  };
  const control = markField(error);
  if (control) control.focus();
  if (retryIn !== null) countDown(retryIn, onRetry);
}

function writeFailure() {
  const { status, code, field, message } = failure;
  const facts = [status ? `HTTP ${status}` : null, code, field].filter(Boolean).join(", ");
  byId("failure-text").replaceChildren(
    el("p", {}, t(kindOf(failure))),
    message ? el("p", { lang: "en" }, message) : "",
    el("p", { class: "hint" }, facts),
  );
}

function kindOf({ status, code }) {
  if (status === 0) return "error_unreachable";
  if (status === 401) return "error_key";
  if (status === 503 || status === 429) return "error_overload";
  if (code === "bad_response" || code === "http_error") return "error_foreign";
  return status >= 500 ? "error_server" : "error_request";
}

function markField({ field, message }) {
  const name = (field ?? "").replace(/\[\d+\]$/, "");
  const id = Object.hasOwn(CONTROLS, name) ? CONTROLS[name] : null;
  if (!id) return null;
  const control = byId(id);
  control.setAttribute("aria-invalid", "true");
  byId(`${id}-problem`).replaceChildren(el("span", { lang: "en" }, message));
  show(`${id}-problem`, true);
  control.addEventListener("input", () => unmark(id), { once: true });
  return control;
}

function unmark(id) {
  byId(id).removeAttribute("aria-invalid");
  show(`${id}-problem`, false);
}

function countDown(wait, onRetry) {
  let left = Math.max(1, Math.ceil(wait));
  const write = () => {
    byId("countdown").textContent = t("retry_in", { s: number(left, 0) });
  };
  show("countdown", true);
  write();
  waiting = setInterval(() => {
    left -= 1;
    if (left > 0) return write();
    clearFailure();
    return onRetry();
  }, 1000);
}

export function clearFailure() {
  clearInterval(waiting);
  waiting = null;
  failure = null;
  show("failure", false);
  show("countdown", false);
  byId("failure-text").replaceChildren();
  for (const id of new Set(Object.values(CONTROLS))) unmark(id);
}

/** Writes what is shown again, as in another language. */
export function rewriteStatus() {
  if (stage) writeStage();
  if (failure) writeFailure();
}
