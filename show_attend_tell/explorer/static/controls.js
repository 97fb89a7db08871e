// The controls above the panels: which runs, how maps are drawn, what a click does.

import { html, classes, useState, Choice, Segmented } from "./base.js";
import { offline } from "./api.js";
import { changeAddress } from "./address.js";
import { runColour } from "./colours.js";
import { encodeNames, LOOK_MODES } from "./lookstate.js";

/** A choice as it stands in the address: what everyone gets at first is left out. */
function setUnless(key, usual, options) {
  return (value) => changeAddress({ [key]: value === usual ? null : value }, options);
}

export function RunChoice({ session, kind, chosen }) {
  const all = session.runs.filter((run) => run.kind === kind);
  if (all.length < 2) return null;
  const names = chosen.map(({ name }) => name);
  const toggle = (name) => {
    const next = names.includes(name) ? names.filter((one) => one !== name) : [...names, name];
    if (next.length > 0) changeAddress({ runs: encodeNames(next) }, { push: true });
  };
  return html`<fieldset class="run-choice"><legend class="unseen">Runs side by side</legend>
    ${all.map(({ name }) => html`<label key=${name} class="run-chip">
      <input type="checkbox" checked=${names.includes(name)} data-test="run" data-run=${name}
        disabled=${names.length === 1 && names[0] === name} onChange=${() => toggle(name)} />
      <span class="dot"
        style=${{ background: runColour(session, name) }}></span><span>${name}</span></label>`)}
  </fieldset>`;
}

export function SearchChoice({ runs, beam }) {
  const own = [...new Set(runs.map((run) => run.beam))];
  const usual = own.length === 1 ? `the run’s own: ${own[0] === 1 ? "greedy" : `beam ${own[0]}`}` : "each run’s own";
  const options = [["", usual], ["1", "greedy"], ["3", "beam 3"], ["5", "beam 5"], ["10", "beam 10"]];
  const value = beam === null ? "" : String(beam);
  const known = options.some(([option]) => option === value);
  return html`<${Choice} label="Search" test="beam"
    value=${value} onChange=${setUnless("beam", "", { push: true })}
    options=${known ? options : [...options, [value, `beam ${value}`]]} />`;
}

export function PlayButton({ playing, onPlay }) {
  return html`<button type="button" class="main play" data-test="play"
    aria-pressed=${playing ? "true" : "false"}
    title="Space plays too"
    onClick=${onPlay}><span
    aria-hidden="true">${playing ? "❚❚" : "▶"}</span> ${playing ? "Pause" : "Play"}</button>`;
}

const MODE_OPTIONS = [
  ["look", "Look", "Choose words, compare maps"],
  ["gaze", "Force the gaze", "Click a place to make the step read it"],
  ["mask", "Mask", "Drag to paint a part of the picture grey"],
];
const STYLE_OPTIONS = [["heat", "Heat"], ["contours", "Contours"], ["cells", "Cells"]];
const SCALE_OPTIONS = [
  ["own", "Own", "Scale each map to its own maximum"],
  ["common", "Common", "Put all maps on one scale"],
];
const MAP_OPTIONS = [
  ["prior", "Before the word", "Where the model looks before it chooses the word"],
  ["posterior", "Given the word", "Where the chosen word came from"],
];

export function LookControls({ session, state, playing, onPlay, hasBoxes }) {
  const [open, setOpen] = useState(false);
  const modes = MODE_OPTIONS.filter(([mode]) => LOOK_MODES.includes(mode));
  const { opacity } = state;
  return html`<section class="controls card" aria-label="How to look">
    <${PlayButton} playing=${playing} onPlay=${onPlay} />
    <button type="button" class="more" data-test="more"
      aria-expanded=${open ? "true" : "false"} onClick=${() => setOpen(!open)}>Options</button>
    <${RunChoice} session=${session} kind="images" chosen=${state.runs} />
    ${modes.length > 1 && html`<${Segmented} legend="A click or drag" name="mode" test="mode"
      options=${modes} value=${state.mode} onChange=${setUnless("mode", "look", { push: true })} />`}
    <div class=${classes("controls-extra", open && "open")}>
    ${state.runs.some((run) => run.posterior) && html`<${Segmented} legend="Attention" name="map"
      test="map" options=${MAP_OPTIONS}
      value=${state.map} onChange=${setUnless("map", "prior")} />`}
    <${Segmented} legend="Drawn as" name="style" test="style"
      options=${STYLE_OPTIONS} value=${state.style} onChange=${setUnless("style", "heat")} />
    <${Segmented} legend="Scale" name="scale" test="scale"
      options=${SCALE_OPTIONS} value=${state.scale} onChange=${setUnless("scale", "own")} />
    <label class="slider"><span>Opacity</span><input type="range" min="0" max="100" step="5"
      data-test="opacity"
      value=${Math.round(100 * opacity)}
      onInput=${(event) => setUnless("opacity", "75")(event.target.value)} /></label>
    ${!offline && html`<${SearchChoice} runs=${state.runs} beam=${state.beam} />`}
    ${hasBoxes && html`<label class="check"><input type="checkbox"
      checked=${state.boxes} data-test="boxes"
      onChange=${(event) => changeAddress({ boxes: event.target.checked ? "1" : null })} />
      <span>True boxes</span></label>`}
    </div>
  </section>`;
}
