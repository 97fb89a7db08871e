// A split as a grid of thumbnails with the captions of all runs, sorted and filtered.

import { html, Choice, ErrorLine, Num, Segmented, useDebounced, useEffect, useMemo, useRef, useState } from "./base.js";
import { offline, getTable, thumbnailAddress } from "./api.js";
import { changeAddress, formatAddress } from "./address.js";
import { useAddress } from "./asking.js";
import { runColour } from "./colours.js";
import { chosenRows, figureOf, figuresOf, keepRows, meanFigure, rangesFrom, rangesText, DISAGREEMENT } from "./browsetable.js";

const BROWSE_POLL = 2000; // milliseconds, while captions are being made
const BROWSE_PATIENCE = 60; // questions for scores after the last caption: perhaps there are none
const NO_IMAGE = "data:,"; // what an exported file has for a picture that is not in it

function lacksScores(table) {
  const lacks = ({ scores }) => Object.keys(scores).length === 0;
  return table.rows.some(({ runs }) => Object.values(runs).some(lacks));
}

/** The table, asked again until every picture has its captions and scores. */
function useTable() {
  const [table, setTable] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const control = new AbortController();
    let timer = null;
    let patience = BROWSE_PATIENCE;
    const ask = async () => {
      let again = true;
      try {
        const answer = await getTable(control.signal);
        if (control.signal.aborted) return;
        setTable((old) => answer && keepRows(old, answer));
        setError(answer ? null : "This file holds no table of pictures.");
        again = answer && !answer.message && (answer.ready < answer.total || (lacksScores(answer) && patience-- > 0));
      } catch (failure) {
        if (control.signal.aborted) return;
        setError(failure.message);
      }
      if (again && !offline) timer = setTimeout(ask, BROWSE_POLL);
    };
    ask();
    return () => {
      control.abort();
      clearTimeout(timer);
    };
  }, []);
  return { table, error };
}

function BrowseProgress({ table }) {
  const { ready, total, message } = table;
  if (ready >= total && !message) return null;
  return html`<div class="browse-progress" data-test="browse-progress">
    ${ready < total &&
    html`<label><progress max=${total} value=${ready}></progress>
      <${Num} value=${ready} text=${ready.toLocaleString("en")} test="browse-ready" /> of ${total.toLocaleString("en")} captioned</label>`}
    ${message && html`<span class="hint" role="alert" data-test="browse-stopped">${message}</span>`}
  </div>`;
}

function shortFigure(value) {
  return value === null ? "–" : value.toFixed(2);
}

function CardCaption({ session, row, run, figure }) {
  const summary = row.runs[run];
  const shown = figure && figure !== DISAGREEMENT;
  const value = shown ? figureOf(row, run, figure) : null;
  return html`<li class="browse-caption" data-test="browse-caption" data-run=${run}>
    <span class="browse-run" style=${{ "--run": runColour(session, run) }}>${run}</span>
    ${shown && html`<${Num} value=${value} text=${shortFigure(value)} test="browse-figure" />`}
    <p dir="auto">${summary ? summary.caption : html`<span class="hint">not captioned yet</span>`}</p>
  </li>`;
}

function CardReferences({ row }) {
  return html`<ul class="browse-references" aria-label="References">
    ${row.references.map((text, i) => html`<li key=${i} class="hint" dir="auto">${text}</li>`)}</ul>`;
}

function BrowseCard({ session, row, runs, figure, references }) {
  const image = thumbnailAddress(row.picture);
  const here = image !== NO_IMAGE;
  const href = formatAddress({ tab: "look", values: { picture: row.picture } });
  return html`<article class="card browse-card" data-test="browse-card" data-picture=${row.picture}>
    <div class="browse-image">${here && html`<img src=${image} alt="" width="192" height="144" loading="lazy" decoding="async" />`}</div>
    <h2>${here ? html`<a href=${href} data-test="browse-link">${row.name}</a>` : row.name}</h2>
    ${figure === DISAGREEMENT &&
    html`<p class="hint">disagreement <${Num} value=${row.disagreement} text=${shortFigure(row.disagreement)} test="browse-figure" /></p>`}
    <ul>${runs.map(
      (run) => html`<${CardCaption} key=${run} session=${session} row=${row} run=${run} figure=${figure} />`,
    )}</ul>
    ${references && html`<${CardReferences} row=${row} />`}
  </article>`;
}

