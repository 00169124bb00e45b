// The page's behaviour: what the buttons ask of the server, and what is shown of the answers.
// How each part looks is in the other modules.

import { ApiError, address, hasKey, health, post, stream, useKey } from "./api.js";
import { showCandidates } from "./candidates.js";
import { byId, el, show } from "./dom.js";
import { showGauges } from "./gauges.js";
import { currentLanguage, number, t, use } from "./i18n.js";
import { buildLoss, updateLoss } from "./loss.js";
import { forgetFocus, ofEvaluation, ofSummary, showSentences } from "./sentences.js";
import * as status from "./status.js";
import { countWords, curl } from "./text.js";
import { Weights, lossOf } from "./weights.js";

const AUTOMATIC_TRIES = 3;
const POLL_S = 3;

const weights = new Weights();
let services = new Set();
let server = null; // the last answer of /healthz, or the error in its place
let job = null; // the AbortController of what is under way
let shown = null; // {path, body, answer, original, candidates, chosen}

// --- remembered choices ----------------------------------------------------------------------

function remember(name, value) {
  try {
    localStorage.setItem(`plainmed-${name}`, value);
  } catch {
    // Refused storage: the choice holds until the page is closed.
  }
}

async function chooseLanguage(language) {
  await use(language);
  byId("language").value = language;
  writeAll();
}

function chooseTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

// --- the server ------------------------------------------------------------------------------

async function watchServer() {
  try {
    const { health: state, retryAfter } = await health();
    server = state;
    services = new Set(state.services);
    if (state.status !== "ready") setTimeout(watchServer, 1000 * (retryAfter ?? POLL_S));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    server = error;
    setTimeout(watchServer, 1000 * (error.retryAfter ?? POLL_S));
  }
  writeServer();
}

function writeServer() {
  show("generate-part", services.has("generator"));
  show("score-part", services.has("metrics"));
  const hint = services.has("metrics") ? (services.has("generator") ? "" : "_metrics") : "_generator";
  byId("empty").textContent = t(`empty${hint}`);
  const lines = serverLines();
  show("server", lines.length > 0);
  byId("server").replaceChildren(...lines);
  const models = Object.values(server?.components ?? {}).map((part) => part.model);
  const known = [...new Set(models.filter((model) => typeof model === "string" && model !== "loss"))];
  byId("models").textContent = known.length ? t("models", { models: known.join(", ") }) : "";
}

function serverLines() {
  if (server === null) return [];
  if (server instanceof ApiError) return [el("p", {}, t("server_unreachable"))];
  if (server.status === "ready") return server.warnings.map((text) => el("p", { lang: "en" }, text));
  const parts = Object.entries(server.components).filter(([, part]) => !part.ready);
  const names = parts.map(([name]) => name).join(", ");
  return [el("p", {}, t("server_starting", { names }))];
}

// --- asking ----------------------------------------------------------------------------------

/** Runs `work(signal)`, with its errors shown and, where the server is busy, tried again. */
async function run(work, tries = AUTOMATIC_TRIES) {
  job?.abort();
  const mine = new AbortController();
  job = mine;
  status.hideStage();
  status.clearFailure();
  const again = (left) => run(work, left);
  try {
    await work(mine.signal);
  } catch (error) {
    if (job !== mine) return; // another request has taken its place
    if (error.name === "AbortError") status.say(t("cancelled"));
    else fail(error, tries, again);
  } finally {
    if (job === mine) {
      job = null;
      status.hideStage();
      countAll();
    }
  }
}

function fail(error, tries, again) {
  const known = error instanceof ApiError;
  if (!known) console.error(error);
  const failure = known ? error : new ApiError("", { status: 200, code: "bad_response" });
  const automatic = status.isOverload(failure) && tries > 0;
  const retryIn = automatic ? (failure.retryAfter ?? POLL_S) : null;
  status.showFailure(failure, { retryIn, onRetry: () => again(automatic ? tries - 1 : AUTOMATIC_TRIES) });
  if (failure.status === 401) {
    show("key-part", true);
    byId("key").focus();
  }
}

