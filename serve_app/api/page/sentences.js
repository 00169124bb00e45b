// A summary sentence by sentence: how well each is supported, by which passage, and its difficult
// words. Shows what hovering, focus or a click asks for; asks the server nothing.

import { byId, el, narrow, show } from "./dom.js";
import { number, t } from "./i18n.js";
import { Points, countWords, pieces } from "./text.js";

const HIGH = 2 / 3;
const MIDDLE = 1 / 3;

const levelOf = (score) =>
  score === null ? "none" : score >= HIGH ? "high" : score >= MIDDLE ? "middle" : "low";

/** What is shown of each sentence of an evaluation's result. */
export function ofEvaluation(original, result) {
  const source = new Points(original);
  const summary = new Points(result.generated);
  const marks = marksOf(result);
  return result.sentences.map((sentence, index) => {
    const { sentence: span, passage, closest } = result.explanation.sentences[index];
    const cut = span
      ? pieces(span.start, span.end, marks.filter((m) => m.start >= span.start && m.end <= span.end))
      : [];
    const text = cut.map(({ start, end, mark }) => ({ text: summary.slice(start, end), mark }));
    return {
      pieces: text.length ? text : [{ text: sentence.text, mark: null }],
      score: sentence.score,
      ...supportOf(source, passage, closest, result.passages[sentence.passage_index]),
    };
  });
}

/** What is shown of each sentence that a generator wrote, where there are no metrics. */
export function ofSummary(summary) {
  return summary.sentences.map((sentence) => ({
    pieces: [{ text: sentence.text, mark: null }],
    score: null,
    before: "",
    closest: sentence.source,
    after: "",
    whole: sentence.source ?? "",
    replaced: sentence.replacements,
  }));
}

function supportOf(source, passage, closest, whole) {
  if (!passage) return { before: "", closest: null, after: "", whole };
  if (!closest) return { before: source.slice(passage.start, passage.end), closest: null, after: "", whole };
  return {
    before: source.slice(passage.start, closest.start),
    closest: source.slice(closest.start, closest.end),
    after: source.slice(closest.end, passage.end),
    whole,
  };
}

/** Terms with a plain form, and the difficult words outside them, in order. */
function marksOf(result) {
  const plain = result.explanation.plain_words;
  const free = result.difficult_words.filter(
    (word) => !plain.some((term) => word.start < term.end && term.start < word.end),
  );
  const marks = [...plain, ...free.map((word) => ({ ...word, plain: null }))];
  return marks.sort((a, b) => a.start - b.start);
}

let focused = 0;
let hovered = null;
let items = [];

/** Fills the list; the first sentence's support is shown. */
export function showSentences(sentences) {
  items = sentences;
  focused = Math.min(focused, Math.max(0, items.length - 1));
  hovered = null;
  speak("off");
  byId("support-home").append(byId("support")); // it may stand in the list that goes
  byId("sentences").replaceChildren(...items.map(line));
  legend(items.some((item) => item.score !== null));
  words(items);
  update();
}

export function forgetFocus() {
  focused = 0;
}

function line(item, index) {
  const level = levelOf(item.score);
  const label =
    item.score === null
      ? null
      : el("span", { class: "badge" }, `${number(item.score, 2)} ${t(`level_${level}`)}`);
  const button = el(
    "button",
    {
      type: "button",
      class: `sentence ${level}`,
      "aria-controls": "support",
      onfocus: () => select(index),
      onclick: () => select(index),
      onmousemove: (event) => moved(event) && hover(index),
      onmouseleave: () => hover(null),
    },
    label,
    el("span", { lang: "en" }, item.pieces.map(piece)),
  );
  return el("li", {}, button);
}

function piece({ text, mark }) {
  if (!mark) return text;
  const title = mark.plain ? t("word_plain", { plain: mark.plain }) : t("word_difficult");
  return el("span", { class: mark.plain ? "word known" : "word", title }, text);
}

function select(index) {
  focused = index;
  hovered = null; // the last one asked for, by whichever means, is shown
  speak("polite");
  update();
}

