// A caption as words to choose from, and what is known of the chosen one.

import { html, classes, percent, shownWord, Num, useEffect, useMemo, useRef, useState, END_WORD } from "./base.js";
import { askWords } from "./api.js";
import { useAnswer } from "./asking.js";
import { boxesNamed, shareInside } from "./geometry.js";

const ROVING_KEYS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Where an arrow key leads in a row of `count`, which may run from right to left; else null. */
export function rovedTo(event, at, count, leftwards = false) {
  if (event.altKey || event.ctrlKey || event.metaKey) return null;
  if (event.key === "Home") return 0;
  if (event.key === "End") return count - 1;
  const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
  const move = ROVING_KEYS[event.key] * (leftwards && sideways ? -1 : 1);
  return move ? Math.min(count - 1, Math.max(0, at + move)) : null;
}

function wordLabel(step, given) {
  const decided = [step.gaze !== null && "gaze forced", given?.said && "word chosen"].filter(Boolean);
  return [shownWord(step.word), ...decided].join(", ");
}

function wordClass(step, given) {
  const end = step.word === END_WORD && "end-word";
  return classes("word", end, step.gaze !== null && "gazed", given?.said && "said");
}

/** The words: one stop for the Tab key, arrows lead on, hovering shows without choosing. */
export function CaptionWords({ reading, given, chosen, label, busy, onChoose, onHover }) {
  const row = useRef(null);
  const count = reading.steps.length;
  const onKeyDown = (event) => {
    const leftwards = getComputedStyle(row.current).direction === "rtl";
    const next = rovedTo(event, chosen, count, leftwards);
    if (next === null) return;
    event.preventDefault();
    event.stopPropagation();
    onChoose(next);
    row.current.children[next].focus();
  };
  return html`<div class=${classes("words", busy && "busy")} dir="auto" role="group" aria-label=${label}
    aria-busy=${busy} ref=${row} onKeyDown=${onKeyDown} data-test="words"
    onPointerLeave=${() => onHover(null)}>
    ${reading.steps.map(
      (step, i) => html`<button
        key=${i} type="button" data-test="word" data-index=${i} data-word=${step.word}
        class=${wordClass(step, given[i])}
        aria-label=${wordLabel(step, given[i])} aria-current=${i === chosen ? "true" : null}
        tabindex=${i === Math.min(chosen, count - 1) ? 0 : -1} onClick=${() => onChoose(i)}
        onFocus=${() => i !== chosen && onChoose(i)}
        onPointerEnter=${(event) => event.pointerType === "mouse" && onHover(i)}
        style=${{ "--p": step.log_p === null ? 0 : Math.exp(step.log_p) }}>${shownWord(step.word)}</button>`,
    )}
  </div>`;
}

/** Five words with bars; `own` marks what the model gives them by itself. */
export function TopWords({ top, own, heading, onSay, said }) {
  if (top.length === 0) return null; // a record does not hold them
  const byItself = new Map((own ?? []).map(({ word, p }) => [word, p]));
  return html`<div class="top-words">
    <h4>${heading}</h4>
    <ol>
      ${top.map(({ word, p }, i) => {
        const before = byItself.get(word);
        const inside = html`<span class="bar" style=${{ width: `${100 * p}%` }}></span>
          ${before !== undefined && html`<span class="tick"
            style=${{ left: `${100 * before}%` }}></span>`}
          <span class="top-word" dir="auto">${shownWord(word)}</span><${Num}
            value=${p} text=${percent(p)} test="top-p" />`;
        const shared = { class: classes("top-row", word === said && "is-said"), "data-test": "top", "data-word": word };
        return html`<li key=${i}>${onSay
          ? html`<button type="button"
            ...${shared} title=${`Say “${shownWord(word)}” here and complete the caption`}
            onClick=${() => onSay(word)}>${inside}</button>`
          : html`<div ...${shared}>${inside}</div>`}</li>`;
      })}
    </ol>
  </div>`;
}

