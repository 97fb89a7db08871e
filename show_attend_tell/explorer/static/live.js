// Training runs while they train: curves, latest figures, latest validation captions.

import { html, Choice, Segmented, useCallback, useEffect, useMemo, useRef, useState } from "./base.js";
import { changeAddress } from "./address.js";
import { useAddress } from "./asking.js";
import { useLiveRuns } from "./livestream.js";
import { LiveChart, liveStyle } from "./livecharts.js";
import { LiveTable } from "./livetable.js";
import { LiveCaptions } from "./livecaptions.js";

const LIVE_FIRST_SHOWN = 8; // runs that are on until someone chooses
const LIVE_SMOOTHEST = 0.98;
const LIVE_TICK = 10000;

/** Seconds since the newest event, so that "2 min ago" grows while nothing comes. */
function useElapsed(heard) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((count) => count + 1), LIVE_TICK);
    return () => clearInterval(timer);
  }, []);
  return heard ? Math.max(0, Date.now() / 1000 - heard) : 0;
}

/** Names in one value of the address: "all", "none", or a list that may hold commas itself. */
function namesFrom(text, all) {
  if (text === "all") return new Set(all);
  if (text === "none") return new Set();
  return new Set(text.split(",").map(commaBack).filter((name) => all.includes(name)));
}

/** An address may be typed by hand, so a percent sign may stand for itself. */
function commaBack(text) {
  return text.replace(/%2C/g, ",").replace(/%25/g, "%");
}

function commaFree(name) {
  return name.replace(/[%,]/g, encodeURIComponent);
}

function namesText(names, all) {
  if (names.length === 0) return "none";
  return names.length === all.length ? "all" : names.map(commaFree).join(",");
}

/** The runs that are on before anyone chooses: those that run, then those that wrote last. */
function firstShown(runs) {
  const entries = [...runs.values()].filter(({ run }) => run.step > 0);
  const urgent = ({ run }) => (run.state === "running" ? 1e12 : 0) + (run.written ?? 0);
  const newest = entries.sort((one, other) => urgent(other) - urgent(one));
  return new Set(newest.slice(0, LIVE_FIRST_SHOWN).map(({ run }) => run.name));
}

function useShown(runs, chosen) {
  // The first choice stays, or curves would come and go as runs take turns in writing.
  const [first, setFirst] = useState(null);
  const begun = [...runs.values()].some(({ run }) => run.step > 0);
  useEffect(() => {
    if (begun) setFirst((old) => old ?? firstShown(runs));
  }, [begun]);
  const all = [...runs.keys()];
  return useMemo(
    () => (chosen ? namesFrom(chosen, all) : (first ?? firstShown(runs))),
    [chosen, first, all.join("\n")],
  );
}

/** Validation scores by name, the ones that pick the best weights first. */
function scoreNames(runs) {
  const picked = new Set();
  const others = new Set();
  for (const { run, validation } of runs.values()) {
    if (run.metric) picked.add(run.metric);
    Object.keys(validation.values).forEach((name) => others.add(name));
  }
  return [...new Set([...picked, ...[...others].sort()])];
}

function curvesOf(runs, shown, styleOf, kind, name, points) {
  return [...runs.values()]
    .filter(({ run, [kind]: curves }) => shown.has(run.name) && curves.values[name]?.length)
    .map(({ run, [kind]: curves }) => ({
      name: run.name,
      style: styleOf(run.name),
      step: curves.step,
      values: curves.values[name],
      points,
    }));
}

function LiveLink({ live }) {
  const texts = { connecting: "Connecting …", open: "Live", lost: "Connection lost; trying again …" };
  return html`<span class=${`live-link live-link-${live.link}`} role="status" data-test="live-link"
    data-link=${live.link}>${texts[live.link]}</span>`;
}

function LiveSummary({ runs, live }) {
  const count = (state) => [...runs.values()].filter(({ run }) => run.state === state).length;
  const parts = ["running", "finished", "stopped"].map((state) => [count(state), state]);
  const text = parts.filter(([number]) => number > 0).map(([number, state]) => `${number} ${state}`);
  return html`<div class="live-heading"><h1>Training</h1>
    <p data-test="live-summary">${text.join(", ")}</p><${LiveLink} live=${live} />
    ${live.message && html`<p class="hint">${live.message}</p>`}</div>`;
}

