// What every module of the page shares: the libraries, how numbers are written, small controls.

export const { h, render, Fragment, contours, uPlot } = vendor;
export const { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useReducer } = vendor;

export const END_WORD = "<eos>";

// Control characters but for line ends and tabs, marks that turn the direction of text around, and
// halves of characters.
const UNSEEN =
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu;

/** Text from data in which everything is visible; other values as they are. */
export function printable(value) {
  if (typeof value !== "string" || value.startsWith("data:")) return value;
  return value.replace(UNSEEN, (sign) => {
    const code = sign.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** Elements from a template; what stands in it as text is made printable. */
export function html(strings, ...values) {
  return vendor.html(strings, ...values.map(printable));
}

/** A word as people write it; pieces of words mark with "▁" where a word begins. */
export function shownWord(word) {
  return word === END_WORD ? "end" : word.replace(/^▁(?=.)/u, "");
}

export function classes(...names) {
  return names.filter(Boolean).join(" ");
}

/** A probability for people: 41 %, 4.1 %, 0.04 %. The space does not break. */
export function percent(p) {
  const share = 100 * p;
  if (share > 0 && share < 0.005) return "< 0.01 %";
  return `${share.toFixed(share < 0.1 && share > 0 ? 2 : share < 10 ? 1 : 0)} %`;
}

/** A number on screen. It is rounded for people; `value` keeps all digits for whoever checks. */
export function Num({ value, text, test }) {
  return html`<data class="num" value=${String(value)} data-test=${test}>${text}</data>`;
}

/** One choice out of a few, always visible: radio buttons that look like one control. */
export function Segmented({ legend, name, options, value, onChange, test, quiet }) {
  return html`<fieldset class="segmented" data-test=${test}>
    <legend class=${quiet ? "unseen" : ""}>${legend}</legend>
    <div class="segments">
      ${options.map(
        ([option, text, title]) => html`<label key=${option} title=${title}>
          <input type="radio" name=${name} value=${option} checked=${option === value}
            onChange=${() => onChange(option)} /><span>${text}</span></label>`,
      )}
    </div>
  </fieldset>`;
}

/** One choice out of many. */
export function Choice({ label, options, value, onChange, test }) {
  return html`<label class="choice"><span>${label}</span>
    <select value=${value} data-test=${test} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(
        ([option, text]) => html`<option key=${option} value=${option}
          selected=${option === value}>${text}</option>`,
      )}
    </select></label>`;
}

/** A line that says what went wrong; it is announced, and it never takes the page away. */
export function ErrorLine({ text, onClose, test }) {
  if (!text) return null;
  return html`<div class="error" role="alert" data-test=${test}>
    <span>${text}</span>
    ${onClose && html`<button class="plain" aria-label="Dismiss" onClick=${onClose}>×</button>`}
  </div>`;
}

export function calmWanted() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Whether a key press is meant for a field, not for the page. */
export function typing(event) {
  return Boolean(event.target.closest?.("input, textarea, select, [contenteditable]"));
}

/** The last value that stood still for `delay` milliseconds. */
export function useDebounced(value, delay) {
  const [still, setStill] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setStill(value), delay);
    return () => clearTimeout(timer);
  }, [value, delay]);
  return still;
}