function Fact({ name, title, value, text, test }) {
  return html`<div
    title=${title}><dt>${name}</dt><dd><${Num}
    value=${value} text=${text} test=${test} /></dd></div>`;
}

/** Numbers of one step. `map` is the one on screen; boxes are the picture's, all of them. */
export function StepFacts({ run, step, map, boxes = [] }) {
  const named = boxesNamed(step.word, boxes);
  const inside = useMemo(
    () => (named.length > 0 && map ? shareInside(map.values, map.grid, named) : null),
    [step, map?.values, map?.grid, boxes],
  );
  return html`<dl class="facts">
    ${step.log_p !== null && html`<${Fact} name="log p" title="Log-probability of the word, nats"
      value=${step.log_p} text=${step.log_p.toFixed(3)} test="log-p" />`}
    <${Fact} name="entropy" title="Entropy of the attention before the word is known, nats"
      value=${step.entropy}
      text=${step.entropy.toFixed(2)} test="entropy" />
    ${run.gate && html`<${Fact} name="β" title="The gate: how much of what is read gets through"
      value=${step.beta} text=${step.beta.toFixed(2)} test="beta" />`}
    ${run.null_place && html`<${Fact} name="null" title="Share of the attention that reads nothing"
      value=${step.null} text=${percent(step.null)} test="null" />`}
    ${boxes.length > 0 && html`<${Fact} name="in box"
      title="Share of the map in the boxes that the word names"
      value=${inside ?? ""} text=${inside === null ? "–" : percent(inside)} test="in-box" />`}
  </dl>`;
}

/** A field for a word of the vocabulary, with words that begin as typed so far. */
export function WordField({ run, label, action, onWord, test }) {
  const [text, setText] = useState("");
  const begins = text.trim();
  const { answer } = useAnswer(askRunWords, begins ? { run, begins } : null, 120);
  const list = `words-${test}-${run}`.replace(/\W/g, "-");
  const submit = (event) => {
    event.preventDefault();
    if (!begins) return;
    onWord(begins);
    setText("");
  };
  return html`<form class="word-field" onSubmit=${submit}>
    <label><span>${label}</span>
      <input type="text"
        list=${list} value=${text} autocomplete="off" autocapitalize="off" spellcheck=${false}
        maxlength="60"
        data-test=${test} onInput=${(event) => setText(event.target.value)} /></label>
    <datalist
      id=${list}>${(answer ?? []).map((word) => html`<option
      key=${word} value=${word} />`)}</datalist>
    <button type="submit" disabled=${!begins} data-test=${`${test}-go`}>${action}</button>
  </form>`;
}

function askRunWords({ run, begins }, signal) {
  return askWords(run, begins, signal);
}

/** What the asker decided, each with a way back. The line is always there: nothing may jump. */
export function Interventions({ items, describe, onUndo, onReset }) {
  if (items.length === 0) return html`<p
    class="interventions hint">All choices are the model’s own.</p>`;
  return html`<div class="interventions">
    <ul aria-label="What you decided">
      ${items.map((item) => html`<li key=${`${item.kind}${item.at}`}>
        <span>${describe(item)}</span>
        <button type="button" data-test="undo" data-step=${item.at} data-kind=${item.kind}
          aria-label=${`Undo: ${describe(item)}`}
          onClick=${() => onUndo(item)}>Undo</button></li>`)}
    </ul>
    <button type="button" data-test="reset" onClick=${onReset}>Reset all</button>
  </div>`;
}

/** The film: a word after another until the last. Tells the step by `onStep`. */
export function useFilm(count, at, onStep) {
  const [playing, setPlaying] = useState(false);
  const now = useRef(at);
  now.current = at;
  useEffect(() => {
    if (!playing) return undefined;
    const timer = setInterval(() => {
      if (now.current + 1 >= count) setPlaying(false);
      else onStep(now.current + 1);
    }, 750);
    return () => clearInterval(timer);
  }, [playing, count]);
  const toggle = () => {
    if (!playing && at + 1 >= count) onStep(0);
    setPlaying(!playing);
  };
  return [playing, toggle];
}