function LiveControls({ runs, values, metric, names, set, setShown }) {
  const smoothing = Number(values.smooth ?? 0) || 0;
  const running = [...runs.values()].filter(({ run }) => run.state === "running").map(({ run }) => run.name);
  return html`<div class="live-controls">
    <label class="live-find"><span class="hint">Find runs</span>
      <input type="text" value=${values.find ?? ""} data-test="live-find" placeholder="part of a name"
        onInput=${(event) => set({ find: event.target.value || null })} /></label>
    <div class="live-buttons" role="group" aria-label="Runs to draw">
      <button data-test="live-all" onClick=${() => setShown([...runs.keys()])}>All</button>
      <button data-test="live-running" onClick=${() => setShown(running)}>Running</button>
      <button data-test="live-none" onClick=${() => setShown([])}>None</button></div>
    <${Choice} label="Validation score" value=${metric} options=${names.map((name) => [name, name])}
      onChange=${(name) => set({ score: name })} test="live-metric" />
    <${Segmented} legend="Scale" name="live-scale" value=${values.scale === "log" ? "log" : "linear"}
      options=${[["linear", "Linear"], ["log", "Log"]]} test="live-scale"
      onChange=${(scale) => set({ scale: scale === "log" ? "log" : null })} />
    <label class="slider"><span>Smoothing <span class="num">${smoothing.toFixed(2)}</span></span>
      <input type="range" min="0" max=${LIVE_SMOOTHEST} step="0.02" value=${smoothing} data-test="live-smooth"
        onInput=${(event) => set({ smooth: Number(event.target.value) || null })} /></label>
  </div>`;
}

/** The four charts. Validation scores are few and are not smoothed. */
function LiveCharts({ runs, shown, styleOf, metric, log, smoothing, focus }) {
  const charts = [
    ["Loss", "train", "loss"],
    [`Validation ${metric}`, "validation", metric],
    ["Gradient norm", "train", "gradient_norm"],
    ["Tokens per second", "train", "tokens_per_second"],
  ];
  return html`<div class="live-charts">${charts.map(
    ([title, kind, name]) => html`<${LiveCurves} key=${kind + name} title=${title} kind=${kind} name=${name}
      runs=${runs} shown=${shown} styleOf=${styleOf} log=${log} focus=${focus}
      smoothing=${kind === "train" ? smoothing : 0} />`,
  )}</div>`;
}

function LiveCurves({ title, kind, name, runs, shown, styleOf, log, smoothing, focus }) {
  const curves = useMemo(
    () => curvesOf(runs, shown, styleOf, kind, name, kind === "validation"),
    [runs, shown, styleOf, kind, name],
  );
  const test = kind === "validation" ? "score" : name;
  return html`<${LiveChart} title=${title} curves=${curves} log=${log} smoothing=${smoothing} focus=${focus} test=${test} />`;
}

/** Styles of the shown runs: each keeps its own while it is on, and the first eight are solid. */
function useStyles(shown) {
  const kept = useRef(new Map());
  return useMemo(() => {
    for (const name of kept.current.keys()) if (!shown.has(name)) kept.current.delete(name);
    const taken = new Set(kept.current.values());
    let free = 0;
    for (const name of shown) {
      if (kept.current.has(name)) continue;
      while (taken.has(free)) free += 1;
      kept.current.set(name, free);
      taken.add(free);
    }
    const numbers = new Map(kept.current);
    return (name) => liveStyle(numbers.get(name) ?? 0);
  }, [shown]);
}

function NoRuns({ live }) {
  return html`<section class="note"><h1>Training</h1><${LiveLink} live=${live} />
    ${live.link === "open" && html`<p data-test="live-empty">No runs yet. They appear here as soon as training
      writes into the folders that this explorer was started with.</p>`}</section>`;
}

export function Training() {
  const { values } = useAddress();
  const live = useLiveRuns();
  const elapsed = useElapsed(live.heard);
  const [focus, setFocus] = useState(null);
  const { runs } = live;
  const shown = useShown(runs, values.runs);
  const styleOf = useStyles(shown);
  const names = useMemo(() => scoreNames(runs), [runs]);
  const set = changeAddress;
  const all = [...runs.keys()];
  const setShown = (chosen) => set({ runs: namesText(chosen, all) });
  const toggle = useCallback(
    (name) => setShown(all.filter((other) => shown.has(other) !== (other === name))),
    [shown, all.join("\n")],
  );
  if (runs.size === 0) return html`<${NoRuns} live=${live} />`;
  const metric = names.includes(values.score) ? values.score : (names[0] ?? "score");
  const find = (values.find ?? "").toLowerCase();
  const rows = [...runs].filter(([name]) => name.toLowerCase().includes(find));
  const captioned = [...runs.values()].filter(({ run }) => run.captions_written !== null);
  const newest = captioned.reduce((a, b) => (a && a.run.captions_written >= b.run.captions_written ? a : b), null);
  const chosen = captioned.some(({ run }) => run.name === values.captions) ? values.captions : newest?.run.name;
  return html`<${LiveSummary} runs=${runs} live=${live} />
    <${LiveControls} runs=${runs} values=${values} metric=${metric} names=${names} set=${set} setShown=${setShown} />
    <div class="live-both">
      <${LiveCharts} runs=${runs} shown=${shown} styleOf=${styleOf} metric=${metric}
        log=${values.scale === "log"} smoothing=${Math.min(LIVE_SMOOTHEST, Number(values.smooth) || 0)} focus=${focus} />
      <${LiveTable} live=${{ ...live, elapsed }} rows=${rows} metric=${metric} shown=${shown} styleOf=${styleOf}
        onToggle=${toggle} onFocus=${setFocus} />
    </div>
    <${LiveCaptions} runs=${captioned} name=${chosen} onChoose=${(name) => set({ captions: name })} />`;
}
