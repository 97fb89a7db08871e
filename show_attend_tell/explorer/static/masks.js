// Rectangles that are painted over before the picture is read: dragged, or typed as numbers.

import { html, useRef, useState } from "./base.js";
import { rectangleStyle } from "./geometry.js";

export const MOST_MASKS = 20;
const SMALLEST_DRAG = 0.015;
const MASK_SIDES = ["top", "left", "bottom", "right"];

export function encodeMasks(masks) {
  return masks.map((sides) => sides.map((share) => Number(share.toFixed(4))).join(",")).join(";") || null;
}

/** Valid rectangles only: an address may be mistyped. */
export function decodeMasks(text) {
  const masks = (text ?? "").split(";").map((part) => part.split(",").map(Number));
  return masks.filter(rightMask).slice(0, MOST_MASKS);
}

export function rightMask(sides) {
  if (sides.length !== 4 || !sides.every((share) => share >= 0 && share <= 1)) return false;
  const [top, left, bottom, right] = sides;
  return bottom > top && right > left;
}

/** A layer over the picture on which a drag draws a rectangle. */
export function MaskDrawing({ onMask }) {
  const [drawn, setDrawn] = useState(null);
  const start = useRef(null);
  const pointOf = (event) => {
    const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
    const bounded = (share) => Math.min(1, Math.max(0, share));
    return [bounded((event.clientY - top) / height), bounded((event.clientX - left) / width)];
  };
  const sidesTo = ([y, x]) => {
    const [y0, x0] = start.current;
    return [Math.min(y0, y), Math.min(x0, x), Math.max(y0, y), Math.max(x0, x)];
  };
  const onDown = (event) => {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    start.current = pointOf(event);
  };
  const onMove = (event) => start.current && setDrawn(sidesTo(pointOf(event)));
  const onUp = (event) => {
    if (!start.current) return;
    const sides = sidesTo(pointOf(event));
    start.current = null;
    setDrawn(null);
    // A click is no drag: a rectangle too small to see would only puzzle.
    if (sides[2] - sides[0] > SMALLEST_DRAG && sides[3] - sides[1] > SMALLEST_DRAG) onMask(sides);
  };
  const stop = () => {
    start.current = null;
    setDrawn(null);
  };
  return html`<div class="layer mask-drawing" data-test="mask-drawing" onPointerDown=${onDown}
    onPointerMove=${onMove} onPointerUp=${onUp} onPointerCancel=${stop}>
    ${drawn && html`<div class="mask drawn"
      style=${rectangleStyle(drawn)}></div>`}
  </div>`;
}

/** The same by numbers, and what is masked so far. */
export function MaskFields({ masks, onMasks }) {
  const [numbers, setNumbers] = useState({ top: 25, left: 25, bottom: 75, right: 75 });
  const [error, setError] = useState(null);
  const add = (event) => {
    event.preventDefault();
    const sides = MASK_SIDES.map((name) => Number(numbers[name]) / 100);
    if (!rightMask(sides)) setError("Top must be above bottom and left before right, all from 0 to 100.");
    else if (masks.length >= MOST_MASKS) setError(`At most ${MOST_MASKS} rectangles.`);
    else {
      setError(null);
      onMasks([...masks, sides]);
    }
  };
  const written = (sides) => sides.map((share) => Math.round(100 * share)).join(", ");
  return html`<div class="mask-fields">
    <p class="hint">Drag a rectangle over a picture to paint it grey, or type its sides in percent.</p>
    <form onSubmit=${add}>
      ${MASK_SIDES.map((name) => html`<label key=${name}><span>${name}</span>
        <input type="number" min="0" max="100" step="any"
          value=${numbers[name]} data-test=${`mask-${name}`}
          onInput=${(event) => setNumbers({ ...numbers, [name]: event.target.value })} /></label>`)}
      <button type="submit" data-test="mask-add">Mask</button>
    </form>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    ${masks.length > 0 && html`<ul class="chips"
      aria-label="Masked rectangles: top, left, bottom, right">
      ${masks.map((sides, i) => html`<li key=${i}><span>${written(sides)}</span>
        <button type="button" data-test="mask-remove"
          aria-label=${`Remove the mask ${written(sides)}`}
          onClick=${() => onMasks(masks.filter((_, k) => k !== i))}>×</button></li>`)}
      <li class="plain-item"><button type="button" data-test="mask-reset"
        onClick=${() => onMasks([])}>Remove all</button></li>
    </ul>`}
  </div>`;
}
