// Attention over a sentence: a matrix of source against target words, and links between them.

import { html, classes, percent, shownWord, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./base.js";
import { placeFrom } from "./gazecells.js";
import { largestOf, mapValues } from "./lookstate.js";

/** Source tokens across, target words down. A click makes that step read that token. */
export function AlignmentMatrix({ reading, kind, largest, index, label, onChoose, onForce, onHover }) {
  const table = useRef(null);
  const [cursor, setCursor] = useState(null);
  const across = reading.source.length;
  const down = reading.steps.length;
  const at = cursor !== null && cursor < across * down ? cursor : index * across;
  const onKeyDown = (event) => {
    const next = placeFrom(event.key, at, down, across);
    if (next === null || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    setCursor(next);
    table.current.querySelector(`[data-cell="${next}"]`).focus();
  };
  return html`<div class="matrix-scroll"><table class="matrix"
    ref=${table} onKeyDown=${onKeyDown} onPointerLeave=${() => onHover(null)}>
    <caption class="unseen">${label}</caption>
    <thead><tr><td></td>${reading.source.map((token, j) => html`<th
      key=${j} scope="col"><span>${shownWord(token)}</span></th>`)}</tr></thead>
    <tbody>${reading.steps.map((step, i) => html`<${MatrixRow}
      key=${i}
      ...${{ reading, step, i, kind, largest, at, across, setCursor, onChoose, onForce, onHover }}
      chosen=${i === index} />`)}</tbody>
  </table></div>`;
}

function MatrixRow({ reading, step, i, chosen, kind, largest, at, across, setCursor, ...act }) {
  const { onChoose, onForce, onHover } = act;
  const values = mapValues(step, kind);
  const scale = largest ?? largestOf(values);
  const name = shownWord(step.word);
  return html`<tr
    class=${chosen ? "chosen" : ""}
    onPointerEnter=${(event) => event.pointerType === "mouse" && onHover(i)}>
    <th scope="row"><button type="button" class="plain" tabindex="-1"
      onClick=${() => onChoose(i)}>${name}</button></th>
    ${reading.source.map((token, j) => {
      const share = scale > 0 ? values[j] / scale : 0;
      const cell = i * across + j;
      const marks = [step.gaze === j && "forced", reading.hard && step.location === j && "read"];
      return html`<td key=${j}><button type="button" class=${classes("matrix-cell", ...marks)}
        data-test="align-cell"
        data-cell=${cell}
        data-step=${i} data-token=${j} data-value=${values[j]} tabindex=${cell === at ? 0 : -1}
        aria-label=${`“${name}” reads “${token}”: ${percent(values[j])}${step.gaze === j ? ", forced" : ""}`}
        style=${{ "--share": Math.min(1, share) }}
        onFocus=${() => setCursor(cell)} onClick=${onForce && (() => onForce(i, j))}
        >${values[j] >= 0.1 ? Math.round(100 * values[j]) : ""}</button></td>`;
    })}
  </tr>`;
}

/** Middles of the words of both rows, measured, because their widths are the browser's. */
function useWordMiddles(reading) {
  const frame = useRef(null);
  const [middles, setMiddles] = useState(null);
  const measure = () => {
    const box = frame.current?.getBoundingClientRect();
    if (!box) return;
    const middle = (element) => {
      const { left, width } = element.getBoundingClientRect();
      return left + width / 2 - box.left;
    };
    const of = (name) => [...frame.current.querySelectorAll(`.${name} [data-word]`)].map(middle);
    setMiddles({ width: box.width, source: of("links-source"), target: of("links-target") });
  };
  useLayoutEffect(measure, [reading]);
  useEffect(() => {
    const observer = new ResizeObserver(() => requestAnimationFrame(measure));
    observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);
  return [frame, middles];
}

const LINK_HEIGHT = 96;
const FAINTEST_LINK = 0.06;

function linkPath(from, to) {
  const half = LINK_HEIGHT / 2;
  return `M${from} 2C${from} ${half} ${to} ${half} ${to} ${LINK_HEIGHT - 2}`;
}

function linkStyle(share, chosen) {
  return { strokeWidth: 0.6 + 5 * share, strokeOpacity: chosen ? 0.35 + 0.65 * share : 0.5 * share };
}

/** Source above, target below; a line is as wide and as dark as its share of attention. */
export function AlignmentLinks({ reading, kind, index, label, onChoose, onHover }) {
  const [frame, middles] = useWordMiddles(reading);
  const links = useMemo(
    () => reading.steps.flatMap((step, i) => mapValues(step, kind)
      .map((share, j) => ({ i, j, share })).filter(({ share }) => share > FAINTEST_LINK)),
    [reading, kind],
  );
  const here = mapValues(reading.steps[index], kind);
  const fits = middles?.source.length === reading.source.length
    && middles.target.length === reading.steps.length;
  return html`<div class="links-scroll"><div class="links"
    ref=${frame} role="group" aria-label=${label} onPointerLeave=${() => onHover(null)}>
    <div class="links-source">${reading.source.map((token, j) => html`<span
      key=${j} data-word=${token}
      style=${{ "--share": here[j] }}>${shownWord(token)}</span>`)}</div>
    <svg width=${middles?.width ?? 0} height=${LINK_HEIGHT} aria-hidden="true">
      ${fits && links.map(({ i, j, share }) => html`<path
        key=${`${i}-${j}`} class=${i === index ? "link chosen" : "link"}
        d=${linkPath(middles.source[j], middles.target[i])}
        style=${linkStyle(share, i === index)} />`)}
    </svg>
    <div class="links-target">${reading.steps.map((step, i) => html`<button
      key=${i} type="button" data-word=${step.word} data-index=${i} data-test="link-word"
      class=${i === index ? "chosen" : ""}
      aria-current=${i === index ? "true" : null} onClick=${() => onChoose(i)}
      onPointerEnter=${(event) => event.pointerType === "mouse" && onHover(i)}>${shownWord(step.word)}</button>`)}</div>
  </div></div>`;
}
