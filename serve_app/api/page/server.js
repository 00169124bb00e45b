// What the server offers and whether it is ready: asked again until it is, shown at the top.

import { ApiError, health } from "./api.js";
import { byId, el, show } from "./dom.js";
import { t } from "./i18n.js";

const POLL_S = 3;

let services = new Set();
let state = null; // the last answer of /healthz, or the error in its place

export const serves = (service) => services.has(service);

export async function watchServer() {
  let wait = null;
  try {
    const answer = await health();
    state = answer.health;
    services = new Set(state.services);
    if (state.status !== "ready") wait = answer.retryAfter ?? POLL_S;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    state = error;
    wait = error.retryAfter ?? POLL_S;
  }
  writeServer();
  if (wait !== null) setTimeout(watchServer, 1000 * wait);
}

/** Hides what is not served, and says what is wrong. */
export function writeServer() {
  show("generate-part", serves("generator"));
  show("score-part", serves("metrics"));
  const alone = serves("metrics") ? "_metrics" : "_generator";
  byId("empty").textContent = t(services.size === 1 ? `empty${alone}` : "empty");
  const lines = messages();
  show("server", lines.length > 0);
  byId("server").replaceChildren(...lines);
  const models = Object.values(state?.components ?? {}).map((part) => part.model);
  const known = models.filter((model) => typeof model === "string" && model !== "loss");
  const names = [...new Set(known)].join(", ");
  byId("models").textContent = names ? t("models", { models: names }) : "";
}

function messages() {
  if (state === null) return [];
  if (state instanceof ApiError) return [el("p", {}, t("server_unreachable"))];
  if (state.status === "ready") return state.warnings.map((text) => el("p", { lang: "en" }, text));
  const waiting = Object.entries(state.components).filter(([, part]) => !part.ready);
  const names = waiting.map(([name]) => name).join(", ");
  return [el("p", {}, t("server_starting", { names }))];
}
