// Where the places of a map lie in the picture, and how their values fill it.
//
// Positions run from 0 to 1, across and down. Place i is row i // columns, column i % columns.

import { contours } from "./base.js";

/** Limits of the cells along one axis: middles between centres, and the picture's edges. */
export function edgesOf(centres) {
  const middles = centres.slice(1).map((centre, i) => (centres[i] + centre) / 2);
  return [0, ...middles, 1];
}

/** The rectangle of each place, {left, top, width, height}. */
export function placeCells(grid) {
  const down = edgesOf(grid.rows);
  const across = edgesOf(grid.columns);
  return grid.rows.flatMap((_, r) =>
    grid.columns.map((__, c) => ({
      left: across[c],
      top: down[r],
      width: across[c + 1] - across[c],
      height: down[r + 1] - down[r],
    })),
  );
}

/** Where sides [top, left, bottom, right] lie in a picture, as CSS. */
export function rectangleStyle([top, left, bottom, right]) {
  const side = (share) => `${100 * share}%`;
  return { top: side(top), left: side(left), width: side(right - left), height: side(bottom - top) };
}

export function placeName(place, grid) {
  const columns = grid.columns.length;
  return `row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1}`;
}

/** For each pixel of an axis: the centres beside it and how far it is between them. */
function neighboursOf(centres, pixels) {
  const last = centres.length - 1;
  return Array.from({ length: pixels }, (_, pixel) => {
    const at = (pixel + 0.5) / pixels;
    let low = 0;
    while (low < last && centres[low + 1] <= at) low += 1;
    const high = Math.min(low + 1, last);
    const gap = centres[high] - centres[low];
    const share = gap > 0 ? Math.min(1, Math.max(0, (at - centres[low]) / gap)) : 0;
    return [low, high, share];
  });
}

/** The map by bilinear interpolation between centres; beyond the outermost it stays constant. */
export function rasterOf(values, grid, width, height) {
  const columns = grid.columns.length;
  const across = neighboursOf(grid.columns, width);
  const raster = new Float32Array(width * height);
  neighboursOf(grid.rows, height).forEach(([above, below, down], y) => {
    for (let x = 0; x < width; x += 1) {
      const [left, right, share] = across[x];
      const between = (row) =>
        values[row * columns + left] * (1 - share) + values[row * columns + right] * share;
      const upper = between(above);
      const lower = between(below);
      raster[y * width + x] = upper * (1 - down) + lower * down;
    }
  });
  return raster;
}

const CONTOUR_SIDE = 96;

/** Lines of equal value as SVG paths in a square of 100: [{level, path}], lowest first. */
export function contourLines(values, grid, levels) {
  const raster = rasterOf(values, grid, CONTOUR_SIDE, CONTOUR_SIDE);
  const along = (pixel) => ((100 * pixel) / CONTOUR_SIDE).toFixed(2);
  const point = ([x, y]) => `${along(x)} ${along(y)}`;
  const line = (ring) => `M${ring.map(point).join("L")}Z`;
  return contours()
    .size([CONTOUR_SIDE, CONTOUR_SIDE])
    .thresholds(levels)(raster)
    .map(({ value, coordinates }) => ({ level: value, path: coordinates.flat().map(line).join("") }));
}

/** How much of each cell of an axis lies in each cell of another: [to][from], shares of from. */
function overlapsOf(from, to) {
  return to.slice(1).map((end, t) =>
    from.slice(1).map((stop, f) => {
      const shared = Math.min(end, stop) - Math.max(to[t], from[f]);
      return Math.max(0, shared) / (stop - from[f]);
    }),
  );
}

export function sameGrid(one, other) {
  const same = (a, b) => a.length === b.length && a.every((x, i) => Math.abs(x - b[i]) < 1e-6);
  return same(one.rows, other.rows) && same(one.columns, other.columns);
}

/** The same map on other cells; what a cell held is spread evenly over its area. */
export function regrid(values, from, to) {
  if (sameGrid(from, to)) return values;
  const down = overlapsOf(edgesOf(from.rows), edgesOf(to.rows));
  const across = overlapsOf(edgesOf(from.columns), edgesOf(to.columns));
  const columns = from.columns.length;
  return down.flatMap((rows) =>
    across.map((cols) => {
      let sum = 0;
      rows.forEach((row, r) => {
        if (row > 0) cols.forEach((col, c) => (sum += row * col * values[r * columns + c]));
      });
      return sum;
    }),
  );
}

/** The boxes that a word names: those whose label has the word in it. */
export function boxesNamed(word, boxes) {
  const wanted = word.toLowerCase().replace(/^▁/, ""); // with which a piece begins a word
  return boxes.filter(({ label }) => label.toLowerCase().split(/[^\p{L}\p{N}]+/u).includes(wanted));
}

/** Share of a map inside boxes; where boxes overlap nothing counts twice. */
export function shareInside(values, grid, boxes) {
  const side = 120;
  const inside = (x, y) =>
    boxes.some(({ sides: [y0, x0, y1, x1] }) => x >= x0 && x < x1 && y >= y0 && y < y1);
  let sum = 0;
  placeCells(grid).forEach((cell, place) => {
    if (!(values[place] > 0)) return;
    const across = Math.max(2, Math.round(cell.width * side));
    const down = Math.max(2, Math.round(cell.height * side));
    let hits = 0;
    for (let i = 0; i < down; i += 1) {
      for (let j = 0; j < across; j += 1) {
        const x = cell.left + (cell.width * (j + 0.5)) / across;
        if (inside(x, cell.top + (cell.height * (i + 0.5)) / down)) hits += 1;
      }
    }
    sum += (values[place] * hits) / (across * down);
  });
  return sum;
}
