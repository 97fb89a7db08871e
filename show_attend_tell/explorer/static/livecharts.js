// Curves of many runs over the same steps.

import { html, uPlot, useEffect, useLayoutEffect, useRef, useState } from "./base.js";
import { figureText } from "./livestream.js";
import { RUN_COLOURS } from "./colours.js";

const LIVE_HEIGHT = 230;
const LIVE_DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const LIVE_RAW_SHOWN = 6; // above so many curves, those before smoothing would hide the others
const LIVE_READ_OUT = 5;

/** Colour and dash of a run by its number: eight colours, then the same with other dashes. */
export function liveStyle(number) {
  const dash = LIVE_DASHES[Math.floor(number / RUN_COLOURS) % LIVE_DASHES.length];
  return { colour: `--run-${(number % RUN_COLOURS) + 1}`, dash };
}

/** An exponential average whose beginning is not drawn towards zero; gaps stay gaps. */
export function smoothed(values, share) {
  if (!share) return values;
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = share * mean + (1 - share) * value;
    weight = share * weight + (1 - share);
    return mean / weight;
  });
}

/** The data of uPlot: all steps, then a list per curve; `undefined` is no gap, null is one. */
function chartData(curves, log) {
  const shown = (value) => (value === null || (log && value <= 0) ? null : value);
  if (curves.length === 0) return [[], []];
  return uPlot.join(curves.map(({ step, values }) => [step, values.map(shown)]));
}

function cssValue(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A number that changes when the page turns light or dark. */
function useScheme() {
  const [turns, setTurns] = useState(0);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const turn = () => setTurns((count) => count + 1);
    query.addEventListener("change", turn);
    return () => query.removeEventListener("change", turn);
  }, []);
  return turns;
}

function axisText(value) {
  if (value === null) return "";
  if (Math.abs(value) >= 10000) return `${Number((value / 1000).toPrecision(6))}k`;
  return String(Number(value.toPrecision(6)));
}

/** Close to the curves: whole powers of ten would leave most of a chart empty. */
function logRange(_, low, high) {
  if (low === null) return [1, 10];
  // The lines of the grid start at the lower end, so that must be a round number.
  const size = (value) => 10 ** Math.floor(Math.log10(value));
  const under = 0.98 * low;
  const over = 1.02 * high;
  return [Math.floor(under / size(under)) * size(under), Math.ceil(over / size(over)) * size(over)];
}

function chartAxis(options) {
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const line = { stroke: cssValue("--line"), width: 1 };
  const values = (_, splits) => splits.map(axisText);
  return { stroke: cssValue("--faint"), grid: line, ticks: { ...line, size: 4 }, font, values, gap: 4, ...options };
}

function chartSeries({ name, style, points, faint }) {
  const colour = cssValue(style.colour);
  return {
    label: name,
    stroke: faint ? `${colour}44` : colour,
    width: faint ? 1 : 1.7,
    dash: style.dash,
    points: { show: points, size: 6, fill: colour },
  };
}

function chartOptions({ title, curves, log, width, onCursor }) {
  return {
    width,
    height: LIVE_HEIGHT,
    legend: { show: false },
    padding: [8, 18, 0, 0],
    cursor: { sync: { key: "live" }, drag: { x: true, y: false }, points: { size: 7 } },
    focus: { alpha: 0.18 },
    scales: { x: { time: false }, y: log ? { distr: 3, range: logRange } : { distr: 1 } },
    axes: [chartAxis({ space: 60, size: 30 }), chartAxis({ size: 54, space: log ? 14 : 34 })],
    series: [{ label: "step" }, ...curves.map(chartSeries)],
    hooks: { setCursor: [onCursor] },
    title: "",
    ariaLabel: title,
  };
}

/** What the curves say at the step under the pointer, best-placed first. */
function readOut(plot, curves) {
  const at = plot.cursor.idx;
  if (at === null || at === undefined || !plot.data[0].length) return "";
  const step = plot.data[0][at];
  const parts = [];
  curves.forEach(({ name, faint }, i) => {
    const list = plot.data[i + 1];
    let near = at;
    while (near >= 0 && list[near] === undefined) near -= 1;
    if (!faint && near >= 0 && list[near] !== null) parts.push(`${name} ${figureText(list[near])}`);
  });
  const more = parts.length - LIVE_READ_OUT;
  const shown = parts.slice(0, LIVE_READ_OUT).join(" · ");
  return `step ${step.toLocaleString("en")}: ${shown}${more > 0 ? ` and ${more} more` : ""}`;
}

/** Each curve, and behind few smoothed ones what they were before. */
function drawnCurves(curves, smoothing) {
  const drawn = curves.map((curve) => ({ ...curve, values: smoothed(curve.values, smoothing) }));
  if (!smoothing || curves.length > LIVE_RAW_SHOWN) return drawn;
  return [...curves.map((curve) => ({ ...curve, faint: true })), ...drawn];
}

function chartWords(title, curves) {
  if (curves.length === 0) return `${title}: nothing to draw`;
  return `${title} of ${curves.length} ${curves.length === 1 ? "run" : "runs"} by step; the table has the latest figures`;
}

/**
 * A chart. `curves`: [{name, step, values, style, points}]; `focus`: the name of the run that
 * stands out; `smoothing`: share of the average that stays, 0 to 1.
 */
export function LiveChart({ title, curves, log, smoothing, focus, test }) {
  const box = useRef(null);
  const line = useRef(null);
  const made = useRef(null);
  const scheme = useScheme();
  const drawn = drawnCurves(curves, smoothing);
  const shape = JSON.stringify([drawn.map(({ name, style, faint }) => [name, style, faint]), log, scheme]);
  const latest = useRef(null);
  latest.current = drawn;
  useLayoutEffect(() => {
    const onCursor = (plot) => {
      line.current.textContent = readOut(plot, latest.current);
    };
    const width = box.current.clientWidth;
    const options = chartOptions({ title, curves: drawn, log, width, onCursor });
    const plot = new uPlot(options, chartData(drawn, log), box.current);
    made.current = plot;
    const sizes = new ResizeObserver(([entry]) => {
      const wide = Math.round(entry.contentRect.width);
      if (wide && wide !== plot.width) plot.setSize({ width: wide, height: LIVE_HEIGHT });
    });
    sizes.observe(box.current);
    return () => {
      sizes.disconnect();
      plot.destroy();
    };
  }, [shape]);
  useEffect(() => {
    const plot = made.current;
    const [steps] = plot.data;
    const { min, max } = plot.scales.x;
    // What somebody has zoomed into stays; a double click follows the run again.
    const zoomed = steps.length > 1 && (min > steps[0] || max < steps[steps.length - 1]);
    plot.setData(chartData(drawn, log), !zoomed);
    if (zoomed) plot.redraw();
  }, [curves, smoothing, log]);
  useEffect(() => {
    made.current.setSeries(null, { focus: false });
    drawn.forEach(({ name }, i) => {
      if (name === focus) made.current.setSeries(i + 1, { focus: true });
    });
  }, [focus, shape]);
  return html`<figure class="live-chart" data-test="live-chart" data-chart=${test}>
    <figcaption><h2>${title}</h2><p class="live-read-out" ref=${line}></p></figcaption>
    <div class="live-plot" ref=${box} role="img" aria-label=${chartWords(title, curves)}></div>
    ${curves.length === 0 && html`<p class="live-nothing">Nothing to draw yet.</p>`}
  </figure>`;
}
