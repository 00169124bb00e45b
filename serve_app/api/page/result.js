// Shows an outcome (see requests.js): which parts there are, and the warnings. Each part is drawn by a
// module of its own.

import { showCandidates } from "./candidates.js";
import { byId, el, show } from "./dom.js";
import { severeText, showFindings } from "./findings.js";
import { showGauges } from "./gauges.js";
import { languageName, t } from "./i18n.js";
import { buildLoss } from "./loss.js";
import { ofEvaluation, ofSummary, showSentences } from "./sentences.js";

/** The result of /evaluate in an outcome, or null. */
export const evaluated = (shown) => (shown?.path === "evaluate" ? shown.answer.results[0] : null);

/** The summary an outcome is about. */
export const summaryOf = (shown) => evaluated(shown)?.generated ?? shown?.answer.summary;

/** Shows an outcome, or with null that there is none. */
export function writeResult(shown, weights, onChoose) {
  const result = evaluated(shown);
  show("empty", shown === null);
  for (const id of ["gauges-part", "loss-part", "findings-part"]) show(id, result !== null);
  for (const id of ["sentences-part", "copy-part"]) show(id, shown !== null);
  show("by-hand", false);
  writeCandidates(shown, weights, onChoose);
  writeWarnings(shown);
  if (shown === null) return;
  if (result) {
    showGauges(byId("gauges"), result);
    showFindings(shown.original, result);
    buildLoss(result.errors, weights, () => writeCandidates(shown, weights, onChoose));
  }
  showSentences(result ? ofEvaluation(shown.original, result) : ofSummary(shown.answer));
}

export function writeCandidates(shown, weights, onChoose) {
  showCandidates(shown?.candidates ?? [], shown?.chosen, weights.fractions, onChoose);
}

function writeWarnings(shown) {
  const truncated = evaluated(shown)?.truncated ?? {};
  const keys = Object.keys(truncated).filter((part) => truncated[part] === true);
  const written = shown?.written ?? (evaluated(shown) ? null : shown?.answer);
  if (written?.truncated) keys.push("generator");
  if (["length", "time"].includes(written?.finish_reason)) keys.push(written.finish_reason);
  const result = evaluated(shown);
  const said = [...keys.map((key) => t(`cut_${key}`)), ...otherLanguages(result ?? {})];
  const severe = result && severeText(result);
  if (severe) said.unshift(el("a", { href: "#findings-heading" }, severe));
  show("warnings", said.length > 0);
  byId("warnings").replaceChildren(...said.map((text) => el("li", {}, text)));
}

/** Warnings about texts that are not English, for which the metrics mean nothing. */
function otherLanguages({ language, original_language: original }) {
  const named = [["language_summary", language], ["language_original", original]];
  const others = named.filter(([, code]) => code && code !== "en");
  return others.map(([key, code]) => t(key, { language: languageName(code) }));
}
