// What the view of pictures shows, read from its address and put back into it; how words link.

import { decodeGiven, encodeGiven, askedSteps } from "./given.js";
import { decodeMasks } from "./masks.js";
import { changeAddress, currentAddress } from "./address.js";
import { gazesKnown, offline } from "./api.js";

const RUNS_AT_FIRST = 2;
const MAP_STYLES = ["heat", "contours", "cells"];
export const LOOK_MODES = ["look", ...(gazesKnown ? ["gaze"] : []), ...(offline ? [] : ["mask"])];

function oneOf(options, value) {
  return options.includes(value) ? value : options[0];
}

/** A list of names in an address; commas inside of names are escaped once more. */
export function encodeNames(names) {
  return names.map((name) => name.replace(/[%,]/g, encodeURIComponent)).join(",");
}

/** The runs that are chosen, in the session's order; the first two where the address has none. */
export function chosenRuns(session, kind, text) {
  const all = session.runs.filter((run) => run.kind === kind);
  const names = (text ?? "").split(",").map((name) => name.replace(/%25|%2C/gi, decodeURIComponent));
  const wanted = all.filter((run) => names.includes(run.name));
  return wanted.length ? wanted : all.slice(0, RUNS_AT_FIRST);
}

export function wholeNumber(text, otherwise) {
  return /^\d+$/.test(text ?? "") ? Number(text) : otherwise;
}

function perRun(runs, values, prefix) {
  return Object.fromEntries(runs.map(({ name }) => [name, values[`${prefix}.${name}`]]));
}

export function lookState(session, values, kind) {
  const runs = chosenRuns(session, kind, values.runs);
  const given = perRun(runs, values, "given");
  return {
    runs,
    picture: values.picture ?? null,
    text: values.text ?? null,
    lead: runs.some(({ name }) => name === values.lead) ? values.lead : runs[0]?.name,
    word: wholeNumber(values.word, null),
    map: oneOf(["prior", "posterior"], values.map),
    style: oneOf(MAP_STYLES, values.style),
    opacity: Math.min(100, wholeNumber(values.opacity, 75)) / 100,
    scale: oneOf(["own", "common"], values.scale),
    boxes: values.boxes === "1",
    mode: oneOf(LOOK_MODES, values.mode),
    over: oneOf(["chance", "attention"], values.over),
    of: values.of ?? null,
    masks: session.offline ? [] : decodeMasks(values.masks),
    beam: wholeNumber(values.beam, null) || null,
    given: Object.fromEntries(runs.map(({ name }) => [name, session.offline ? [] : decodeGiven(given[name])])),
    context: perRun(runs, values, "context"),
    a: values.a ?? null,
    b: values.b ?? null,
  };
}

/** The question of one run: about the picture, or about the sentence where there is none. */
export function captionQuestion(state, run, about) {
  return {
    run,
    ...about,
    steps: askedSteps(state.given[run]),
    masks: state.masks,
    beam: state.beam,
    context: state.context[run] ?? null,
  };
}

export function setGiven(run, given) {
  changeAddress({ [`given.${run}`]: encodeGiven(given) }, { push: true });
}

/** Another picture or sentence: what was decided of the old one means nothing there. */
export function changeSubject(patch) {
  // As the address is now: an upload may have begun before the last decision.
  const stale = Object.keys(currentAddress().values).filter((key) => key.startsWith("given."));
  const cleared = Object.fromEntries(stale.map((key) => [key, null]));
  changeAddress({ ...cleared, word: null, lead: null, masks: null, of: null, ...patch }, { push: true });
}

/** The answer on screen, if it is about this picture or sentence; the old one's is no use. */
export function readingFor(view, about) {
  const same = view?.of && Object.entries(about).every(([key, value]) => view.of[key] === value);
  return same ? view.answer : null;
}

/** The step of another caption that goes with step `at` of `lead`: the same word, else as late. */
export function linkedStep(reading, lead, at, byIndex = false) {
  const last = reading.steps.length - 1;
  const word = lead?.steps[at]?.word;
  if (byIndex || reading === lead || word === undefined) return Math.min(at, last);
  const same = reading.steps.flatMap((step, i) => (step.word === word ? [i] : []));
  if (same.length === 0) return Math.min(at, last);
  return same.reduce((best, i) => (Math.abs(i - at) < Math.abs(best - at) ? i : best));
}

export function mapValues(step, kind) {
  return (kind === "posterior" && step.posterior) || step.prior;
}

export function largestOf(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/**
 * The end of a common colour scale, as share of attention times places: runs may have finer or
 * coarser grids, and the same attention then falls on more or fewer places.
 */
export function commonDensity(readings, kind) {
  const all = readings.flatMap(({ steps }) => steps.map((step) => mapValues(step, kind)));
  return largestOf(all.map((values) => largestOf(values) * values.length));
}

/** The end of a reading's colour scale; null: each map over its own maximum. */
export function largestFor(reading, density) {
  return density && reading ? density / reading.steps[0].prior.length : null;
}
