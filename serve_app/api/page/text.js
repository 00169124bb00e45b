// Works on texts: positions, marks, words, the shell's quotes. Knows no page and no server.

const LONGEST = 400; // code points of a sentence before and behind a place in it
const STOP = /(?<=[.!?]["”’)\]]?)\s+|\n\s*\n\s*/;

/** Slices as the server counts: by code points, where a script counts UTF-16 units. */
export class Points {
  constructor(text) {
    this.text = text;
    this.points = /[\ud800-\udfff]/.test(text) ? Array.from(text) : null;
  }

  get length() {
    return (this.points ?? this.text).length;
  }

  slice(start, end) {
    return this.points ? this.points.slice(start, end).join("") : this.text.slice(start, end);
  }

  /** The sentence around [start, end); of a long one what is near. */
  sentence(start, end) {
    const before = this.slice(Math.max(0, start - LONGEST), start).split(STOP).at(-1);
    const after = this.slice(end - 1, end + LONGEST); // the place may end with its sentence
    const stop = /[.!?]["”’)\]]?(?=\s|$)|(?=\s*\n\s*\n)/.exec(after);
    const rest = stop ? after.slice(0, stop.index + stop[0].length) : after;
    return { start: start - size(before), end: end - 1 + Math.max(1, size(rest)) };
  }
}

const size = (text) => new Points(text).length;

/** Cuts [start, end) at the marks in it: pieces `{start, end, mark}`, `mark` null between them.
 * Marks are `{start, end}` in order; one that overlaps the one before it is left out. */
export function pieces(start, end, marks) {
  const cut = [];
  let at = start;
  for (const mark of marks) {
    if (mark.start < at || mark.end > end || mark.end <= mark.start) continue;
    if (mark.start > at) cut.push({ start: at, end: mark.start, mark: null });
    cut.push({ start: mark.start, end: mark.end, mark });
    at = mark.end;
  }
  if (at < end) cut.push({ start: at, end, mark: null });
  return cut;
}

/** Cuts [0, length) wherever one of the spans, which may overlap, begins or ends: pieces
 * `{start, end, over}`, `over` the spans that a piece is in. */
export function overlaid(length, spans) {
  const valid = spans.filter(({ start, end }) => start >= 0 && start < end && end <= length);
  const ends = new Set([0, length, ...valid.flatMap(({ start, end }) => [start, end])]);
  const cuts = [...ends].sort((a, b) => a - b);
  return cuts.slice(1).map((end, at) => {
    const start = cuts[at];
    return { start, end, over: valid.filter((one) => one.start <= start && one.end >= end) };
  });
}

export const countWords = (text) => text.split(/\s+/u).filter((part) => /[\p{L}\p{N}]/u.test(part)).length;

/** One word of a POSIX shell. */
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that sends a body to an address; the key, where one is needed, stays a variable. */
export function curl(address, body, withKey) {
  const lines = [
    `curl -sS ${quoted(address)}`,
    "-H 'content-type: application/json'",
    ...(withKey ? ['-H "authorization: Bearer $PLAINMED_API_KEY"'] : []),
    `--data-raw ${quoted(JSON.stringify(body))}`,
  ];
  return lines.join(" \\\n  ");
}
