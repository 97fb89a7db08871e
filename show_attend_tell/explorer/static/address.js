// The state of the page is its address, so that it can be shared and Back works.
//
// Choices are written into the address without a new entry in the history, and not at once:
// browsers stop a page that writes it too often, as a slider or the film would.

const ADDRESS_PAUSE = 250;

let addressNow = parseAddress(location.hash);
let addressTimer = null;
const addressListeners = new Set();

export function parseAddress(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { tab: path, values: Object.fromEntries(new URLSearchParams(query)) };
}

/** Percent signs only where they are needed: addresses are also read by people. */
function addressPart(text) {
  const readable = { "%2C": ",", "%3A": ":", "%40": "@", "%2F": "/", "%20": "+", "%3B": ";" };
  return encodeURIComponent(text).replace(/%2C|%3A|%40|%2F|%20|%3B/g, (code) => readable[code]);
}

export function formatAddress({ tab, values }) {
  const parts = Object.entries(values)
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([key, value]) => `${addressPart(key)}=${addressPart(String(value))}`);
  return `#/${tab}${parts.length ? "?" : ""}${parts.join("&")}`;
}

function writeAddress(push) {
  clearTimeout(addressTimer);
  addressTimer = null;
  const hash = formatAddress(addressNow);
  if (hash === location.hash) return;
  try {
    history[push ? "pushState" : "replaceState"](null, "", hash);
  } catch {
    // Inside another page, as in a notebook, there is no address to write: the state stays here.
  }
}

function tellAddress() {
  for (const listener of addressListeners) listener(addressNow);
}

/** Change some values; null removes one. `push` makes an entry that Back returns from. */
export function changeAddress(patch, { push = false } = {}) {
  if (push && addressTimer !== null) writeAddress(false);
  const values = { ...addressNow.values, ...patch };
  for (const key of Object.keys(values)) if (values[key] === null) delete values[key];
  addressNow = { tab: addressNow.tab, values };
  if (push) writeAddress(true);
  else {
    clearTimeout(addressTimer);
    addressTimer = setTimeout(() => writeAddress(false), ADDRESS_PAUSE);
  }
  tellAddress();
}

/** Name the tab that an address without one opened, so that it can be shared as it stands. */
export function nameTab(tab) {
  if (addressNow.tab === tab) return;
  addressNow = { ...addressNow, tab };
  writeAddress(false);
  tellAddress();
}

/** Go to another place of the page: "#/look?picture=…". */
export function go(hash) {
  if (addressTimer !== null) writeAddress(false);
  addressNow = parseAddress(hash);
  writeAddress(true);
  tellAddress();
}

/** A link inside of the page, followed without loading anything. */
export function followLink(event) {
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(event.currentTarget.getAttribute("href"));
}

function readAddress() {
  clearTimeout(addressTimer);
  addressTimer = null;
  addressNow = parseAddress(location.hash);
  tellAddress();
}

/** Tell `listener` of every change; returns the function that ends it. */
export function followAddress(listener) {
  if (addressListeners.size === 0) addEventListener("hashchange", readAddress);
  addressListeners.add(listener);
  listener(addressNow);
  return () => {
    addressListeners.delete(listener);
    if (addressListeners.size === 0) removeEventListener("hashchange", readAddress);
  };
}

export function currentAddress() {
  return addressNow;
}
