// Forced gaze: what the next word would be if the step read another place.

import { html, percent, shownWord, Num, useState, Segmented } from "./base.js";
import { askGaze, offline } from "./api.js";
import { useAnswer } from "./asking.js";
import { changeAddress } from "./address.js";
import { placeName } from "./geometry.js";
import { largestOf } from "./lookstate.js";
import { WordField } from "./words.js";

const GAZE_PAUSE = 90;

/** All earlier steps with their words and forced gazes: what the step at `at` builds on. */
function stepsBefore(reading, at) {
  return reading.steps.slice(0, at).map(({ word, gaze }) => ({ word, gaze }));
}

/** The answer for step `at`, and the place that is looked at without choosing it. */
export function useGaze({ active, about, run, reading, at, state }) {
  const [looked, setLooked] = useState(null);
  const step = reading?.steps[at];
  const question = active && step
    ? {
        run,
        ...about,
        steps: stepsBefore(reading, at),
        masks: state.masks,
        word: state.of ?? step.word,
        context: reading.context,
      }
    : null;
  const view = useAnswer(askGaze, question, GAZE_PAUSE);
  const alike = (...parts) => question && view.of
    && parts.every((part) => JSON.stringify(view.of[part]) === JSON.stringify(question[part]));
  // The map names its word, so the old one may stay a moment; the words of each place may not.
  const gaze = alike("picture", "masks") ? view.answer : null;
  const cells = gaze && alike("steps", "context") ? gaze.cells : null;
  return { gaze, cells, error: view.error, loading: view.loading, looked: active ? looked : null, setLooked };
}

/** The map p(word | look here) for the picture, on a scale of its own. */
export function chanceMap(gaze) {
  return { values: gaze.map, grid: gaze.grid, largest: largestOf(gaze.map), ramp: "chance" };
}

export function GazeControls({ run, name, gaze, loading, state, looked, grid, step }) {
  const word = shownWord(gaze?.word ?? state.of ?? step.word);
  const options = [["chance", "p(word | look here)"], ["attention", "Attention"]];
  const place = looked ?? step.gaze;
  const here = gaze && place !== null ? gaze.map[place] : null;
  return html`<div class="gaze-controls">
    <${Segmented} legend="Map over the picture" quiet
      name=${`over-${name}`} test="over" options=${options} value=${state.over}
      onChange=${(over) => changeAddress({ over: over === "chance" ? null : over })} />
    <p class="gaze-line" data-test="gaze-line"
      aria-busy=${loading ? "true" : "false"}>p(<b>${word}</b>)${" "}
      ${gaze ? html`unforced <${Num}
        value=${gaze.own} text=${percent(gaze.own)} test="gaze-own" />` : "…"}
      ${here !== null && html`; ${placeName(place, grid)}: <${Num}
        value=${here} text=${percent(here)} test="gaze-here" />`}</p>
    ${!offline && html`<div class="gaze-word">
      <${WordField} run=${run} label="Map another word" action="Map" test="map-word"
        onWord=${(of) => changeAddress({ of })} />
      ${state.of && html`<button type="button" data-test="map-own"
        onClick=${() => changeAddress({ of: null })}>
        Back to the caption’s word</button>`}
    </div>`}
    ${offline && html`<p
      class="hint">This file has only the five likeliest words of each place. Where the word is not
      among them, the map is 0.</p>`}
  </div>`;
}
