// Messages and numbers in the chosen language. Knows the JSON files of messages, nothing of what
// they are about.

let messages = {};
let language = "en";

/** The message of a key, with {names} filled in. */
export function t(key, values = {}) {
  const text = messages[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Whether the page is in this language. */
export const speaks = (one) => language === one;

/** A number with so many decimals, as the language writes it. */
export function number(value, decimals = 2) {
  const form = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return new Intl.NumberFormat(language, form).format(value);
}

export const percent = (value) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(value);

/** The name of a language by its ISO 639 code, in the language of the page. */
export const languageName = (code) =>
  new Intl.DisplayNames([language], { type: "language", fallback: "code" }).of(code);

/** Loads a language and puts it into every element that names a message. */
export async function use(wanted) {
  const answer = await fetch(new URL(`page/${wanted}.json`, document.baseURI));
  if (!answer.ok) throw new Error(`no messages in ${wanted}`);
  messages = await answer.json();
  language = wanted;
  document.documentElement.lang = wanted;
  for (const node of document.querySelectorAll("[data-i18n]")) {
    node.textContent = t(node.dataset.i18n);
  }
  document.documentElement.classList.remove("pending");
}
