// A picture with a map over it: heat, contours or cells, true boxes, masks, and what was read.

import { html, classes, calmWanted, useEffect, useLayoutEffect, useMemo, useRef } from "./base.js";
import { imageAddress, thumbnailAddress } from "./api.js";
import { contourLines, placeCells, rasterOf, rectangleStyle } from "./geometry.js";
import { cssColour, lineColour, rampBytes } from "./colours.js";

const HEAT_WIDTH = 144;
const MINI_WIDTH = 40;
const MORPH_TIME = 180;

/** Shares of the colour scale, 0..1. A difference lies around its middle. */
export function sharesOf(values, largest, ramp) {
  const scale = largest > 0 ? 1 / largest : 0;
  if (ramp === "difference") {
    return values.map((value) => 0.5 + 0.5 * Math.max(-1, Math.min(1, value * scale)));
  }
  return values.map((value) => value * scale);
}

function paintHeat(canvas, raster, ramp) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const bytes = rampBytes(ramp);
  for (let i = 0; i < raster.length; i += 1) {
    const at = 4 * Math.round(255 * Math.min(1, Math.max(0, raster[i])));
    for (let k = 0; k < 4; k += 1) image.data[4 * i + k] = bytes[at + k];
  }
  context.putImageData(image, 0, 0);
}

/** From one map to the next without a jump, unless the reader wants no motion. */
function morphHeat(canvas, from, to, ramp) {
  let frame = null;
  const start = performance.now();
  const paint = (now) => {
    const share = Math.min(1, Math.max(0, (now - start) / MORPH_TIME));
    paintHeat(canvas, to.map((value, i) => from[i] + (value - from[i]) * share), ramp);
    if (share < 1) frame = requestAnimationFrame(paint);
  };
  frame = requestAnimationFrame(paint);
  return () => cancelAnimationFrame(frame);
}

export function HeatLayer({ shares, grid, ramp, opacity, aspect, mini }) {
  const canvas = useRef(null);
  const shown = useRef(null);
  const width = mini ? MINI_WIDTH : HEAT_WIDTH;
  const height = Math.max(8, Math.min(4 * width, Math.round(width / aspect)));
  const raster = useMemo(() => rasterOf(shares, grid, width, height), [shares, grid, width, height]);
  useLayoutEffect(() => {
    const old = shown.current;
    shown.current = { raster, ramp };
    if (mini || !old || old.ramp !== ramp || old.raster.length !== raster.length || calmWanted()) {
      paintHeat(canvas.current, raster, ramp);
      return undefined;
    }
    return morphHeat(canvas.current, old.raster, raster, ramp);
  }, [raster, ramp]);
  return html`<canvas class="layer heat" ref=${canvas} width=${width} height=${height}
    style=${{ opacity }} aria-hidden="true"></canvas>`;
}

const CONTOUR_SHARES = [0.15, 0.3, 0.45, 0.6, 0.75, 0.9];

/** Lines with their colours' shares. A difference has lines around both its hills and its holes. */
function contoursOf(shares, grid, ramp) {
  if (ramp !== "difference") {
    const lines = contourLines(shares, grid, CONTOUR_SHARES);
    return lines.map(({ level, path }) => ({ share: 0.4 + 0.6 * level, path }));
  }
  return [1, -1].flatMap((sign) => {
    const lines = contourLines(shares.map((share) => sign * (2 * share - 1)), grid, CONTOUR_SHARES);
    return lines.map(({ level, path }) => ({ share: 0.5 + sign * (0.2 + 0.25 * level), path }));
  });
}

function ContourLayer({ shares, grid, ramp, opacity }) {
  const lines = useMemo(() => contoursOf(shares, grid, ramp), [shares, grid, ramp]);
  return html`<svg class="layer contours" viewBox="0 0 100 100" preserveAspectRatio="none"
    style=${{ opacity }} aria-hidden="true">
    ${lines.map(
      ({ share, path }) => html`<g key=${share}><path class="halo" d=${path} />
        <path class="line" d=${path} style=${{ stroke: lineColour(ramp, share) }} /></g>`,
    )}
  </svg>`;
}

