// What the summary says otherwise than the original, and what it leaves out: a list, and the words in
// both texts. Takes what the server found; asks it nothing and judges nothing.

import { byId, el, narrow, show } from "./dom.js";
import { speaks, t } from "./i18n.js";
import { Points, overlaid, pieces } from "./text.js";

const GRAVEST = ["severe", "minor", "note"];
const MOST_QUOTES = 3;

/** How many findings of a result mislead a reader, in words; 0 where none does. */
export const severeText = (result) => severeOf(result) && t("findings_severe", { n: severeOf(result) });

const severeOf = (result) => result.findings.filter(({ severity }) => severity === "severe").length;

let original = new Points("");
let entries = []; // findings, then omissions: `{spans, button, links}`, spans in the original
let selected = 0;

/** Fills the part for a result of /evaluate; the first entry is selected. */
export function showFindings(source, result) {
  original = new Points(source);
  const summary = new Points(result.generated);
  const found = result.findings.map((one) => ({ ...one, words: wordsOf(one) }));
  const counts = { n: found.length, severe: severeOf(result), omitted: result.omissions.length };
  const any = found.length + counts.omitted > 0;
  byId("findings-hint").textContent = any ? t("findings_hint", counts) : t("findings_none");
  show("findings-body", any);
  show("findings-legend", found.length > 0);
  byId("findings-legend").replaceChildren(...GRAVEST.map(sample));
  byId("marked-home").append(byId("marked")); // it may stand in a list that goes
  entries = [];
  byId("findings").replaceChildren(
    ...found.map((one) => line(finding(one, summary), one.source_spans)),
  );
  byId("omissions").replaceChildren(
    ...result.omissions.map((one) => line(omission(one), [one.source_span])),
  );
  show("differences-part", found.length > 0);
  show("omissions-part", counts.omitted > 0);
  show("findings-more", Boolean(result.findings_left_out));
  byId("findings-more").textContent = t("findings_more", { n: result.findings_left_out ?? 0 });
  byId("marked-summary").replaceChildren(...marked(summary, found));
  selected = 0;
  update();
}

/** The words of a finding in the summary; where the summary lacks words, its whole sentence. */
function wordsOf({ summary_spans: spans, sentence }) {
  const known = spans.filter(({ start, end }) => end > start);
  return known.length ? known : [sentence];
}

function sample(severity) {
  const name = el("span", { class: `at ${severity}` }, t(`severity_${severity}`));
  return el("li", {}, name, `: ${t(`severity_${severity}_means`)}`);
}

// --- the list --------------------------------------------------------------------------------

function finding(one, summary) {
  const { kind, severity } = one;
  const names = { severity: t(`severity_${severity}`), kind: t(`kind_${kind}`) };
  const badge = t("findings_badge", { ...names, n: entries.length + 1 });
  const means = t(`kind_${kind}_means`);
  return { level: severity, badge, title: means, said: message(one, means, summary) };
}

/** What differs, in a sentence: the server's own in English, else that of its kind and the words. */
function message({ message: said, words, sentence }, means, summary) {
  if (speaks("en")) return [said];
  const length = sentence.end - sentence.start;
  const own = words.filter(({ start, end }) => end - start < length);
  if (!own.length) return [`${means}.`];
  const quoted = own.flatMap(({ start, end }, at) => [
    at ? ", " : "",
    quote(summary.slice(start, end)),
  ]);
  return [`${means}: `, ...quoted, "."];
}

const omission = ({ topic }) => ({
  level: "left-out",
  badge: t(`topic_${topic}`),
  said: [t(`topic_${topic}_means`)],
});

const quote = (...text) => el("q", { lang: "en" }, ...text);

function line({ level, badge, title, said }, spans) {
  const index = entries.length;
  const button = el(
    "button",
    {
      type: "button",
      class: `finding ${level}`,
      "aria-controls": "marked",
      onfocus: () => select(index),
      onclick: () => select(index),
    },
    el("span", { class: "badge", id: `finding-${index}`, title }, badge),
    el("span", {}, said),
  );
  entries.push({ spans, button, links: [] });
  return el("li", {}, button, ...sources(spans));
}

