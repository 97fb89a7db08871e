// The latest validation captions of a run, with a small map for each word.

import { html, shownWord, percent, Choice, ErrorLine, Num, useEffect, useLayoutEffect, useRef, useState } from "./base.js";
import { offline, thumbnailAddress } from "./api.js";
import { rampBytes } from "./colours.js";

/** The captions of a run, asked again whenever it has written new ones. */
function useLatestCaptions(name, writtenAt) {
  const [answer, setAnswer] = useState({});
  useEffect(() => {
    if (!name || offline) return undefined;
    const control = new AbortController();
    const ask = async () => {
      const response = await fetch(`/api/live/${encodeURIComponent(name)}/captions`, { signal: control.signal });
      const body = await response.json();
      if (!response.ok) throw new Error(body.error ?? `The server answered with status ${response.status}.`);
      setAnswer({ name, latest: body });
    };
    ask().catch((error) => {
      if (error.name !== "AbortError") setAnswer((old) => ({ ...(old.name === name ? old : { name }), error: error.message }));
    });
    return () => control.abort();
  }, [name, writtenAt]);
  return answer.name === name ? answer : {};
}

function paintMap(canvas, weights, [rows, columns]) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const ramp = rampBytes("attention");
  const largest = Math.max(...weights, 1e-9);
  weights.forEach((weight, i) => {
    const at = 4 * Math.round(Math.max(0, Math.min(1, weight / largest)) * 255);
    for (let part = 0; part < 4; part += 1) pixels.data[4 * i + part] = ramp[at + part];
  });
  context.putImageData(pixels, 0, 0);
}

function mostRead(weights) {
  return weights.reduce((best, weight, i) => (weight > weights[best] ? i : best), 0);
}

/** What a map shows, in words. */
function mapWords(word, weights, caption) {
  const place = mostRead(weights);
  const columns = caption.grid[1];
  const where = caption.source.length
    ? `“${shownWord(caption.source[place])}”`
    : `row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1}`;
  return `${shownWord(word)}: highest at ${where}, ${percent(weights[place])}`;
}

function SmallMap({ caption, at }) {
  const canvas = useRef(null);
  const weights = caption.alpha[at];
  useLayoutEffect(() => paintMap(canvas.current, weights, caption.grid), [caption, at]);
  const words = mapWords(caption.words[at], weights, caption);
  const flat = caption.source.length > 0;
  return html`<span class=${`live-map ${flat ? "live-flat" : ""}`} title=${words}>
    ${caption.picture && !flat && html`<img src=${thumbnailAddress(caption.picture)} alt="" loading="lazy" />`}
    <canvas ref=${canvas} role="img" aria-label=${words} data-test="live-map"></canvas>
  </span>`;
}

function LiveWord({ caption, at, gate }) {
  const beta = caption.beta[at];
  return html`<li class="live-word">
    <${SmallMap} caption=${caption} at=${at} />
    <span class="live-said" dir="auto">${shownWord(caption.words[at])}</span>
    ${caption.source.length > 0 &&
    html`<span class="hint">${shownWord(caption.source[mostRead(caption.alpha[at])])}</span>`}
    ${gate && html`<span class="live-beta" title=${`gate β ${beta}`}>
      <span aria-hidden="true"><span style=${{ width: `${100 * Math.min(1, Math.max(0, beta))}%` }}></span></span>
      <${Num} value=${beta} text=${`β ${beta.toFixed(2)}`} /></span>`}
  </li>`;
}

function LiveCaption({ caption, gate }) {
  const { text } = caption;
  return html`<li class="card live-caption" data-test="live-caption" data-id=${caption.id}>
    <p class="live-text" dir="auto">${text}</p>
    <p class="hint live-id">${caption.source.length ? caption.source.map(shownWord).join(" ") : caption.id}</p>
    <ol class="live-words" tabindex="0" aria-label=${`Maps of “${text}”`}>
      ${caption.words.map((_, at) => html`<${LiveWord} key=${at} caption=${caption} at=${at} gate=${gate} />`)}
    </ol>
  </li>`;
}

/** `runs`: the entries of runs that have captions; `name`: the one to show. */
export function LiveCaptions({ runs, name, onChoose }) {
  const entry = runs.find(({ run }) => run.name === name);
  const { latest, error } = useLatestCaptions(entry?.run.name, entry?.run.captions_written);
  if (runs.length === 0) {
    return html`<section class="live-captions" data-test="live-captions"><h2>Latest validation captions</h2>
      <p class="hint">No run has written any yet. Each validation writes its first few captions.</p></section>`;
  }
  return html`<section class="live-captions" data-test="live-captions" aria-busy=${!latest && !error}>
    <div class="live-heading"><h2>Latest validation captions</h2>
      <${Choice} label="Run" options=${runs.map(({ run }) => [run.name, run.name])} value=${entry?.run.name}
        onChange=${onChoose} test="live-captions-run" />
      ${latest && html`<p class="hint" role="status">after step <${Num} value=${latest.step}
        text=${latest.step.toLocaleString("en")} test="live-captions-step" />; each map scaled to its own maximum</p>`}
    </div>
    <${ErrorLine} text=${error} test="live-captions-error" />
    ${latest && html`<ul class="live-list">${latest.captions.map(
      (caption) => html`<${LiveCaption} key=${caption.id} caption=${caption} gate=${latest.gate} />`,
    )}</ul>`}
  </section>`;
}
