// Works on texts: positions, marks, words, the shell's quotes. Knows no page and no server.

/** Slices as the server counts: by code points, where a script counts UTF-16 units. */
export class Points {
  constructor(text) {
    this.text = text;
    this.points = /[\ud800-\udfff]/.test(text) ? Array.from(text) : null;
  }

  slice(start, end) {
    return this.points ? this.points.slice(start, end).join("") : this.text.slice(start, end);
  }
}

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
