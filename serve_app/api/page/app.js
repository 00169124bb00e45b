// The page's behaviour: what the controls do, one request at a time, and what is remembered.
// What is asked, how it is shown and what goes wrong is in the other modules.

import { ApiError, address, useKey } from "./api.js";
import { copyCurl, copyJson } from "./copying.js";
import { byId, show } from "./dom.js";
import { severeText } from "./findings.js";
import { number, t, use } from "./i18n.js";
import { updateLoss } from "./loss.js";
import { score, take, writeOne, writeSeveral } from "./requests.js";
import { evaluated, summaryOf, writeCandidates, writeResult } from "./result.js";
import { forgetFocus } from "./sentences.js";
import { serves, watchServer, writeServer } from "./server.js";
import * as status from "./status.js";
import { countWords } from "./text.js";
import { Weights, lossOf } from "./weights.js";

const AUTOMATIC_TRIES = 3;
const WAIT_S = 3; // where a busy server names no time

const weights = new Weights();
let job = null; // the AbortController of what is under way
let shown = null; // the outcome on the page (see requests.js)

// --- one request at a time -------------------------------------------------------------------

/** Runs `work(signal)` in the place of what is under way; its errors are shown and, where the
 * server is busy, it is tried again. */
async function run(work, tries = AUTOMATIC_TRIES) {
  job?.abort();
  const mine = new AbortController();
  job = mine;
  status.hideStage();
  status.clearFailure();
  try {
    await work(mine.signal);
  } catch (error) {
    if (job !== mine) return; // another request has taken its place
    if (error.name === "AbortError") status.say(t("cancelled"));
    else fail(error, tries, (left) => run(work, left));
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
  const retryIn = automatic ? (failure.retryAfter ?? WAIT_S) : null;
  const onRetry = () => again(automatic ? tries - 1 : AUTOMATIC_TRIES);
  status.showFailure(failure, { retryIn, onRetry });
  if (failure.status === 401) {
    show("key-part", true);
    byId("key").focus();
  }
}

// --- what the buttons do ---------------------------------------------------------------------

const scoreNow = () =>
  run(async (signal) => {
    const original = byId("original").value;
    const summary = byId("summary").value;
    const outcome = await score(original, summary, weights, signal);
    const kept = shown?.original === original ? shown.candidates : [];
    const chosen = kept.find((one) => one.summary === summary);
    if (chosen) Object.assign(outcome, { candidates: kept, chosen: chosen.variant });
    showOutcome(outcome);
    byId("results-heading").focus();
  });

const generate = () =>
  run(async (signal) => {
    const original = byId("original").value;
    const n = Number(byId("n").value);
    const outcome = await (n > 1
      ? writeSeveral(original, n, weights, signal)
      : writeOne(original, weights, signal, writeSummary));
    showOutcome(outcome);
    writeSummary(summaryOf(outcome));
    byId("results-heading").focus();
  });

const choose = (candidate) =>
  run(async (signal) => {
    writeSummary(candidate.summary);
    showOutcome(await take(candidate, shown, weights, signal));
    byId(`choose-${candidate.variant}`).focus();
  });

const useSample = () =>
  run(async (signal) => {
    const answer = await fetch(address("page/sample.txt"), { signal });
    byId("original").value = await answer.text();
    countAll();
    byId("original").focus();
  });

function equalWeights() {
  weights.reset();
  updateLoss(evaluated(shown).errors, weights);
  writeCandidates(shown, weights, choose);
}

// --- what is shown ---------------------------------------------------------------------------

/** Shows an outcome; one that is not as the API says leaves the last one on the page. */
function showOutcome(outcome) {
  forgetFocus();
  try {
    writeResult(outcome, weights, choose);
  } catch (error) {
    writeResult(shown, weights, choose);
    throw error;
  }
  shown = outcome;
  const result = evaluated(shown);
  const loss = result && number(lossOf(result.errors, weights.fractions), 3);
  const said = [result ? t("said_loss", { loss }) : t("said_written"), result && severeText(result)];
  status.say(said.filter(Boolean).join(" "));
}

function writeSummary(text) {
  byId("summary").value = text;
  countAll();
}

function countAll() {
  for (const id of ["original", "summary"]) {
    byId(`${id}-count`).textContent = t("words", { n: number(countWords(byId(id).value), 0) });
  }
  const same =
    byId("original").value === shown?.original && byId("summary").value === summaryOf(shown);
  show("stale", shown !== null && job === null && !same);
}

async function chooseLanguage(language) {
  await use(language);
  byId("language").value = language;
  writeServer();
  writeResult(shown, weights, choose);
  status.rewriteStatus();
  countAll();
}

function chooseTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function remember(name, value) {
  try {
    localStorage.setItem(`plainmed-${name}`, value);
  } catch {
    // Refused storage: the choice holds until the page is closed.
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
    scoreNow();
  };
  byId("texts").onkeydown = (event) => {
    const asked = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (asked && serves("metrics")) scoreNow();
  };
  byId("original").oninput = countAll;
  byId("summary").oninput = countAll;
  byId("sample").onclick = useSample;
  byId("generate").onclick = generate;
  byId("cancel").onclick = () => job?.abort();
  byId("give-up").onclick = () => status.clearFailure();
  byId("equal").onclick = equalWeights;
  byId("copy-json").onclick = () => copyJson(shown, weights);
  byId("copy-curl").onclick = () => copyCurl(shown, weights);
}

listen();
await chooseLanguage(document.documentElement.lang);
await watchServer();