const weighted = (body) => (weights.equal ? body : { ...body, weights: weights.fractions });

const pair = (original, summary) =>
  weighted({ texts_original: [original], texts_generated: [summary], explain: true });

/** Scores the summary as it stands. */
const score = () =>
  run(async (signal) => {
    const original = byId("original").value;
    const summary = byId("summary").value;
    status.showStage({ key: "stage_scoring", step: 1, steps: 1 });
    const body = pair(original, summary);
    const answer = await post("evaluate", body, signal);
    const kept = (shown?.candidates ?? []).find((one) => one.summary === summary);
    const candidates = kept && shown.original === original ? shown.candidates : [];
    showAnswer({ path: "evaluate", body, answer, original, candidates, chosen: kept?.variant ?? null });
    byId("results-heading").focus();
  });

/** Has the generator write one summary or n, and scores them where metrics are served. */
const generate = () =>
  run(async (signal) => {
    const original = byId("original").value;
    const n = Number(byId("n").value);
    const found = await (n > 1 ? best(original, n, signal) : one(original, signal));
    showAnswer({ ...found, original });
    byId("results-heading").focus();
  });

async function one(original, signal) {
  const steps = services.has("metrics") ? 2 : 1;
  status.showStage({ key: "stage_writing", step: 1, steps });
  const request = { text: original };
  let written = "";
  const summary = await stream("generate", request, signal, (piece) => {
    written += piece;
    byId("summary").value = written;
    countAll();
  });
  byId("summary").value = summary.summary;
  if (steps === 1) {
    return { path: "generate", body: request, answer: summary, candidates: [], chosen: null };
  }
  status.showStage({ key: "stage_scoring", step: 2, steps });
  const body = pair(original, summary.summary);
  const answer = await post("evaluate", body, signal);
  return { path: "evaluate", body, answer, candidates: [], chosen: null, written: summary };
}

async function best(original, n, signal) {
  // A seed of the page's own, so that the copied request gives the same candidates.
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  if (services.has("metrics")) {
    status.showStage({ key: "stage_best", step: 1, steps: 1 });
    const body = weighted({ texts_original: [original], n, seed, explain: true });
    const answer = await post("evaluate", body, signal);
    const { candidates } = answer.results[0];
    byId("summary").value = answer.results[0].generated;
    return { path: "evaluate", body, answer, candidates, chosen: candidates[0].variant };
  }
  status.showStage({ key: "stage_writing_n", step: 1, steps: 1 });
  const body = { text: original, n, seed };
  const answer = await post("generate", body, signal);
  byId("summary").value = answer.summary;
  return { path: "generate", body, answer, candidates: answer.candidates, chosen: answer.candidates[0].variant };
}

/** Takes one of the candidates in the place of the one that is shown. */
function choose(candidate) {
  const { original, candidates } = shown;
  byId("summary").value = candidate.summary;
  const chosen = candidate.variant;
  return run(async (signal) => {
    let found = { path: shown.path, body: shown.body, answer: { ...shown.answer, ...candidate } };
    if (services.has("metrics")) {
      status.showStage({ key: "stage_scoring", step: 1, steps: 1 });
      const body = pair(original, candidate.summary);
      found = { path: "evaluate", body, answer: await post("evaluate", body, signal) };
    }
    showAnswer({ ...found, original, candidates, chosen });
    byId(`choose-${chosen}`).focus();
  });
}

// --- showing ---------------------------------------------------------------------------------

/** Keeps an answer and shows it; one that is not as the API says leaves the last one shown. */
function showAnswer(next) {
  const before = shown;
  shown = next;
  forgetFocus();
  try {
    writeResult();
  } catch (error) {
    shown = before;
    writeResult();
    throw error;
  }
  countAll();
  const result = evaluated();
  status.say(result ? t("said_loss", { loss: number(lossOf(result.errors, weights.fractions), 3) }) : t("said_written"));
}

const evaluated = () => (shown?.path === "evaluate" ? shown.answer.results[0] : null);

