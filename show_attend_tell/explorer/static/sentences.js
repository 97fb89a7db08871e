// The view of sentences: a text, its translations, and which source words each target word read.

import { html, shownWord, useMemo, useState, Segmented } from "./base.js";
import { askCaption, offline } from "./api.js";
import { changeAddress } from "./address.js";
import { AlignmentLinks, AlignmentMatrix } from "./alignment.js";
import { useAddress, useAnswers } from "./asking.js";
import { PlayButton, RunChoice, SearchChoice } from "./controls.js";
import { forceGaze, sayWord } from "./given.js";
import { useLinkedWords } from "./look.js";
import { captionQuestion, changeSubject, commonDensity, largestFor, lookState, setGiven } from "./lookstate.js";
import { PanelCaption, PanelFoot, PanelHead } from "./panel.js";
import { StepFacts, TopWords, WordField } from "./words.js";

function SentenceField({ session, text, onText }) {
  const [typed, setTyped] = useState(text);
  const [from, setFrom] = useState(text);
  // The address may change from elsewhere (Back, an example): then the field follows.
  if (from !== text) {
    setFrom(text);
    setTyped(text);
  }
  const submit = (event) => {
    event.preventDefault();
    if (typed.trim()) onText(typed.trim());
  };
  return html`<section class="card sentence-field" aria-label="Sentence">
    ${!offline && html`<form onSubmit=${submit}>
      <label><span>Sentence</span><input type="text"
        value=${typed} maxlength="2000" data-test="sentence"
        onInput=${(event) => setTyped(event.target.value)} /></label>
      <button type="submit" class="main" data-test="translate">Translate</button>
    </form>`}
    ${session.sentences.length > 0 && html`<div class="examples" role="group"
      aria-label="Example sentences">
      ${session.sentences.map((sentence) => html`<button
        key=${sentence} type="button" data-test="sentence-example"
        aria-current=${sentence === text ? "true" : null}
        onClick=${() => onText(sentence)}>${sentence}</button>`)}
    </div>`}
  </section>`;
}

function SentenceWord({ run, state, reading, given, index, onSay }) {
  const step = reading.steps[index];
  const heading = step.gaze !== null ? `Made to read “${shownWord(reading.source[step.gaze])}”` : "Likeliest words";
  return html`<div class="side">
    <h3>“${shownWord(step.word)}” <small>word ${index + 1} of ${reading.steps.length}</small></h3>
    <${TopWords}
      top=${step.top}
      heading=${heading}
      said=${given[index]?.said ? step.word : null} onSay=${offline ? null : onSay} />
    ${!offline && html`<${WordField}
      run=${run.name} label="Say another word here" action="Say" test="say-word"
      onWord=${onSay} />`}
    <${StepFacts} run=${run} step=${step} />
  </div>`;
}

function SentencePanel({ run, session, state, text, view, reading, index, largest, act }) {
  const name = run.name;
  const given = state.given[name];
  const decide = (at, next) => {
    act.choose(name, at);
    setGiven(name, next);
  };
  // The old translation may still be on screen; what is decided about it means nothing for the new.
  const current = view.of?.text === text;
  const onForce =
    offline || !current ? null : (at, token) => decide(at, forceGaze(given, reading, at, token));
  const onSay = (word) => current && decide(index, sayWord(given, reading, index, word));
  const onChoose = (at) => act.choose(name, at);
  const onHover = (at) => act.hover(name, at);
  const shared = { reading, kind: state.map, index, onChoose, onHover };
  return html`<section class="panel sentence card"
    aria-label=${`Run ${name}`} data-test="panel" data-run=${name}>
    <${PanelHead}
      run=${run} session=${session} state=${state} reading=${reading} loading=${view.loading} />
    <${PanelCaption}
      run=${run} view=${view} reading=${reading} given=${given} index=${index} act=${act} />
    <div class="panel-frame">${reading && html`
      ${reading.cut && html`<p
        class="hint">The sentence was too long for this run and was cut.</p>`}
      <${AlignmentLinks} ...${shared} label=${`Links of ${name}`} />
      <div class="panel-body">
        <div class="stage-column"><${AlignmentMatrix}
          ...${shared} largest=${largest} onForce=${onForce}
          label=${`Alignment of ${name}: source words across, target words down`} />
          ${onForce && html`<p
            class="hint">Click a cell to make that word’s step read that token.</p>`}</div>
        <${SentenceWord}
          run=${run}
          state=${state} reading=${reading} given=${given} index=${index} onSay=${onSay} />
      </div>`}</div>
    <${PanelFoot} run=${run} state=${state} reading=${reading} />
  </section>`;
}

function SentenceControls({ session, state, playing, onPlay }) {
  const set = (key, usual) => (value) => changeAddress({ [key]: value === usual ? null : value });
  return html`<section class="controls card" aria-label="How to look">
    <${PlayButton} playing=${playing} onPlay=${onPlay} />
    <${RunChoice} session=${session} kind="sentences" chosen=${state.runs} />
    ${state.runs.some((run) => run.posterior) && html`<${Segmented} legend="Attention" name="map"
      test="map" value=${state.map}
      options=${[["prior", "Before the word"], ["posterior", "Given the word"]]}
      onChange=${set("map", "prior")} />`}
    <${Segmented} legend="Scale" name="scale" test="scale"
      value=${state.scale}
      options=${[["own", "Own"], ["common", "Common"]]} onChange=${set("scale", "own")} />
    ${!offline && html`<${SearchChoice} runs=${state.runs} beam=${state.beam} />`}
  </section>`;
}

export function Sentences({ session }) {
  const { values } = useAddress();
  const state = useMemo(() => lookState(session, values, "sentences"), [session, values]);
  const text = state.text ?? session.sentences[0] ?? "";
  const questions = Object.fromEntries(
    state.runs.map(({ name }) => [name, text ? captionQuestion({ ...state, masks: [] }, name, { text }) : null]),
  );
  const views = useAnswers(askCaption, questions);
  // The old translation brings its own source words, so it may stay until the new one is there.
  const readings = Object.fromEntries(Object.entries(views).map(([name, view]) => [name, view.answer]));
  const words = useLinkedWords(state, readings);
  const all = Object.values(readings).filter(Boolean);
  const density = useMemo(
    () => (state.scale === "common" ? commonDensity(all, state.map) : null),
    [state.scale, state.map, ...all],
  );
  return html`<h1 class="unseen">Sentences</h1>
    <${SentenceField}
      session=${session} text=${text} onText=${(next) => changeSubject({ text: next })} />
    <${SentenceControls}
      session=${session} state=${state} playing=${words.playing} onPlay=${words.onPlay} />
    <div class="panels" data-count=${state.runs.length}>
      ${state.runs.map((run) => html`<${SentencePanel}
        key=${run.name} run=${run} session=${session} state=${state} text=${text} view=${views[run.name]}
        reading=${readings[run.name]}
        index=${words.indexOf(run.name)}
        largest=${largestFor(readings[run.name], density)} act=${words} />`)}
    </div>`;
}
