// The summaries of a best-of-n answer side by side, one of them chosen.

import { byId, el, show } from "./dom.js";
import { metricText } from "./gauges.js";
import { number, t } from "./i18n.js";
import { countWords } from "./text.js";
import { METRICS, lossOf } from "./weights.js";

/** Fills the cards, or hides them where there are fewer than two candidates.
 *
 * `fractions` are the weights the losses are shown for, `onChoose` gets a candidate. */
export function showCandidates(candidates, chosen, fractions, onChoose) {
  show("candidates-part", candidates.length > 1);
  const losses = candidates.map(({ scores }) => (scores ? lossOf(scores.errors, fractions) : null));
  const least = Math.min(...losses.filter((loss) => loss !== null));
  const scored = losses.some((loss) => loss !== null);
  byId("candidates-hint").textContent = t(scored ? "candidates_hint" : "candidates_unscored");
  const cards = candidates.map((candidate, index) => {
    const isChosen = candidate.variant === chosen;
    const name = `candidate-${candidate.variant}`;
    return el(
      "li",
      { class: isChosen ? "card chosen" : "card" },
      el("h4", { id: name }, t("candidate_n", { n: index + 1 })),
      verdict(losses[index], least),
      candidate.scores ? figures(candidate.scores.metrics) : null,
      el("p", { class: "hint" }, t("words", { n: number(countWords(candidate.summary), 0) })),
      el(
        "div",
        { class: "summary scroll", tabindex: 0, role: "group", "aria-labelledby": name, lang: "en" },
        candidate.summary || t("no_text"),
      ),
      el(
        "button",
        {
          type: "button",
          id: `choose-${candidate.variant}`,
          "aria-pressed": String(isChosen),
          "aria-describedby": name,
          disabled: !candidate.summary,
          onclick: () => onChoose(candidate),
        },
        t(isChosen ? "chosen" : "choose"),
      ),
    );
  });
  byId("candidates").replaceChildren(...cards);
}

function verdict(loss, least) {
  if (loss === null) return null;
  const text = t("loss_is", { loss: number(loss, 3) });
  return el("p", {}, el("strong", {}, text), loss === least ? ` ${t("least_loss")}` : "");
}

function figures(metrics) {
  const rows = METRICS.flatMap((metric) => [
    el("dt", {}, t(metric)),
    el("dd", {}, metricText(metric, metrics[metric])),
  ]);
  return el("dl", {}, rows);
}
