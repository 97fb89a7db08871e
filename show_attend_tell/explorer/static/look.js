// The view of pictures: what is chosen, the answers of all runs, and the parts that show them.

import { html, typing, END_WORD, useEffect, useMemo, useRef, useState, ErrorLine } from "./base.js";
import { askCaption, getPicture, offline } from "./api.js";
import { changeAddress } from "./address.js";
import { useAddress, useAnswer, useAnswers } from "./asking.js";
import { boxesNamed } from "./geometry.js";
import { LookControls } from "./controls.js";
import { captionQuestion, changeSubject, commonDensity, largestFor, linkedStep, lookState, readingFor } from "./lookstate.js";
import { encodeMasks, MaskFields, MOST_MASKS } from "./masks.js";
import { Difference, Overview } from "./overview.js";
import { RunPanel } from "./panel.js";
import { Shelf, uploadedPictures } from "./upload.js";
import { rovedTo, useFilm } from "./words.js";

function askPicture({ id }, signal) {
  return getPicture(id, signal);
}

/** Facts of the picture in the address; the session knows its own without asking. */
function usePicture(session, id) {
  const wanted = id ?? session.examples[0]?.id ?? null;
  const known = [...session.examples, ...uploadedPictures()].find((picture) => picture.id === wanted);
  const { answer, of, error } = useAnswer(askPicture, wanted && !known ? { id: wanted } : null);
  const picture = known ?? (of?.id === wanted ? answer : null);
  return { id: wanted, picture, error };
}

