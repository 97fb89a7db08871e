// What training runs write, as it comes: a snapshot, then changes. The browser reconnects.

import { useEffect, useReducer } from "./base.js";

const LIVE_MOST_POINTS = 4000;
const LIVE_FEWER_POINTS = 1500;
const LIVE_RETRY = 3000;

const liveStart = { runs: new Map(), link: "connecting", message: "", now: 0, heard: 0 };

/** Every n-th point, the last among them. */
function fewerPoints({ step, values }) {
  if (step.length <= LIVE_MOST_POINTS) return { step, values };
  const last = step.length - 1;
  const at = Array.from({ length: LIVE_FEWER_POINTS }, (_, i) => Math.round((i * last) / (LIVE_FEWER_POINTS - 1)));
  const picked = Object.entries(values).map(([name, list]) => [name, at.map((i) => list[i])]);
  return { step: at.map((i) => step[i]), values: Object.fromEntries(picked) };
}

/** Curves with new points at their ends; a name that one side lacks is filled with nulls. */
function longerCurves(old, more) {
  if (more.step.length === 0) return old;
  const gap = (length) => Array(length).fill(null);
  const values = {};
  for (const name of new Set([...Object.keys(old.values), ...Object.keys(more.values)])) {
    const before = old.values[name] ?? gap(old.step.length);
    values[name] = [...before, ...(more.values[name] ?? gap(more.step.length))];
  }
  return fewerPoints({ step: [...old.step, ...more.step], values });
}

function takeRuns(runs, news) {
  const taken = new Map(runs);
  for (const { run, whole, train, validation } of news) {
    const old = taken.get(run.name);
    taken.set(
      run.name,
      whole || !old
        ? { run, train, validation }
        : { run, train: longerCurves(old.train, train), validation: longerCurves(old.validation, validation) },
    );
  }
  return taken;
}

/** Those that run come first. */
function sortedRuns(runs) {
  const place = ({ run }) => Number(run.state !== "running");
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  return new Map([...runs].sort(([one, a], [other, b]) => place(a) - place(b) || compare(one, other)));
}

function liveReducer(state, { kind, news }) {
  if (kind === "lost") return { ...state, link: "lost" };
  const { now, message } = news;
  const runs = takeRuns(kind === "snapshot" ? new Map() : state.runs, news.runs);
  for (const name of news.gone ?? []) runs.delete(name);
  return { runs: sortedRuns(runs), link: "open", message, now, heard: Date.now() / 1000 };
}

/** {runs: Map of name to {run, train, validation}, link, message, now, heard}. */
export function useLiveRuns() {
  const [live, tell] = useReducer(liveReducer, liveStart);
  useEffect(() => {
    let source = null;
    let timer = null;
    const open = () => {
      source = new EventSource("/api/live/events");
      for (const kind of ["snapshot", "change"]) {
        source.addEventListener(kind, (event) => tell({ kind, news: JSON.parse(event.data) }));
      }
      source.onerror = () => {
        tell({ kind: "lost" });
        // After a refusal the browser gives up; a server that was restarted may be back soon.
        if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, LIVE_RETRY);
      };
    };
    open();
    return () => {
      clearTimeout(timer);
      source.close();
    };
  }, []);
  return live;
}

/** The last figure of a curve that is a number, with its step; null: there is none. */
export function lastFigure(curves, name) {
  const list = curves.values[name] ?? [];
  for (let i = list.length - 1; i >= 0; i -= 1) {
    if (list[i] !== null) return { value: list[i], step: curves.step[i] };
  }
  return null;
}

export function figureText(value) {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return value.toPrecision(4);
}

export function agoText(seconds) {
  if (seconds < 10) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}
