// The latest figures of every run: the table that goes with the curves, and their legend.

import { html, Num } from "./base.js";
import { agoText, figureText, lastFigure } from "./livestream.js";

const LIVE_STATES = { running: "●", finished: "✓", stopped: "■" };

function LiveFigure({ figure, test }) {
  if (!figure) return html`<td class="live-number"><span aria-label="none">–</span></td>`;
  return html`<td class="live-number"><${Num} value=${figure.value} text=${figureText(figure.value)} test=${test} /></td>`;
}

function LiveProgress({ run }) {
  const step = run.step.toLocaleString("en");
  const total = run.total_steps?.toLocaleString("en");
  const share = run.total_steps ? Math.min(1, run.step / run.total_steps) : 0;
  return html`<td class="live-number live-progress">
    <${Num} value=${run.step} text=${step} test="live-step" />${total && html`<span class="hint"> / ${total}</span>`}
    <span class="live-bar" aria-hidden="true"><span style=${{ width: `${100 * share}%` }}></span></span>
  </td>`;
}

function LiveSwatch({ style }) {
  const dashes = style.dash.map((length) => length * 0.8).join(" ");
  return html`<svg class="live-swatch" viewBox="0 0 26 6" width="26" height="6" aria-hidden="true">
    <line x1="0" y1="3" x2="26" y2="3" stroke=${`var(${style.colour})`} stroke-width="3" stroke-dasharray=${dashes} /></svg>`;
}

function LiveRow({ live, entry, metric, style, shown, onToggle, onFocus }) {
  const { run, train, validation } = entry;
  const age = run.written === null ? null : Math.max(0, live.now - run.written + live.elapsed);
  return html`<tr data-test="live-run" data-run=${run.name} data-state=${run.state}
    class=${shown ? "" : "live-off"}
    onMouseEnter=${() => onFocus(run.name)} onMouseLeave=${() => onFocus(null)}>
    <th scope="row"><label>
      <input type="checkbox" checked=${shown} data-test="live-toggle"
        onFocus=${() => onFocus(run.name)} onBlur=${() => onFocus(null)}
        onChange=${() => onToggle(run.name)} />
      <${LiveSwatch} style=${style} />
      <span class="live-name">${run.name}</span></label>
      ${run.message && html`<span class="live-damage" role="note">${run.message}</span>`}</th>
    <td class=${`live-state live-is-${run.state}`}>
      <span aria-hidden="true">${LIVE_STATES[run.state]}</span> ${run.state}
      ${age !== null && run.state !== "finished" && html`<span class="hint live-age">${agoText(age)}</span>`}</td>
    <${LiveProgress} run=${run} />
    <${LiveFigure} figure=${lastFigure(train, "loss")} test="live-loss" />
    <${LiveFigure} figure=${lastFigure(validation, metric)} test="live-score" />
    <${LiveFigure} figure=${bestFigure(validation, metric)} test="live-best" />
    <${LiveFigure} figure=${lastFigure(train, "gradient_norm")} test="live-gradient" />
    <${LiveFigure} figure=${lastFigure(train, "tokens_per_second")} test="live-speed" />
  </tr>`;
}

function bestFigure({ step, values }, metric) {
  let best = null;
  (values[metric] ?? []).forEach((value, i) => {
    if (value !== null && (!best || value > best.value)) best = { value, step: step[i] };
  });
  return best;
}

/** The table; `rows` are [name, entry] of the runs to list, `styleOf` their colours. */
export function LiveTable({ live, rows, metric, shown, styleOf, onToggle, onFocus }) {
  return html`<div class="live-table card" role="region" aria-label="Latest figures" tabindex="0">
    <table data-test="live-table">
      <caption class="unseen">Runs, their progress and latest figures</caption>
      <thead><tr><th scope="col">Run</th><th scope="col">State</th>
        ${["Step", "Loss", metric, "Best", "Gradient", "Tokens/s"].map(
          (text) => html`<th scope="col" class="live-number" key=${text}>${text}</th>`,
        )}</tr></thead>
      <tbody>${rows.map(
        ([name, entry]) => html`<${LiveRow} key=${name} live=${live} entry=${entry} metric=${metric}
          style=${styleOf(name)} shown=${shown.has(name)} onToggle=${onToggle} onFocus=${onFocus} />`,
      )}</tbody>
    </table>
    ${rows.length === 0 && html`<p class="hint">No run matches.</p>`}
  </div>`;
}
