// Pictures to look at: the session's examples, and any other by dropping, pasting or choosing.

import { html, classes, useEffect, useRef, useState, ErrorLine } from "./base.js";
import { currentAddress } from "./address.js";
import { offline, sendPicture, thumbnailAddress } from "./api.js";

// Uploads live as long as the page, also while another tab is open.
const uploadsSent = [];

export function uploadedPictures() {
  return uploadsSent;
}

function filesOf(transfer) {
  return [...(transfer?.files ?? [])];
}

/** Send files one after another; the last good one is shown. */
export function useUpload(onPicture) {
  const [sending, setSending] = useState(null);
  const [error, setError] = useState(null);
  const send = async (files) => {
    if (files.length === 0) return;
    setError(null);
    const { tab } = currentAddress();
    for (const file of files) {
      setSending(file.name);
      try {
        const facts = await sendPicture(file);
        if (!uploadsSent.some(({ id }) => id === facts.id)) uploadsSent.push(facts);
        // Whoever has gone to another tab stays there; the picture waits on the shelf.
        if (currentAddress().tab === tab) onPicture(facts);
      } catch (failure) {
        setError(failure.message);
      }
    }
    setSending(null);
  };
  return { sending, error, send, setError };
}

/** Dropping and pasting work anywhere on the page; true while a file hovers over it. */
export function useDropAndPaste(send, onNothing) {
  const [over, setOver] = useState(false);
  const latest = useRef(null);
  latest.current = { send, onNothing };
  useEffect(() => {
    if (offline) return undefined;
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    const onDragOver = (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const onDragLeave = (event) => event.relatedTarget === null && setOver(false);
    const onDrop = (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      setOver(false);
      latest.current.send(filesOf(event.dataTransfer));
    };
    const onPaste = (event) => {
      const files = filesOf(event.clipboardData);
      if (files.length) latest.current.send(files);
      else if (!event.target.closest?.("input, textarea")) latest.current.onNothing();
    };
    const listeners = { dragover: onDragOver, dragleave: onDragLeave, drop: onDrop, paste: onPaste };
    for (const [name, listener] of Object.entries(listeners)) addEventListener(name, listener);
    return () => Object.entries(listeners).forEach(([name, listener]) => removeEventListener(name, listener));
  }, []);
  return over;
}

function ShelfItem({ picture, chosen, onChoose }) {
  return html`<button type="button" class="shelf-item" data-test="example"
    data-picture=${picture.id}
    aria-current=${chosen ? "true" : null}
    aria-label=${`Picture ${picture.name}`} title=${picture.name}
    onClick=${() => onChoose(picture)}>
    <img src=${thumbnailAddress(picture.id)} alt=""
      width=${picture.width} height=${picture.height} draggable=${false} />
  </button>`;
}

function Upload({ sending, send }) {
  const field = useRef(null);
  const onChange = (event) => {
    send([...event.target.files]);
    event.target.value = "";
  };
  return html`<label class=${classes("upload", sending && "busy")}>
    <input type="file" class="unseen"
      ref=${field} accept="image/*" multiple data-test="upload" onChange=${onChange} />
    <span><b>${sending ? "Reading …" : "Your picture"}</b><small>choose, drop or paste</small></span>
  </label>`;
}

export function Shelf({ session, picture, current, onPicture }) {
  const { sending, error, send, setError } = useUpload(onPicture);
  const over = useDropAndPaste(send, () => setError("There is no picture in the clipboard."));
  const listed = [...session.examples, ...uploadsSent];
  // A picture of the split is not on the shelf, but it must be seen which one is open.
  const all = current && !listed.some(({ id }) => id === current.id) ? [current, ...listed] : listed;
  return html`<section class="shelf-row" aria-label="Pictures">
    ${!offline && html`<${Upload} sending=${sending} send=${send} />`}
    <div class="shelf" role="group" aria-label="Pictures to look at">
      ${all.map((one) => html`<${ShelfItem}
        key=${one.id} picture=${one} chosen=${one.id === picture} onChoose=${onPicture} />`)}
    </div>
    <${ErrorLine} text=${error} onClose=${() => setError(null)} test="upload-error" />
    ${over && html`<div class="drop-here"
      aria-hidden="true"><span>Drop the picture to caption it</span></div>`}
  </section>`;
}