/** Space plays, arrows choose a word, unless the key is meant for something in focus. */
export function usePageKeys({ onPlay, onMove }) {
  const latest = useRef(null);
  latest.current = { onPlay, onMove };
  useEffect(() => {
    const isWord = (target) => Boolean(target.closest?.(".words, .strip"));
    const isTaken = (target) => Boolean(target.closest?.("button, a, summary, label")) && !isWord(target);
    const onKeyDown = (event) => {
      if (typing(event) || isTaken(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " ") {
        event.preventDefault();
        if (!event.repeat) latest.current.onPlay();
      } else if (event.target === document.body || event.target.id === "content") {
        if (["ArrowLeft", "ArrowRight"].includes(event.key)) latest.current.onMove(event);
      }
    };
    // Some browsers press a button in focus when Space goes up.
    const onKeyUp = (event) => event.key === " " && isWord(event.target) && event.preventDefault();
    addEventListener("keydown", onKeyDown);
    addEventListener("keyup", onKeyUp);
    return () => {
      removeEventListener("keydown", onKeyDown);
      removeEventListener("keyup", onKeyUp);
    };
  }, []);
}

/** The word to begin with: one that names a true box, or the one with the sharpest map. */
function firstWord(reading, boxes) {
  if (!reading) return 0;
  const named = reading.steps.findIndex(({ word }) => boxesNamed(word, boxes).length > 0);
  if (named >= 0) return named;
  const entropies = reading.steps.map(({ word, entropy }) => (word === END_WORD ? Infinity : entropy));
  return entropies.indexOf(Math.min(...entropies));
}

/** Which word each run shows: the chosen one, or for a moment the one under the mouse. */
export function useLinkedWords(state, readings, boxes = []) {
  const [hovered, setHovered] = useState(null);
  const word = state.word ?? firstWord(readings[state.lead], boxes);
  const held = hovered && readings[hovered.run] ? hovered : { run: state.lead, at: word };
  const lead = readings[held.run];
  const at = lead ? Math.min(held.at, lead.steps.length - 1) : held.at;
  const onStep = (next) => changeAddress({ word: next, lead: state.lead });
  const own = readings[state.lead];
  const now = own ? Math.min(word, own.steps.length - 1) : 0;
  const [playing, toggle] = useFilm(own?.steps.length ?? 0, now, onStep);
  const onPlay = () => {
    if (state.word === null) onStep(0);
    toggle();
  };
  usePageKeys({ onPlay, onMove: (event) => own && onStep(rovedTo(event, now, own.steps.length)) });
  const indexOf = (name) => (readings[name] ? linkedStep(readings[name], lead, at, playing) : 0);
  const choose = (run, next) => {
    setHovered(null);
    changeAddress({ lead: run, word: next });
  };
  const hover = (run, next) => setHovered(next === null || playing ? null : { run, at: next });
  return { indexOf, playing, onPlay, choose, hover };
}

/** What the picture is called, and what people wrote about it. */
function References({ picture }) {
  const name = html`<p class="hint picture-name" data-test="picture-name">${picture.name}</p>`;
  if (picture.references.length === 0) return name;
  return html`${name}<details
    class="references"><summary>What people wrote about it (${picture.references.length})</summary>
    <ul>${picture.references.map((text, i) => html`<li key=${i} dir="auto">${text}</li>`)}</ul></details>`;
}

function ModeHelp({ state, onMasks }) {
  if (state.mode === "mask") return html`<section class="card"
    aria-label="Masks"><${MaskFields} masks=${state.masks} onMasks=${onMasks} /></section>`;
  if (state.mode !== "gaze") return null;
  const tick = "A red line marks the probability of a word when the gaze is not forced.";
  return html`<p class="hint mode-help">${offline
    ? `Choose a word, then point at a place to see the five likeliest words if the model read
       that place. ${tick}`
    : `Choose a word, then point at a place to see the five likeliest words if the model read
       that place. ${tick} Click, or press Enter, to make the model read it and complete the
       caption from there.`}</p>`;
}

function LookBody({ session, state, picture, views }) {
  const about = { picture: picture.id };
  const readings = Object.fromEntries(
    Object.entries(views).map(([name, view]) => [name, readingFor(view, about)]),
  );
  const words = useLinkedWords(state, readings, picture.boxes);
  const shown = state.runs.filter(({ name }) => readings[name])
    .map((run) => ({ run, reading: readings[run.name], index: words.indexOf(run.name) }));
  const all = shown.map(({ reading }) => reading);
  const density = useMemo(
    () => (state.scale === "common" ? commonDensity(all, state.map) : null),
    [state.scale, state.map, ...all],
  );
  const onMasks = (masks) => changeAddress({ masks: encodeMasks(masks) }, { push: true });
  const mask = (sides) => onMasks([...state.masks, sides].slice(-MOST_MASKS));
  const act = { choose: words.choose, hover: words.hover, mask };
  return html`<${LookControls}
    session=${session}
    state=${state}
    playing=${words.playing} onPlay=${words.onPlay} hasBoxes=${picture.boxes.length > 0} />
    <${ModeHelp} state=${state} onMasks=${onMasks} />
    <div class="panels" data-count=${state.runs.length}>
      ${state.runs.map((run) => html`<${RunPanel}
        key=${run.name} run=${run} session=${session} picture=${picture} state=${state}
        view=${views[run.name]}
        reading=${readings[run.name]}
        index=${words.indexOf(run.name)}
        largest=${largestFor(readings[run.name], density)} act=${act} />`)}
    </div>
    <${References} picture=${picture} />
    <${Overview}
      session=${session}
      picture=${picture} shown=${shown} state=${state} density=${density} act=${act} />
    <${Difference} picture=${picture} shown=${shown} state=${state} act=${act} />`;
}

export function Look({ session }) {
  const { values } = useAddress();
  const state = useMemo(() => lookState(session, values, "images"), [session, values]);
  const { id, picture, error } = usePicture(session, state.picture);
  const questions = Object.fromEntries(
    state.runs.map(({ name }) => [name, picture ? captionQuestion(state, name, { picture: picture.id }) : null]),
  );
  const views = useAnswers(askCaption, questions);
  const onPicture = (facts) => changeSubject({ picture: facts.id });
  return html`<h1 class="unseen">Pictures and words</h1>
    <${Shelf} session=${session} picture=${id} current=${picture} onPicture=${onPicture} />
    <${ErrorLine} text=${error} test="picture-error" />
    ${!id && html`<p
      class="note">${offline ? "This file holds no pictures."
        : "Drop a picture anywhere on this page, paste one, or choose a file."}</p>`}
    ${picture && html`<${LookBody}
      session=${session} state=${state} picture=${picture} views=${views} />`}
    ${session.hint && html`<p class="hint"
      data-test="hint">${session.hint}</p>`}`;
}