function writeResult() {
  const result = evaluated();
  show("empty", shown === null);
  for (const id of ["gauges-part", "loss-part"]) show(id, result !== null);
  for (const id of ["sentences-part", "copy-part"]) show(id, shown !== null);
  show("by-hand", false);
  writeCandidates();
  writeWarnings();
  if (shown === null) return;
  if (result) {
    showGauges(byId("gauges"), result);
    buildLoss(result.errors, weights, writeCandidates);
  }
  showSentences(result ? ofEvaluation(shown.original, result) : ofSummary(shown.answer));
}

function writeCandidates() {
  showCandidates(shown?.candidates ?? [], shown?.chosen, weights.fractions, choose);
}

function writeWarnings() {
  const truncated = evaluated()?.truncated ?? {};
  const keys = Object.keys(truncated).filter((part) => truncated[part] === true);
  const written = shown?.written ?? (evaluated() ? null : shown?.answer);
  if (written?.truncated) keys.push("generator");
  if (["length", "time"].includes(written?.finish_reason)) keys.push(written.finish_reason);
  show("warnings", keys.length > 0);
  byId("warnings").replaceChildren(...keys.map((key) => el("li", {}, t(`cut_${key}`))));
}

function countAll() {
  for (const id of ["original", "summary"]) {
    byId(`${id}-count`).textContent = t("words", { n: number(countWords(byId(id).value), 0) });
  }
  const generated = evaluated()?.generated ?? shown?.answer.summary;
  const same = byId("original").value === shown?.original && byId("summary").value === generated;
  show("stale", shown !== null && job === null && !same);
}

function writeAll() {
  writeServer();
  writeResult();
  status.rewriteStatus();
  countAll();
}

// --- taking it along -------------------------------------------------------------------------

/** The answer as the server would give it for the weights on the page. */
function answerNow() {
  const result = evaluated();
  if (!result) return shown.answer;
  const fractions = weights.fractions;
  const scored = (scores) => scores && { ...scores, loss: lossOf(scores.errors, fractions) };
  const own = { ...result, loss: lossOf(result.errors, fractions) };
  if (result.candidates) {
    own.candidates = result.candidates.map((one) => ({ ...one, scores: scored(one.scores) }));
  }
  return { ...shown.answer, results: [own], weights: fractions };
}

function requestNow() {
  const { weights: _, ...body } = shown.body;
  return shown.path === "evaluate" ? weighted(body) : body;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    show("by-hand", false);
    status.say(t("copied"));
  } catch {
    // No permission, or a page that came over plain HTTP from another machine.
    show("by-hand", true);
    byId("copied").value = text;
    byId("copied").focus();
    byId("copied").select();
  }
}

// --- wiring ----------------------------------------------------------------------------------

function listen() {
  byId("language").onchange = (event) => {
    remember("language", event.target.value);
    chooseLanguage(event.target.value);
  };
  byId("theme").value = document.documentElement.dataset.theme ?? "system";
  byId("theme").onchange = (event) => {
    remember("theme", event.target.value);
    chooseTheme(event.target.value);
  };
  byId("key").oninput = (event) => useKey(event.target.value);
  byId("texts").onsubmit = (event) => {
    event.preventDefault();
    score();
  };
  byId("texts").onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && services.has("metrics")) score();
  };
  byId("generate").onclick = generate;
  byId("sample").onclick = () =>
    run(async (signal) => {
      const answer = await fetch(address("page/sample.txt"), { signal });
      byId("original").value = await answer.text();
      countAll();
      byId("original").focus();
    });
  byId("original").oninput = countAll;
  byId("summary").oninput = countAll;
  byId("cancel").onclick = () => job?.abort();
  byId("give-up").onclick = () => status.clearFailure();
  byId("equal").onclick = () => {
    weights.reset();
    updateLoss(evaluated().errors, weights);
    writeCandidates();
  };
  byId("copy-json").onclick = () => copy(JSON.stringify(answerNow(), null, 2));
  byId("copy-curl").onclick = () => copy(curl(address(shown.path), requestNow(), hasKey()));
}

listen();
await chooseLanguage(document.documentElement.lang);
byId("language").value = currentLanguage();
await watchServer();