/** The cards as virtual nodes: those whose rows did not change stay as they are. */
function useCards(session, runs, figure, references) {
  return useMemo(() => {
    const made = new WeakMap();
    return (row) => {
      if (!made.has(row)) {
        const card = html`<${BrowseCard} session=${session} row=${row} runs=${runs} figure=${figure} references=${references} />`;
        made.set(row, html`<li key=${row.picture}>${card}</li>`);
      }
      return made.get(row);
    };
  }, [session, runs.join("\n"), figure, references]);
}

function RangeRow({ range, figures, onChange, onRemove }) {
  const side = (name, text) => html`<label class="browse-side"><span>${text}</span>
    <input type="number" step="any" value=${range[name]} data-test=${`browse-${name}`}
      onInput=${(event) => onChange({ ...range, [name]: event.target.value })} /></label>`;
  return html`<div class="browse-range" role="group" aria-label=${`Filter on ${range.figure}`} data-test="browse-range">
    <${Choice} label="Only with" value=${range.figure} options=${figures} test="browse-range-figure"
      onChange=${(figure) => onChange({ ...range, figure })} />
    ${side("from", "from")}${side("to", "to")}
    <button aria-label=${`Remove the filter on ${range.figure}`} onClick=${onRemove}>×</button>
  </div>`;
}

function BrowseRanges({ ranges, figures, set }) {
  const put = (changed) => set({ only: rangesText(changed) || null });
  const replace = (at, range) => put(ranges.map((old, i) => (i === at ? range : old)));
  return html`<div class="browse-ranges">
    ${ranges.map(
      (range, at) => html`<${RangeRow} key=${at} range=${range} figures=${figures}
        onChange=${(changed) => replace(at, changed)} onRemove=${() => put(ranges.filter((_, i) => i !== at))} />`,
    )}
    ${figures.length > 0 &&
    html`<button data-test="browse-add" onClick=${() => put([...ranges, { figure: figures[0][0], from: "", to: "" }])}>
      Add a filter</button>`}
  </div>`;
}

function BrowseControls({ choice, runs, figures, set }) {
  const { run, sort, down, words, where } = choice;
  const order = [["", "Order in the split"], ...figures];
  return html`<div class="browse-controls">
    ${runs.length > 1 &&
    html`<${Choice} label="Figures from" value=${run} options=${runs.map((name) => [name, name])} test="browse-run"
      onChange=${(name) => set({ run: name })} />`}
    <${Choice} label="Sort by" value=${sort} options=${order} test="browse-sort"
      onChange=${(name) => set({ sort: name || null })} />
    <${Segmented} legend="Direction" name="browse-down" value=${down ? "down" : "up"} test="browse-down"
      options=${[["up", "↑", "Lowest first"], ["down", "↓", "Highest first"]].map(named)}
      onChange=${(way) => set({ down: way === "down" ? "1" : null })} />
    <label class="browse-words"><span>Words</span>
      <input type="text" value=${words} data-test="browse-words" placeholder="dog -ball run*"
        aria-describedby="browse-words-help" onInput=${(event) => set({ words: event.target.value || null })} /></label>
    <span id="browse-words-help" class="unseen">Every word must occur. A minus before a word excludes it. A star at its end matches any ending.</span>
    <${Segmented} legend="Search in" name="browse-where" value=${where} test="browse-where"
      options=${[["both", "Both"], ["captions", "Captions"], ["references", "References"]]}
      onChange=${(place) => set({ in: place === "both" ? null : place })} />
  </div>`;
}

