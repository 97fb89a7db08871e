// Answers that follow their questions: the newest question wins, and the old answer stays on
// screen until the new one is there.

import { useEffect, useReducer, useRef, useState } from "./base.js";
import { currentAddress, followAddress } from "./address.js";

const ANSWERS_KEPT = 300;
const answersKept = new Map();

function keepAnswer(key, answer) {
  answersKept.delete(key);
  answersKept.set(key, answer);
  if (answersKept.size > ANSWERS_KEPT) answersKept.delete(answersKept.keys().next().value);
}

/** One running question: it ends the one before it. */
function startQuestion(slot, ask, question, key, delay, redraw) {
  stopQuestion(slot);
  slot.asked = key;
  slot.controller = new AbortController();
  const { signal } = slot.controller;
  slot.timer = setTimeout(async () => {
    try {
      const answer = await ask(question, signal);
      keepAnswer(key, answer);
      if (!signal.aborted) settleQuestion(slot, { key, question, answer, error: null });
    } catch (error) {
      if (signal.aborted) return;
      settleQuestion(slot, { ...slot.settled, key, error: error.message });
    }
    redraw();
  }, delay);
}

function stopQuestion(slot) {
  clearTimeout(slot.timer);
  slot.controller?.abort();
  slot.asked = null;
}

function settleQuestion(slot, settled) {
  slot.settled = settled;
  slot.asked = settled.key;
}

/**
 * Answers to several questions, {key: question or null}: {key: {answer, of, error, loading, retry}}.
 * `of` is the question that `answer` answers; it may be older than the one asked now.
 */
export function useAnswers(ask, questions, delay = 0) {
  const slots = useRef({});
  const [, redraw] = useReducer((count) => count + 1, 0);
  const views = {};
  for (const [key, question] of Object.entries(questions)) {
    const slot = (slots.current[key] ??= {});
    const name = question && `${ask.name} ${JSON.stringify(question)}`;
    if (name && slot.settled?.key !== name && answersKept.has(name)) {
      stopQuestion(slot);
      settleQuestion(slot, { key: name, question, answer: answersKept.get(name), error: null });
    }
    const fresh = slot.settled?.key === name;
    const { answer = null, question: of = null, error = null } = slot.settled ?? {};
    const retry = () => {
      slot.settled = { ...slot.settled, key: null };
      slot.asked = null;
      redraw();
    };
    const loading = Boolean(name) && !fresh;
    views[key] = { answer, of, error: fresh ? error : null, loading, name, retry };
  }
  useEffect(() => {
    for (const [key, slot] of Object.entries(slots.current)) {
      if (key in questions) continue;
      stopQuestion(slot);
      delete slots.current[key];
    }
    for (const [key, question] of Object.entries(questions)) {
      const slot = slots.current[key];
      const { name, loading } = views[key];
      if (loading && slot.asked !== name) startQuestion(slot, ask, question, name, delay, redraw);
    }
  });
  useEffect(() => () => Object.values(slots.current).forEach(stopQuestion), []);
  return views;
}

export function useAnswer(ask, question, delay = 0) {
  return useAnswers(ask, { one: question }, delay).one;
}

export function useAddress() {
  const [address, setAddress] = useState(currentAddress());
  useEffect(() => followAddress(setAddress), []);
  return address;
}
