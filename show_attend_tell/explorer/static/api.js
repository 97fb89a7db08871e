// Questions to the server, or, in an exported file, to the data that lies in it.

const exportedElement = document.getElementById("data");
const exportedData = exportedElement ? JSON.parse(exportedElement.textContent) : null;

export const offline = exportedData !== null;
/** Whether it can be told what a step would say if it read another place. */
export const gazesKnown = !offline || Object.keys(exportedData.gazes).length > 0;
export const LARGEST_UPLOAD = 32_000_000; // bytes; the server refuses more

/** Ask the server; every failure becomes an Error with one line to show. */
async function askServer(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && body !== null) return body;
  throw new Error(body?.error ?? `The server answered with status ${response.status}.`);
}

function postQuestion(path, question, signal) {
  const headers = { "Content-Type": "application/json" };
  return askServer(path, { method: "POST", headers, body: JSON.stringify(question), signal });
}

export async function getSession() {
  if (!offline) return askServer("/api/session");
  const { session, pictures } = exportedData;
  return { ...session, offline: true, live: false, examples: Object.values(pictures).map((p) => p.facts) };
}

export async function getPicture(id, signal) {
  if (!offline) return askServer(`/api/pictures/${encodeURIComponent(id)}`, { signal });
  const picture = exportedData.pictures[id];
  if (!picture) throw new Error(`This file holds no picture ${id}.`);
  return picture.facts;
}

export function imageAddress(id) {
  if (!offline) return `/api/pictures/${encodeURIComponent(id)}/image`;
  return exportedData.pictures[id]?.image ?? "data:,";
}

export function thumbnailAddress(id) {
  if (!offline) return `/api/pictures/${encodeURIComponent(id)}/thumbnail`;
  return exportedData.pictures[id]?.thumbnail ?? imageAddress(id);
}

/** Send a picture's bytes as they are: rotation and transparency are the server's business. */
export async function sendPicture(file) {
  if (file.size > LARGEST_UPLOAD) {
    throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB; the limit is 32 MB.`);
  }
  const path = `/api/pictures?name=${encodeURIComponent(file.name || "pasted.png")}`;
  return askServer(path, { method: "POST", body: file });
}

export async function askCaption(question, signal) {
  if (!offline) return postQuestion("/api/caption", question, signal);
  const reading = exportedData.readings[question.picture ?? question.text]?.[question.run];
  if (!reading) throw new Error(`This file has no output of ${question.run} for this input.`);
  return reading;
}

export async function askGaze(question, signal) {
  if (!offline) return postQuestion("/api/gaze", question, signal);
  const at = question.steps.length;
  const cells = exportedData.gazes?.[question.picture]?.[question.run]?.[at];
  const reading = exportedData.readings[question.picture]?.[question.run];
  if (!cells || !reading) throw new Error("This file does not have the words of each place.");
  const { top, word: said, log_p } = reading.steps[at];
  const word = question.word ?? top[0].word;
  const chance = (chances) => chances.find((one) => one.word === word)?.p ?? 0;
  // Only the five likeliest words of a place are known here: less than the fifth counts as none.
  const own = word === said ? Math.exp(log_p) : chance(top);
  return { run: question.run, word, map: cells.map(chance), own, cells, grid: reading.grid };
}

export async function askWords(run, begins, signal) {
  if (offline) return [];
  const asked = new URLSearchParams({ run, begins });
  return askServer(`/api/words?${asked}`, { signal });
}

export async function getTable(signal) {
  return offline ? exportedData.table : askServer("/api/table", { signal });
}
