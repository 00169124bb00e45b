// The loss, its parts, and the sliders of the weights. Everything is computed from the errors the
// server gave; no request is sent.

import { byId, el, svg } from "./dom.js";
import { number, percent, t } from "./i18n.js";
import { METRICS, lossOf, parts } from "./weights.js";

/** Builds the table; `onMove` is called after each move of a slider. */
export function buildLoss(errors, weights, onMove) {
  const rows = METRICS.map((metric, index) => {
    const slider = el("input", {
      type: "range",
      id: `weight-${metric}`,
      min: 0,
      max: 100,
      step: 1,
      "aria-label": t("weight_of", { metric: t(metric) }),
      oninput: (event) => {
        weights.move(index, Number(event.target.value));
        updateLoss(errors, weights);
        onMove();
      },
    });
    // The roles are those of a table; a phone shows its rows as grids, which would lose them.
    const key = el("span", { class: `key m${index}`, "aria-hidden": "true" });
    const share = el("span", { id: `percent-${metric}`, class: "percent" });
    return el(
      "tr",
      { role: "row" },
      el("th", { role: "rowheader" }, key, t(metric)),
      el("td", { role: "cell", class: "number" }, number(errors[metric], 3)),
      el("td", { role: "cell", class: "weight" }, slider, share),
      el("td", { role: "cell", class: "number", id: `part-${metric}` }),
    );
  });
  byId("parts").replaceChildren(...rows);
  updateLoss(errors, weights);
}

/** Puts the numbers of the weights into the table that is there. */
export function updateLoss(errors, weights) {
  const fractions = weights.fractions;
  const shares = parts(errors, fractions);
  const loss = lossOf(errors, fractions);
  METRICS.forEach((metric, index) => {
    const slider = byId(`weight-${metric}`);
    slider.value = String(weights.percents[index]);
    const part = number(shares[index], 3);
    const share = percent(fractions[index]);
    slider.setAttribute("aria-valuetext", t("weight_text", { share, part }));
    byId(`percent-${metric}`).textContent = share;
    byId(`part-${metric}`).textContent = part;
  });
  byId("loss").textContent = number(loss, 3);
  byId("parts-bar").replaceChildren(bar(shares));
}

function bar(shares) {
  let at = 0;
  const blocks = shares.map((share, index) => {
    const x = at;
    at += share;
    const place = { x: `${100 * x}%`, y: 0, width: `${100 * share}%`, height: 16 };
    return svg("rect", { class: `m${index}`, ...place });
  });
  return svg("svg", { width: "100%", height: 16, focusable: "false" }, ...blocks);
}
