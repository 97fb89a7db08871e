// Places as buttons over a picture: point at one or use the arrow keys to look, click to read it.

import { html, percent, shownWord, useEffect, useMemo, useRef } from "./base.js";
import { placeCells, placeName, rectangleStyle } from "./geometry.js";

/** The place that an arrow key leads to; null for other keys. */
export function placeFrom(key, place, rows, columns) {
  const row = Math.floor(place / columns);
  const column = place % columns;
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (key === "Home") return row * columns;
  if (key === "End") return row * columns + columns - 1;
  if (!moves[key]) return null;
  const down = Math.min(rows - 1, Math.max(0, row + moves[key][0]));
  const across = Math.min(columns - 1, Math.max(0, column + moves[key][1]));
  return down * columns + across;
}

function cellLabel(place, grid, chances) {
  const words = chances?.slice(0, 2).map(({ word, p }) => `${shownWord(word)} ${percent(p)}`);
  return [placeName(place, grid), ...(words ?? [])].join(", ");
}

export function GazeCells({ grid, cells, cursor, label, onLook, onChoose }) {
  const layer = useRef(null);
  const rectangles = useMemo(() => placeCells(grid), [grid]);
  const columns = grid.columns.length;
  const placeOf = (event) => {
    const cell = event.target.closest("[data-place]");
    return cell ? Number(cell.dataset.place) : null;
  };
  const onKeyDown = (event) => {
    const next = placeFrom(event.key, placeOf(event) ?? cursor, grid.rows.length, columns);
    if (next === null || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    layer.current.querySelector(`[data-place="${next}"]`).focus();
  };
  // The mouse passes places quickly: one look per frame is enough.
  const waiting = useRef(null);
  const look = (place) => {
    cancelAnimationFrame(waiting.current);
    waiting.current = requestAnimationFrame(() => onLook(place));
  };
  useEffect(() => () => cancelAnimationFrame(waiting.current), []);
  const buttons = useMemo(
    () => rectangles.map(({ left, top, width, height }, i) => html`<button key=${i} type="button"
      data-test="cell"
      data-place=${i}
      tabindex=${i === cursor ? 0 : -1} aria-label=${cellLabel(i, grid, cells?.[i])}
      style=${rectangleStyle([top, left, top + height, left + width])}></button>`),
    [rectangles, cells, cursor],
  );
  return html`<div class="layer gaze-cells" role="group"
    aria-label=${label} ref=${layer} onKeyDown=${onKeyDown}
    onFocusIn=${(event) => look(placeOf(event))} onFocusOut=${() => look(null)}
    onPointerOver=${(event) => look(placeOf(event))} onPointerLeave=${() => look(null)}
    onClick=${(event) => placeOf(event) !== null && onChoose(placeOf(event))}>${buttons}</div>`;
}
