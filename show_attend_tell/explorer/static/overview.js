// Overviews: a small map for every word of a caption, and the difference of two runs' maps.

import { html, classes, shownWord, useMemo, Choice } from "./base.js";
import { changeAddress } from "./address.js";
import { runColour } from "./colours.js";
import { regrid } from "./geometry.js";
import { largestFor, largestOf, linkedStep, mapValues } from "./lookstate.js";
import { PictureMap } from "./mapview.js";
import { MapLegend } from "./panel.js";

const MINI_VIEW = { style: "heat", opacity: 0.85 };

/** Small maps as buttons; each chooses its word. `maps`: [{word, map}]. */
function MiniMaps({ picture, maps, index, label, onChoose }) {
  const pictures = useMemo(
    () => maps.map(({ map }, i) => html`<${PictureMap}
      key=${i} picture=${picture} map=${map} view=${MINI_VIEW} alt="" mini />`),
    [picture, maps],
  );
  return html`<div class="strip" role="group" aria-label=${label}>
    ${maps.map(({ word }, i) => html`<button
      key=${i} type="button" class=${classes("strip-item", i === index && "chosen")}
      data-test="mini"
      data-index=${i} aria-current=${i === index ? "true" : null} onClick=${() => onChoose(i)}>
      ${pictures[i]}<span dir="auto">${shownWord(word)}</span></button>`)}
  </div>`;
}

function RunStrip({ run, session, picture, reading, index, kind, largest, onChoose }) {
  const maps = useMemo(
    () => reading.steps.map((step) => {
      const values = mapValues(step, kind);
      const most = largest ?? largestOf(values);
      return { word: step.word, map: { values, grid: reading.grid, largest: most, ramp: "attention" } };
    }),
    [reading, kind, largest],
  );
  return html`<div class="strip-row"><h3><span class="dot"
    style=${{ background: runColour(session, run) }}></span>${run}</h3>
    <${MiniMaps}
      picture=${picture}
      maps=${maps}
      index=${index} label=${`Maps of ${run}, word by word`} onChoose=${onChoose} /></div>`;
}

export function Overview({ session, picture, shown, state, density, act }) {
  if (shown.length === 0) return null;
  return html`<section class="card overview" aria-label="All words at once" data-test="overview">
    <h2>All words at once</h2>
    ${shown.map(({ run, reading, index }) => html`<${RunStrip}
      key=${run.name} run=${run.name} session=${session}
      picture=${picture}
      reading=${reading} index=${index} kind=${state.map} largest=${largestFor(reading, density)}
      onChoose=${(at) => act.choose(run.name, at)} />`)}
  </section>`;
}

/** Maps that can be subtracted: [[key, text]], a run's prior and, where it has one, posterior. */
function differenceSides(shown) {
  return shown.flatMap(({ run, reading }) => [
    [`prior:${run.name}`, reading.steps[0]?.posterior ? `${run.name}, before the word` : run.name],
    ...(reading.steps[0]?.posterior ? [[`posterior:${run.name}`, `${run.name}, given the word`]] : []),
  ]);
}

function sideOf(key, shown) {
  const [, kind, name] = /^(prior|posterior):(.*)$/.exec(key);
  return { kind, ...shown.find(({ run }) => run.name === name) };
}

/** A minus B for each word of A. Grids may differ: B is spread over A's cells. */
function differenceMaps(a, b, scale) {
  const maps = a.reading.steps.map((step, at) => {
    const other = b.reading.steps[linkedStep(b.reading, a.reading, at)];
    const minus = regrid(mapValues(other, b.kind), b.reading.grid, a.reading.grid);
    const values = mapValues(step, a.kind).map((value, i) => value - minus[i]);
    const map = { values, grid: a.reading.grid, largest: largestOf(values), ramp: "difference" };
    return { word: step.word, other: other.word, map };
  });
  if (scale !== "common") return maps;
  const largest = largestOf(maps.map(({ map }) => map.largest));
  return maps.map((one) => ({ ...one, map: { ...one.map, largest } }));
}

function differenceText({ word, other }) {
  const words = word === other ? `“${shownWord(word)}”` : `“${shownWord(word)}” and “${shownWord(other)}”`;
  return `A minus B at ${words}: orange where A reads more`;
}

export function Difference({ picture, shown, state, act }) {
  const sides = differenceSides(shown);
  const known = (key, otherwise) => (sides.some(([side]) => side === key) ? key : otherwise);
  const keyA = known(state.a, sides[0]?.[0]);
  // Another run's map if there is one, else the same run's other map.
  const others = sides.map(([key]) => key).filter((key) => key !== keyA);
  const keyB = known(state.b, others.find((key) => key.startsWith("prior")) ?? others[0]);
  const a = keyA && sideOf(keyA, shown);
  const b = keyB && sideOf(keyB, shown);
  const maps = useMemo(
    () => (a && b ? differenceMaps(a, b, state.scale) : []),
    [a?.reading, b?.reading, keyA, keyB, state.scale],
  );
  if (maps.length === 0) return null;
  const chosen = maps[Math.min(a.index, maps.length - 1)];
  return html`<section class="card difference" aria-label="Difference of two maps"
    data-test="difference">
    <header><h2>Difference of two maps</h2>
      <${Choice} label="A"
        options=${sides}
        value=${keyA} test="difference-a" onChange=${(side) => changeAddress({ a: side })} />
      <${Choice} label="minus B"
        options=${sides}
        value=${keyB} test="difference-b" onChange=${(side) => changeAddress({ b: side })} />
    </header>
    <div class="difference-body">
      <div><${PictureMap}
        picture=${picture}
        map=${chosen.map}
        view=${{ ...state, opacity: Math.max(state.opacity, 0.6) }}
        alt=${`${picture.name}, difference of two maps`} />
        <${MapLegend} map=${chosen.map} text=${differenceText(chosen)} /></div>
      <${MiniMaps}
        picture=${picture} maps=${maps} index=${a.index} label="Differences, word by word"
        onChoose=${(at) => act.choose(a.run.name, at)} />
    </div>
  </section>`;
}
