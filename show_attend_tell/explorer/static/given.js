// What the asker has decided of a caption, step by step.
//
// A caption that was stepped into is asked for by its first steps: {word, gaze, said}. `said`
// marks a word that the asker chose; other words only keep what was on screen before the step.

/** "a dog@45 @12 :cat ~": a word, a word read at place 45, a gaze, a said word, a free step. */
export function encodeGiven(given) {
  const encoded = given.map(({ word, gaze, said }) => {
    const text = word === null ? "" : encodeURIComponent(word);
    return `${said ? ":" : ""}${text}${gaze === null ? "" : `@${gaze}`}` || "~";
  });
  return encoded.join(" ") || null;
}

export function decodeGiven(text) {
  if (!text) return [];
  return text.split(" ").map((part) => {
    const [, said, word, gaze] = /^(:?)([^@]*)(?:@(\d+))?$/.exec(part) ?? [];
    const free = !word || (word === "~" && !said && gaze === undefined);
    return {
      word: free ? null : decodeWord(word),
      gaze: gaze === undefined ? null : Number(gaze),
      said: said === ":",
    };
  });
}

/** An address may be mistyped; then the word is taken as it stands. */
function decodeWord(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The steps as the server wants them. */
export function askedSteps(given) {
  return given.map(({ word, gaze }) => ({ word, gaze }));
}

/** The steps before `at` as they are on screen. */
export function keptSteps(given, reading, at) {
  return reading.steps.slice(0, at).map(({ word, gaze }, k) => ({ word, gaze, said: Boolean(given[k]?.said) }));
}

/** Make step `at` read a place; what followed is free again. */
export function forceGaze(given, reading, at, place) {
  const said = Boolean(given[at]?.said);
  const word = said ? given[at].word : null;
  return [...keptSteps(given, reading, at), { word, gaze: place, said }];
}

/** Say a word at step `at`; what followed is free again. */
export function sayWord(given, reading, at, word) {
  return [...keptSteps(given, reading, at), { word, gaze: given[at]?.gaze ?? null, said: true }];
}

function decided({ gaze, said }) {
  return gaze !== null || said;
}

/** What the asker decided: [{at, kind: "gaze" or "word", gaze or word}]. */
export function interventionsOf(given) {
  return given.flatMap(({ word, gaze, said }, at) => [
    ...(gaze === null ? [] : [{ at, kind: "gaze", gaze }]),
    ...(said ? [{ at, kind: "word", word }] : []),
  ]);
}

/** Take one intervention back. Later ones stay; the words between become free. */
export function undoGiven(given, { at, kind }) {
  const steps = given.map((step, k) => {
    if (k > at && !decided(step)) return { word: null, gaze: null, said: false };
    if (k > at && !step.said) return { ...step, word: null };
    if (k !== at) return step;
    const kept = kind === "gaze" ? { ...step, gaze: null } : { ...step, word: null, said: false };
    return kept.said ? kept : { ...kept, word: null };
  });
  const last = steps.findLastIndex(decided);
  return steps.slice(0, last + 1);
}
