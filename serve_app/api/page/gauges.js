// The five metrics as gauges: where a value lies beside the band of human-written summaries.

import { el, svg } from "./dom.js";
import { number, t } from "./i18n.js";
import { METRICS } from "./weights.js";

// What a gauge spans unless the value or its band lies outside.
const SPANS = {
  relevance: [0, 1],
  factuality: [0, 1],
  fkgl: [0, 24],
  smog: [0, 24],
  dale_chall: [0, 16],
};
const DECIMALS = { relevance: 3, factuality: 3, fkgl: 1, smog: 1, dale_chall: 2 };

/** A metric's value as it is written everywhere on the page. */
export const metricText = (metric, value) => number(value, DECIMALS[metric]);

/** Fills the list with a gauge for each metric of a result. */
export function showGauges(list, result) {
  list.replaceChildren(...METRICS.map((metric) => gauge(metric, result)));
}

function gauge(metric, result) {
  const value = result.metrics[metric];
  const target = result.targets[metric];
  const sigma = result.explanation.sigmas[metric];
  const low = target - sigma;
  const high = target + sigma;
  const [from, to] = SPANS[metric];
  const least = Math.min(from, Math.floor(low), Math.floor(value));
  const most = Math.max(to, Math.ceil(high), Math.ceil(value));
  const place = value < low ? "below" : value > high ? "above" : "inside";
  const text = (x) => metricText(metric, x);
  const said = t(`gauge_${place}`, { value: text(value) });
  const name = `gauge-${metric}`;
  return el(
    "li",
    { class: `card gauge ${place}` },
    el("h4", { id: name }, t(metric)),
    el("p", { class: "hint" }, t(`${metric}_means`)),
    el(
      "div",
      {
        role: "meter",
        "aria-labelledby": name,
        "aria-valuemin": least,
        "aria-valuemax": most,
        "aria-valuenow": value,
        "aria-valuetext": said,
      },
      drawing(least, most, low, high, target, value),
    ),
    el("p", { class: "value" }, el("strong", {}, text(value)), " ", t(`place_${place}`)),
    el("p", { class: "hint" }, t("band", { target: text(target), low: text(low), high: text(high) })),
  );
}

function drawing(least, most, low, high, target, value) {
  const at = (x) => `${((100 * (x - least)) / (most - least)).toFixed(2)}%`;
  const wide = (from, to) => `${((100 * (to - from)) / (most - least)).toFixed(2)}%`;
  return svg(
    "svg",
    { class: "scale", width: "100%", height: "34", "aria-hidden": "true", focusable: "false" },
    svg("rect", { class: "track", x: 0, y: 14, width: "100%", height: 8, rx: 4 }),
    svg("rect", { class: "band", x: at(low), y: 10, width: wide(low, high), height: 16, rx: 3 }),
    svg("line", { class: "target", x1: at(target), x2: at(target), y1: 8, y2: 28 }),
    svg("circle", { class: "marker", cx: at(value), cy: 18, r: 7 }),
  );
}
