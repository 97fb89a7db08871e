// The pictures of the split: which ones are shown, and in which order.

// Scripts that put no spaces between words: each of their letters counts as a word.
const BROWSE_UNSPACED =
  "\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Bopo}\\p{sc=Thai}\\p{sc=Laoo}\\p{sc=Tibt}\\p{sc=Mymr}\\p{sc=Khmr}";
const BROWSE_WORD = new RegExp(
  `[${BROWSE_UNSPACED}]\\p{M}*|(?:(?![${BROWSE_UNSPACED}])[\\p{L}\\p{N}\\p{M}])+`,
  "gu",
);
const BROWSE_FIXED = {
  entropy: "Entropy of attention",
  pointing: "Pointing at named things",
  in_box: "Attention inside boxes",
};
export const DISAGREEMENT = "disagreement";

/** A figure of a row: of one run, or, for the disagreement, of all. null: it is not known. */
export function figureOf(row, run, figure) {
  if (figure === DISAGREEMENT) return row.disagreement;
  const summary = row.runs[run];
  if (!summary) return null;
  return (figure in BROWSE_FIXED ? summary[figure] : summary.scores[figure]) ?? null;
}

/** [figure, text] of all that some row knows; scores first. */
export function figuresOf(rows) {
  const scores = new Set();
  const fixed = new Set();
  const apart = rows.some((row) => row.disagreement !== null);
  for (const row of rows) {
    for (const summary of Object.values(row.runs)) {
      Object.keys(summary.scores).forEach((name) => scores.add(name));
      for (const name of Object.keys(BROWSE_FIXED)) if (summary[name] !== null) fixed.add(name);
    }
  }
  const first = ["CIDEr", "BLEU-4"].filter((name) => scores.delete(name));
  return [
    ...[...first, ...[...scores].sort()].map((name) => [name, name]),
    ...Object.entries(BROWSE_FIXED).filter(([name]) => fixed.has(name)),
    ...(apart ? [[DISAGREEMENT, "Disagreement between runs"]] : []),
  ];
}

function wordsOf(text) {
  return text.toLowerCase().match(BROWSE_WORD) ?? [];
}

/**
 * What to look for in a row's words: every word of `text`; `-word` must not be there, and `word*`
 * may go on.
 */
export function wordTest(text) {
  const tests = text
    .toLowerCase()
    .split(/\s+/)
    .filter((part) => part.match(BROWSE_WORD))
    .map((part) => {
      const whole = part.match(BROWSE_WORD); // "t-shirt" is two words in a row's, too
      const begun = part.endsWith("*") ? whole.pop() : "";
      const found = (words) =>
        whole.every((word) => words.has(word)) && [...words].some((word) => word.startsWith(begun));
      return part.startsWith("-") ? (words) => !found(words) : found;
    });
  return (words) => tests.every((test) => test(words));
}

function searchedWords(row, where) {
  const captions = where === "references" ? [] : Object.values(row.runs).map(({ caption }) => caption);
  const references = where === "captions" ? [] : row.references;
  return new Set([...captions, ...references].flatMap(wordsOf));
}

/**
 * Ranges as they are in the address: "CIDEr:0.5..,entropy:..2". Numbers are as people type them into
 * a number's field, such as 1E2 and 1e+2.
 */
export function rangesFrom(text) {
  return (text || "")
    .split(",")
    .map((part) => part.match(/^(.+):(-?[\d.]*?(?:e[-+]?\d+)?)\.\.(-?[\d.]*(?:e[-+]?\d+)?)$/i))
    .filter(Boolean)
    .map(([, figure, from, to]) => ({ figure, from, to }));
}

export function rangesText(ranges) {
  return ranges.map(({ figure, from, to }) => `${figure}:${from}..${to}`).join(",");
}

function insideRange(value, { from, to }) {
  if (from === "" && to === "") return true;
  if (value === null) return false;
  return (from === "" || value >= Number(from)) && (to === "" || value <= Number(to));
}

/** The rows to show. What is not known comes last, whichever way the rows are sorted. */
export function chosenRows(rows, { run, sort, down, words, where, ranges }) {
  const named = wordTest(words);
  const chosen = rows.filter(
    (row) =>
      ranges.every((range) => insideRange(figureOf(row, run, range.figure), range)) &&
      (!words || named(searchedWords(row, where))),
  );
  if (!sort) return down ? chosen.reverse() : chosen;
  const keyed = chosen.map((row) => [figureOf(row, run, sort), row]);
  const sign = down ? -1 : 1;
  keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * (a - b)));
  return keyed.map(([, row]) => row);
}

/** The mean of a figure over the rows that know it; null: none does. */
export function meanFigure(rows, run, figure) {
  const known = rows.map((row) => figureOf(row, run, figure)).filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function rowState({ runs, disagreement }) {
  const known = Object.values(runs).reduce((sum, { scores }) => sum + 1 + Object.keys(scores).length, 0);
  return `${known} ${disagreement}`;
}

/** A newer table with the rows of the old one where nothing changed: those need no new drawing. */
export function keepRows(old, table) {
  if (!old) return table;
  const before = new Map(old.rows.map((row) => [row.picture, row]));
  const rows = table.rows.map((row) => {
    const same = before.get(row.picture);
    return same && rowState(same) === rowState(row) ? same : row;
  });
  return { ...table, rows };
}
