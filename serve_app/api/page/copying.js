// What can be taken along: an outcome as JSON, its request as curl.

import { address, hasKey } from "./api.js";
import { byId, show } from "./dom.js";
import { t } from "./i18n.js";
import { weighted } from "./requests.js";
import { evaluated } from "./result.js";
import { say } from "./status.js";
import { curl } from "./text.js";
import { lossOf } from "./weights.js";

/** The answer as the server would give it for the weights on the page. */
function answerNow(shown, weights) {
  const result = evaluated(shown);
  if (!result) return shown.answer;
  const { fractions } = weights;
  const scored = (scores) => scores && { ...scores, loss: lossOf(scores.errors, fractions) };
  const own = { ...result, loss: lossOf(result.errors, fractions) };
  if (result.candidates) {
    own.candidates = result.candidates.map((one) => ({ ...one, scores: scored(one.scores) }));
  }
  return { ...shown.answer, results: [own], weights: fractions };
}

export const copyJson = (shown, weights) => copy(JSON.stringify(answerNow(shown, weights), null, 2));

export function copyCurl(shown, weights) {
  const { weights: _, ...body } = shown.body;
  const now = evaluated(shown) ? weighted(body, weights) : body;
  return copy(curl(address(shown.path), now, hasKey()));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    show("by-hand", false);
    say(t("copied"));
  } catch {
    // No permission, or a page that came over plain HTTP from another machine.
    show("by-hand", true);
    byId("copied").value = text;
    byId("copied").focus();
    byId("copied").select();
  }
}