function CellLayer({ shares, grid, ramp, opacity }) {
  const cells = useMemo(() => placeCells(grid), [grid]);
  return html`<svg class="layer" viewBox="0 0 100 100" preserveAspectRatio="none"
    style=${{ opacity }} aria-hidden="true">
    ${cells.map(({ left, top, width, height }, i) => html`<rect key=${i} x=${100 * left + 0.15}
      y=${100 * top + 0.15} width=${100 * width - 0.3} height=${100 * height - 0.3}
      style=${{ fill: cssColour(ramp, shares[i]) }} />`)}
  </svg>`;
}

const MAP_LAYERS = { heat: HeatLayer, contours: ContourLayer, cells: CellLayer };

export function BoxLayer({ boxes, named }) {
  return boxes.map(({ label, sides }, i) => html`<div
    key=${i} class=${classes("box", named.includes(boxes[i]) && "named")}
    style=${rectangleStyle(sides)} data-test="box"><span>${label}</span></div>`);
}

export function MaskLayer({ masks }) {
  return masks.map((sides, i) => html`<div
    key=${i} class="mask" style=${rectangleStyle(sides)} data-test="mask"></div>`);
}

/** Marks of places: what hard attention read, what the asker made it read, the cursor. */
export function PlaceMarks({ grid, marks }) {
  const cells = useMemo(() => placeCells(grid), [grid]);
  return marks.filter(({ place }) => place !== null && cells[place]).map(({ kind, place }) => {
    const { left, top, width, height } = cells[place];
    return html`<div
      key=${kind} class=${`place ${kind}`} data-test=${`place-${kind}`} data-place=${place}
      style=${rectangleStyle([top, left, top + height, left + width])}></div>`;
  });
}

/** The picture itself; the thumbnail stands in until it is there, so nothing flashes. */
export function PictureImage({ picture, alt, mini }) {
  const address = mini ? thumbnailAddress(picture.id) : imageAddress(picture.id);
  const image = useRef(null);
  useEffect(() => {
    image.current.style.backgroundImage = `url("${thumbnailAddress(picture.id)}")`;
  }, [picture.id]);
  return html`<img key=${picture.id} ref=${image} src=${address} alt=${alt} draggable=${false}
    width=${picture.width} height=${picture.height} loading=${mini ? "lazy" : null} />`;
}

/**
 * A picture with everything over it. `map`: {values, grid, largest, ramp} or null.
 * `view`: {style, opacity}.
 */
export function PictureMap({ picture, map, view, alt, mini, children, ...over }) {
  const { marks = [], boxes = [], named = [], masks = [] } = over;
  const aspect = picture.width / picture.height;
  const shares = useMemo(
    () => map && sharesOf(map.values, map.largest, map.ramp),
    [map?.values, map?.largest, map?.ramp],
  );
  const Layer = MAP_LAYERS[view.style] ?? HeatLayer;
  return html`<div
    class=${classes("picture", mini && "mini", map?.ramp === "difference" && "grey")}
    style=${{ aspectRatio: `${picture.width} / ${picture.height}`, "--aspect": aspect }}>
    <${PictureImage} picture=${picture} alt=${alt} mini=${mini} />
    ${masks.length > 0 && html`<${MaskLayer} masks=${masks} />`}
    ${map && html`<${Layer} shares=${shares} grid=${map.grid} ramp=${map.ramp}
      opacity=${view.opacity} aspect=${aspect} mini=${mini} />`}
    ${boxes.length > 0 && html`<${BoxLayer} boxes=${boxes} named=${named} />`}
    ${map && marks.length > 0 && html`<${PlaceMarks} grid=${map.grid} marks=${marks} />`}
    ${children}
  </div>`;
}
