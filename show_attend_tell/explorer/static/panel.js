// One run's view of the picture: its caption, the map of a word, and what is known of that word.

import { html, classes, percent, shownWord, useMemo, useState, Choice, ErrorLine, Num } from "./base.js";
import { offline } from "./api.js";
import { changeAddress } from "./address.js";
import { rampGradient, runColour } from "./colours.js";
import { boxesNamed, placeName } from "./geometry.js";
import { forceGaze, interventionsOf, sayWord, undoGiven } from "./given.js";
import { chanceMap, GazeControls, useGaze } from "./gaze.js";
import { GazeCells } from "./gazecells.js";
import { largestOf, mapValues, setGiven } from "./lookstate.js";
import { PictureMap } from "./mapview.js";
import { MaskDrawing } from "./masks.js";
import { CaptionWords, Interventions, StepFacts, TopWords, WordField } from "./words.js";

export function PanelHead({ run, session, state, reading, loading }) {
  const contexts = run.contexts.map((name) => [name, name === run.context ? `${name} (its own)` : name]);
  const onContext = (context) => {
    const value = context === run.context ? null : context;
    changeAddress({ [`context.${run.name}`]: value }, { push: true });
  };
  const computed = reading && run.kind === "images" && !reading.grid.measured;
  return html`<header class="panel-head">
    <h2><span class="dot"
      style=${{ background: runColour(session, run.name) }}></span>${run.name}</h2>
    <p class="hint">${run.description}${computed && html`, <span data-test="computed"
      title="The centres were computed, not measured: maps can be half a cell off"
      >computed centres</span>`}</p>
    ${!offline && contexts.length > 1 && html`<${Choice} label="Reads"
      options=${contexts} test="context"
      value=${state.context[run.name] ?? run.context}
      onChange=${onContext} />`}
    <span class="panel-time hint"
      role="status">${loading ? "reading …" : reading && !offline ? `${reading.seconds.toFixed(2)} s` : ""}</span>
  </header>`;
}

/** The gate as a column beside the picture. */
function BetaGauge({ beta }) {
  return html`<div class="beta" role="meter" aria-label="Gate β" aria-valuemin="0" aria-valuemax="1"
    aria-valuenow=${beta.toFixed(3)} title="The gate: how much of what is read gets through">
    <span class="beta-name" aria-hidden="true">β</span>
    <span class="beta-column" aria-hidden="true"><span
      style=${{ height: `${100 * beta}%` }}></span></span>
    <${Num} value=${beta} text=${beta.toFixed(2)} />
  </div>`;
}

/** What the colours mean, and the map in words for those who do not see it. */
export function MapLegend({ map, text, low = "0" }) {
  const difference = map.ramp === "difference";
  return html`<div class="legend">
    <span class="legend-text">${text}</span>
    <span class="legend-scale"><span>${difference ? `−${percent(map.largest)}` : low}</span>
      <span class="legend-ramp" style=${{ background: rampGradient(map.ramp) }}></span>
      <${Num}
        value=${map.largest}
        text=${`${difference ? "+" : ""}${percent(map.largest)}`} test="largest" /></span>
  </div>`;
}

function mapSummary(map) {
  const at = map.values.indexOf(Math.max(...map.values));
  return `; largest at ${placeName(at, map.grid)} with ${percent(map.values[at])}`;
}

function legendText(map, step, kind, gaze) {
  if (map.ramp === "chance") return `p(“${shownWord(gaze.word)}” | look here)`;
  const given = kind === "posterior" && step.posterior;
  return `Attention ${given ? "given" : "before"} “${shownWord(step.word)}”`;
}

/** The map on screen: attention, or what the word would get at each place. */
function panelMap({ reading, step, state, largest, gaze }) {
  if (!step) return null;
  if (state.mode === "gaze" && state.over === "chance" && gaze) return chanceMap(gaze);
  const values = mapValues(step, state.map);
  return { values, grid: reading.grid, largest: largest ?? largestOf(values), ramp: "attention" };
}

function PanelStage({ run, picture, state, reading, step, map, gaze, onMask, onForce }) {
  const [cursor, setCursor] = useState(null);
  const marks = !step ? [] : [
    // A step that reads the null place reads none of the picture.
    { kind: "read", place: reading.hard && step.null <= largestOf(step.prior) ? step.location : null },
    { kind: "forced", place: step.gaze },
    { kind: "looked", place: gaze.looked },
  ];
  const named = useMemo(() => (step ? boxesNamed(step.word, picture.boxes) : []), [step, picture]);
  const gazing = state.mode === "gaze" && step;
  const onLook = (place) => {
    if (place !== null) setCursor(place);
    gaze.setLooked(place);
  };
  return html`<div class=${classes("stage", `mode-${state.mode}`)}>
    <${PictureMap} picture=${picture} map=${map} view=${state} alt=${picture.name} marks=${marks}
      boxes=${state.boxes ? picture.boxes : []} named=${named} masks=${state.masks}>
      ${gazing && html`<${GazeCells}
        grid=${reading.grid} cells=${gaze.cells} cursor=${cursor ?? step.location}
        label=${`Places that ${run.name} can read for “${shownWord(step.word)}”`}
        onLook=${onLook} onChoose=${onForce} />`}
      ${state.mode === "mask" && html`<${MaskDrawing} onMask=${onMask} />`}
    <//>
    ${run.gate && (step ? html`<${BetaGauge} beta=${step.beta} />` : html`<div class="beta"></div>`)}
  </div>`;
}

