// What the page asks the API for, and the answers with what is needed to show and to repeat them.
// An outcome is {path, body, answer, original, candidates, chosen, written}: `written` is what the
// generator said of a summary that was scored after it.

import { post, stream } from "./api.js";
import { serves } from "./server.js";
import { showStage } from "./status.js";

/** A request's body with the weights on the page, where they are not the server's own. */
export const weighted = (body, weights) =>
  weights.equal ? body : { ...body, weights: weights.fractions };

/** Scores one summary. */
export async function score(original, summary, weights, signal, place = { step: 1, steps: 1 }) {
  showStage({ key: "stage_scoring", ...place });
  const pair = { texts_original: [original], texts_generated: [summary], explain: true };
  const body = weighted(pair, weights);
  const answer = await post("evaluate", body, signal);
  return { path: "evaluate", body, answer, original, candidates: [], chosen: null };
}

/** Writes one summary, `onText` being given it as it grows, and scores it where that is served. */
export async function writeOne(original, weights, signal, onText) {
  const steps = serves("metrics") ? 2 : 1;
  showStage({ key: "stage_writing", step: 1, steps });
  const body = { text: original };
  let text = "";
  const written = await stream("generate", body, signal, (piece) => {
    text += piece;
    onText(text);
  });
  onText(written.summary);
  if (steps === 1) {
    return { path: "generate", body, answer: written, original, candidates: [], chosen: null };
  }
  const scored = await score(original, written.summary, weights, signal, { step: 2, steps });
  return { ...scored, written };
}

/** Writes n summaries, the one of least loss first where they can be scored. */
export async function writeSeveral(original, n, weights, signal) {
  // A seed of the page's own, so that the copied request gives the same candidates.
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  if (!serves("metrics")) {
    showStage({ key: "stage_writing_n", step: 1, steps: 1 });
    const body = { text: original, n, seed };
    const answer = await post("generate", body, signal);
    return among(answer.candidates, { path: "generate", body, answer, original });
  }
  showStage({ key: "stage_best", step: 1, steps: 1 });
  const body = weighted({ texts_original: [original], n, seed, explain: true }, weights);
  const answer = await post("evaluate", body, signal);
  return among(answer.results[0].candidates, { path: "evaluate", body, answer, original });
}

const among = (candidates, rest) => ({ ...rest, candidates, chosen: candidates[0].variant });

/** The outcome with another of its candidates in the place of the one that is shown. */
export async function take(candidate, shown, weights, signal) {
  const kept = { candidates: shown.candidates, chosen: candidate.variant };
  if (!serves("metrics")) return { ...shown, ...kept, answer: { ...shown.answer, ...candidate } };
  return { ...(await score(shown.original, candidate.summary, weights, signal)), ...kept };
}
