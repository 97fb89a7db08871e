// Colour scales. Each grows evenly in lightness, so that order survives colour blindness and grey.
// Over a picture low values are nearly clear, high ones cover it.

const RAMP_STOPS = {
  // Attention: inferno (matplotlib). It starts dark, so what is not read falls into shade.
  attention: ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"],
  // What a word would get at a place: viridis, to be told from attention at once.
  chance: ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"],
  // A minus B: blue where B is larger, orange where A is; white in the middle.
  difference: ["08306b", "2166ac", "4393c3", "92c5de", "f7f7f7", "f7f7f7", "fdb863", "e08214", "b35806", "7f3b08"],
};
const RAMP_SIZE = 256;
const rampsMade = {};

function parseStop(text) {
  return [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16));
}

/** 256 colours [r, g, b] of a scale. */
function rampOf(name) {
  if (rampsMade[name]) return rampsMade[name];
  const stops = RAMP_STOPS[name].map(parseStop);
  const ramp = Array.from({ length: RAMP_SIZE }, (_, i) => {
    const at = (i / (RAMP_SIZE - 1)) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((part, k) => part + (stops[low + 1][k] - part) * (at - low));
  });
  return (rampsMade[name] = ramp);
}

/** How much a value covers the picture: a difference of nothing must show nothing. */
function coverOf(name, share) {
  if (name === "difference") return Math.min(1, Math.abs(2 * share - 1) ** 0.7);
  return 0.48 + 0.47 * share;
}

/** [r, g, b, a] of a share of the scale in 0..1, `a` in 0..1 before the opacity. */
export function colourOf(name, share) {
  const bounded = Math.min(1, Math.max(0, share || 0));
  const [r, g, b] = rampOf(name)[Math.round(bounded * (RAMP_SIZE - 1))];
  return [r, g, b, coverOf(name, bounded)];
}

/** The scale as bytes r, g, b, a in a row: a canvas is painted from it many times a second. */
export function rampBytes(name) {
  const key = `${name} bytes`;
  const colours = () => Array.from({ length: RAMP_SIZE }, (_, i) => colourOf(name, i / (RAMP_SIZE - 1)));
  return (rampsMade[key] ??= Uint8ClampedArray.from(colours().flatMap(([r, g, b, a]) => [r, g, b, 255 * a])));
}

export function cssColour(name, share, opacity = 1) {
  const [r, g, b, a] = colourOf(name, share);
  return `rgb(${Math.round(r)} ${Math.round(g)} ${Math.round(b)} / ${(a * opacity).toFixed(3)})`;
}

/** The same colour for a line, which has nothing to let through. */
export function lineColour(name, share) {
  const [r, g, b] = colourOf(name, share).map(Math.round);
  return `rgb(${r} ${g} ${b})`;
}

/** A scale as a CSS gradient, for legends. */
export function rampGradient(name) {
  const stops = RAMP_STOPS[name].map((stop) => `#${stop}`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

export const RUN_COLOURS = 8;

/** The colour of a run: its place in the session, so that it is the same on every view. */
export function runColour(session, run) {
  const at = session.runs.findIndex(({ name }) => name === run);
  return `var(--run-${(Math.max(0, at) % RUN_COLOURS) + 1})`;
}