/** Whether the pointer itself moved: a page that scrolls under it is nobody's wish. */
const moved = (event) => event.movementX !== 0 || event.movementY !== 0;

function hover(index) {
  if (hovered === index) return;
  // Where the support stands inside the list, hovering would move the list under the pointer.
  if (narrow()) return;
  hovered = index;
  speak("off");
  update();
}

/** Whether a screen reader tells what is shown next: for the keyboard yes, for a passing mouse no. */
const speak = (how) => byId("support-short").setAttribute("aria-live", how);

function update() {
  const index = hovered ?? focused;
  const item = items[index];
  show("support", item !== undefined);
  if (!item) return;
  const rows = [...byId("sentences").children];
  rows.forEach((row, at) => row.firstChild.classList.toggle("active", at === index));
  const home = narrow() ? rows[index] : byId("support-home");
  if (byId("support").parentNode !== home) home.append(byId("support"));
  byId("support-short").replaceChildren(...short(item, index));
  byId("support-whole").replaceChildren(...whole(item));
  const mark = byId("support-whole").querySelector("mark");
  // Within its own box: the page itself stays where the reader is.
  if (mark) mark.parentNode.scrollTop = mark.offsetTop - mark.parentNode.offsetTop - 24;
}

function short(item, index) {
  const score = item.score === null ? "" : `: ${number(item.score, 2)}, ${t(`level_${levelOf(item.score)}`)}`;
  const found = item.closest
    ? [el("p", {}, t("closest"), " ", el("q", { lang: "en", class: "closest" }, item.closest))]
    : [el("p", {}, t("no_closest"))];
  const plain = (item.replaced ?? []).map(({ term, plain }) => pair(plain, t("instead_of", { term })));
  const marked = item.pieces.filter(({ mark }) => mark?.plain);
  const known = marked.map(({ text, mark }) => pair(text, mark.plain));
  const list = [...plain, ...known];
  return [
    el("p", { class: "hint" }, t("sentence_n", { n: index + 1 }) + score),
    ...found,
    ...(list.length ? [el("ul", { class: "plain" }, list)] : []),
  ];
}

const pair = (word, plain) => el("li", { lang: "en" }, el("strong", {}, word), ": ", plain);

function whole(item) {
  if (item.score === null) return [];
  const body =
    item.closest === null
      ? [item.before || item.whole]
      : [item.before, el("mark", {}, item.closest), item.after];
  const label = t("whole_passage", { n: countWords(item.whole) });
  return [
    el("p", { class: "hint" }, label),
    el(
      "div",
      { class: "passage scroll", tabindex: 0, role: "region", "aria-label": label, lang: "en" },
      body,
    ),
  ];
}

function legend(scored) {
  show("legend", scored);
  byId("sentences-hint").textContent = t(scored ? "sentences_hint" : "sources_hint");
  if (!scored) return;
  const levels = ["high", "middle", "low"].map((level) =>
    el("li", {}, el("span", { class: `sample ${level}`, "aria-hidden": "true" }), t(`legend_${level}`)),
  );
  const word = el("li", {}, el("span", { class: "word" }, t("legend_word")));
  byId("legend").replaceChildren(...levels, word);
}

function words(sentences) {
  const seen = new Map();
  for (const { text, mark } of sentences.flatMap((sentence) => sentence.pieces)) {
    if (mark) seen.set(text.toLowerCase(), { text, plain: mark.plain });
  }
  show("words-part", seen.size > 0);
  const known = [...seen.values()].filter(({ plain }) => plain);
  const rest = [...seen.values()].filter(({ plain }) => !plain);
  byId("words-summary").textContent = t("words_summary", { n: seen.size, known: known.length });
  const rows = [...known, ...rest].map(({ text, plain }) =>
    el("tr", {}, el("td", { lang: "en" }, text), plain ? el("td", { lang: "en" }, plain) : el("td", {}, "–")),
  );
  byId("words").replaceChildren(...rows);
}