/** An arrow is read out as what it means. */
function named([value, arrow, text]) {
  return [value, html`<span aria-hidden="true">${arrow}</span><span class="unseen">${text}</span>`, text];
}

function BrowseSummary({ rows, table, runs, choice }) {
  const { sort } = choice;
  const means = sort && sort !== DISAGREEMENT ? runs.map((run) => [run, meanFigure(rows, run, sort)]) : [];
  const known = means.filter(([, mean]) => mean !== null);
  return html`<p class="hint" role="status" data-test="browse-count">
    <${Num} value=${rows.length} text=${rows.length.toLocaleString("en")} test="browse-shown" /> of${" "}
    ${table.rows.length.toLocaleString("en")} pictures${known.length > 0 && `; mean ${sort}: `}
    ${known.map(([run, mean], i) => html`<span key=${run}>${i > 0 && ", "}${run} <${Num} value=${mean} text=${mean.toFixed(3)} /></span>`)}
  </p>`;
}

function chosenFrom(values, runs, figures) {
  const known = figures.some(([name]) => name === values.sort);
  return {
    run: runs.includes(values.run) ? values.run : (runs[0] ?? ""),
    sort: known ? values.sort : "",
    down: values.down === "1",
    words: values.words ?? "",
    where: ["captions", "references"].includes(values.in) ? values.in : "both",
    ranges: rangesFrom(values.only),
  };
}

let browseLeft = null; // the picture through which the grid was left, and the grid's address

/** Back leads to the card that was clicked: the browser cannot know where it will be. */
function useReturn(grid) {
  useEffect(() => {
    if (browseLeft?.hash !== location.hash) return;
    const link = grid.current.querySelector(`[data-picture="${CSS.escape(browseLeft.picture)}"] a`);
    browseLeft = null;
    link?.scrollIntoView({ block: "center" });
    link?.focus({ preventScroll: true });
  }, []);
  return (event) => {
    const card = event.target.closest("a") && event.target.closest("[data-picture]");
    if (card) browseLeft = { hash: location.hash, picture: card.dataset.picture };
  };
}

function BrowseGrid({ session, table, values }) {
  const runs = session.runs.filter(({ kind }) => kind === "images").map(({ name }) => name);
  const figures = useMemo(() => figuresOf(table.rows), [table]);
  const choice = chosenFrom(values, runs, figures);
  const calm = useDebounced(JSON.stringify(choice), 120); // typing must not wait for the grid
  const drawn = useMemo(() => JSON.parse(calm), [calm]);
  const rows = useMemo(() => chosenRows(table.rows, drawn), [table, drawn]);
  const grid = useRef(null);
  const leave = useReturn(grid);
  const card = useCards(session, runs, drawn.sort, drawn.where === "references");
  return html`<${BrowseControls} choice=${choice} runs=${runs} figures=${figures} set=${changeAddress} />
    <${BrowseRanges} ranges=${choice.ranges} figures=${figures} set=${changeAddress} />
    <${BrowseSummary} rows=${rows} table=${table} runs=${runs} choice=${drawn} />
    ${rows.length === 0 && html`<p class="note" data-test="browse-nothing">No picture matches. Remove some words or filters.</p>`}
    <ul class="browse-grid" data-test="browse-grid" ref=${grid} onClick=${leave}>${rows.map(card)}</ul>`;
}

export function Browse({ session }) {
  const { values } = useAddress();
  const { table, error } = useTable();
  return html`<div class="browse-heading"><h1>${table ? table.split : (session.split ?? "Pictures")}</h1>
      ${table && html`<${BrowseProgress} table=${table} />`}</div>
    <${ErrorLine} text=${error} test="browse-error" />
    ${!table && !error && html`<p class="waiting" role="status">Loading the table …</p>`}
    ${table && html`<${BrowseGrid} session=${session} table=${table} values=${values} />`}`;
}