/** The sentences of the original, with the words in them marked. */
function sources(spans) {
  const around = new Map();
  for (const span of ordered(spans)) {
    const { start, end } = original.sentence(span.start, span.end);
    const last = [...around.values()].at(-1);
    if (last && start < last.end) last.end = Math.max(last.end, end);
    else around.set(start, { start, end });
  }
  const quotes = [...around.values()].slice(0, MOST_QUOTES).map(({ start, end }) => {
    const inside = ordered(spans).filter((span) => span.start >= start && span.end <= end);
    const whole = inside.some((span) => span.start === start && span.end === end);
    return el("p", {}, quote(whole ? original.slice(start, end) : cut(start, end, inside)));
  });
  if (!quotes.length) return [];
  return [el("div", { class: "source" }, el("p", { class: "hint" }, t("in_original")), quotes)];
}

const ordered = (spans) =>
  spans.filter(({ start, end }) => end > start).sort((a, b) => a.start - b.start);

const cut = (start, end, spans) =>
  pieces(start, end, spans).map((one) => {
    const text = original.slice(one.start, one.end);
    return one.mark ? el("mark", {}, text) : text;
  });

// --- the texts -------------------------------------------------------------------------------

/** The summary's text, with a link to its finding at the words of each. */
function marked(summary, found) {
  const spans = found.flatMap(({ words }, index) => words.map((span) => ({ ...span, index })));
  const reached = new Set(); // findings that the Tab key reaches already
  return overlaid(summary.length, spans).map(({ start, end, over }) => {
    const text = summary.slice(start, end);
    if (!over.length) return text;
    const rank = ({ index }) => GRAVEST.indexOf(found[index].severity);
    const length = (span) => span.end - span.start;
    const [{ index }] = [...over].sort((a, b) => rank(a) - rank(b) || length(a) - length(b));
    const here = [...new Set(over.map((span) => span.index))];
    const ending = new Set(over.filter((span) => span.end === end).map((span) => span.index + 1));
    const link = el(
      "a",
      {
        href: `#finding-${index}`,
        class: `at ${found[index].severity}`,
        "aria-describedby": `finding-${index}`,
        "data-n": ending.size ? [...ending].join(", ") : null,
        tabindex: reached.has(index) ? -1 : null,
        onclick: (event) => follow(event, index),
      },
      text,
    );
    reached.add(index);
    for (const one of here) entries[one].links.push(link);
    return link;
  });
}

function follow(event, index) {
  event.preventDefault();
  select(index);
  entries[index].button.focus();
}

function select(index) {
  selected = index;
  update();
}

function update() {
  const entry = entries[selected];
  if (!entry) return;
  entries.forEach(({ button, links }, index) => {
    if (index === selected) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    for (const link of links) link.classList.toggle("active", entry.links.includes(link));
  });
  const home = narrow() ? entry.button.parentNode : byId("marked-home");
  const at = byId("marked-summary").scrollTop; // lost where the texts move
  if (byId("marked").parentNode !== home) home.append(byId("marked"));
  const spans = ordered(entry.spans);
  const source = byId("marked-original");
  source.replaceChildren(...cut(0, original.length, spans));
  byId("marked-summary").scrollTop = at;
  reveal(byId("marked-summary"), entry.links[0]);
  reveal(source, source.querySelector("mark"));
}

/** Scrolls a text to a place in it; the page itself stays where the reader is. */
function reveal(box, node) {
  if (!node) return;
  const [outer, inner] = [box.getBoundingClientRect(), node.getBoundingClientRect()];
  const seen = inner.top >= outer.top && inner.bottom <= outer.bottom;
  if (!seen) box.scrollTop += inner.top - outer.top - 24;
}