function PanelSide({ run, state, reading, given, index, step, map, gaze, picture, onSay }) {
  const { looked } = gaze;
  const there = looked !== null ? gaze.cells?.[looked] : null;
  const heading = there ? `Looking at ${placeName(looked, reading.grid)}`
    : step.gaze !== null ? `Made to look at ${placeName(step.gaze, reading.grid)}` : "Likeliest words";
  return html`<div class="side">
    <h3>“${shownWord(step.word)}” <small>word ${index + 1} of ${reading.steps.length}${
      step.log_p !== null && html`, <${Num}
      value=${Math.exp(step.log_p)}
      text=${percent(Math.exp(step.log_p))} test="word-p" />`}</small></h3>
    <${TopWords} top=${there ?? step.top} own=${there ? step.top : null} heading=${heading}
      said=${given[index]?.said ? step.word : null} onSay=${offline ? null : onSay} />
    ${!offline && html`<${WordField}
      run=${run.name} label="Say another word here" action="Say" test="say-word"
      onWord=${onSay} />`}
    <${StepFacts} run=${run}
      step=${step} map=${map?.ramp === "attention" ? map : null} boxes=${picture?.boxes} />
  </div>`;
}

/** Decisions in words, for the list under the caption. */
export function describeDecision(reading, grid = true) {
  return ({ at, kind, gaze, word }) => {
    const where = kind === "gaze" && reading
      && (grid ? placeName(gaze, reading.grid) : `“${reading.source[gaze]}”`);
    const what = kind === "gaze" ? `looks at ${where || `place ${gaze}`}` : `says “${shownWord(word)}”`;
    return `Word ${at + 1} ${what}`;
  };
}

export function PanelCaption({ run, view, reading, given, index, act }) {
  const name = run.name;
  return html`<div class="caption" data-test="caption" data-run=${name}>
    ${reading
      ? html`<${CaptionWords} reading=${reading} given=${given} chosen=${index} busy=${view.loading}
          label=${`Caption by ${name}`}
          onChoose=${(at) => act.choose(name, at)} onHover=${(at) => act.hover(name, at)} />`
      : html`<p class="words busy hint">${view.error ? "" : "…"}</p>`}
    <${ErrorLine} text=${view.error} test="panel-error" />
    ${view.error && html`<button type="button" class="retry" data-test="retry"
      onClick=${view.retry}>Try again</button>`}
  </div>`;
}

/** At the foot of a panel, so that the picture does not move under the hand that decides. */
export function PanelFoot({ run, state, reading }) {
  if (offline) return null;
  const given = state.given[run.name];
  return html`<${Interventions}
    items=${interventionsOf(given)} describe=${describeDecision(reading, run.kind === "images")}
    onUndo=${(item) => setGiven(run.name, undoGiven(given, item))}
    onReset=${() => setGiven(run.name, [])} />`;
}

export function RunPanel({ run, session, picture, state, view, reading, index, largest, act }) {
  const name = run.name;
  const given = state.given[name];
  const step = reading?.steps[index] ?? null;
  const active = state.mode === "gaze";
  const gaze = useGaze({ active, about: { picture: picture.id }, run: name, reading, at: index, state });
  const map = panelMap({ reading, step, state, largest, gaze: gaze.gaze });
  const decide = (next, at) => {
    act.choose(name, at);
    if (!offline) setGiven(name, next);
  };
  const onForce = (place) => decide(forceGaze(given, reading, index, place), index);
  const onSay = (word) => decide(sayWord(given, reading, index, word), index);
  return html`<section class="panel card"
    aria-label=${`Run ${name}`} data-test="panel" data-run=${name}>
    <${PanelHead}
      run=${run} session=${session} state=${state} reading=${reading} loading=${view.loading} />
    <${PanelCaption}
      run=${run} view=${view} reading=${reading} given=${given} index=${index} act=${act} />
    <div class="panel-frame"><div class="panel-body"
      style=${{ "--stage-aspect": picture.width / picture.height }}>
      <div class="stage-column">
        <${PanelStage}
          run=${run}
          picture=${picture} state=${state} reading=${reading} step=${step} map=${map} gaze=${gaze}
          onMask=${act.mask} onForce=${onForce} />
        ${map ? html`<${MapLegend}
          map=${map}
          text=${html`${legendText(map, step, state.map, gaze.gaze)}<span
          class="unseen">${mapSummary(map)}</span>`} />`
          : html`<div class="legend"></div>`}
        ${state.mode === "gaze" && step && html`<${GazeControls}
          run=${name} name=${name} gaze=${gaze.gaze} loading=${gaze.loading} state=${state}
          looked=${gaze.looked} grid=${reading.grid} step=${step} />`}
        <${ErrorLine} text=${gaze.error} test="gaze-error" />
      </div>
      ${step ? html`<${PanelSide}
        run=${run} state=${state} reading=${reading} given=${given} index=${index} step=${step}
        map=${map}
        gaze=${gaze} picture=${picture} onSay=${onSay} />` : html`<div class="side"></div>`}
    </div></div>
    <${PanelFoot} run=${run} state=${state} reading=${reading} />
  </section>`;
}
