// The shell: what the session offers as tabs, and the line that says what went wrong.

import { html, render, useEffect, useRef, useState, ErrorLine } from "./base.js";
import { getSession } from "./api.js";
import { followLink, formatAddress, go, nameTab } from "./address.js";
import { useAddress } from "./asking.js";
import { Look } from "./look.js";
import { Sentences } from "./sentences.js";
import { Browse } from "./browse.js";
import { Training } from "./live.js";

/** The tabs that this session has something to show in, in order. */
function tabsOf(session) {
  const has = (kind) => session.runs.some((run) => run.kind === kind);
  const hasTexts = !session.offline || session.sentences.length > 0;
  return [
    has("images") && { tab: "look", text: "Pictures", view: Look },
    has("sentences") && hasTexts && { tab: "sentences", text: "Sentences", view: Sentences },
    session.split && { tab: "browse", text: "Browse", view: Browse },
    session.live && !session.offline && { tab: "training", text: "Training", view: Training },
  ].filter(Boolean);
}

function Header({ tabs, current, session, address }) {
  // A tab keeps its state while another is open: its link leads to where it was left.
  const left = useRef({});
  if (current) left.current[current.tab] = formatAddress({ tab: current.tab, values: address.values });
  return html`<header class="top">
    <a class="brand" href="#/"
      onClick=${followLink}><span class="brand-mark"
      aria-hidden="true"></span>Show, attend and tell</a>
    <nav aria-label="Views">
      ${tabs.map(
        ({ tab, text }) => html`<a
          key=${tab} href=${left.current[tab] ?? `#/${tab}`} data-test="tab"
          data-tab=${tab}
          onClick=${followLink} aria-current=${tab === current?.tab ? "page" : null}>${text}</a>`,
      )}
    </nav>
    ${session && !session.offline && html`<a class="interface" href="/api/openapi.json"
      title="The JSON interface of this page, for scripts">API</a>`}
  </header>`;
}

function EmptySession() {
  return html`<section class="note"><h1>Nothing to show</h1>
    <p>This explorer was started without models or training runs.</p></section>`;
}

function App() {
  const address = useAddress();
  const [session, setSession] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    getSession().then(setSession, (failure) => setError(failure.message));
    // Nothing that goes wrong may pass unseen: the line shows what no part of the page expected.
    const tell = (event) => setError(String(event.reason?.message ?? event.message));
    addEventListener("unhandledrejection", tell);
    addEventListener("error", tell);
  }, []);
  const tabs = session ? tabsOf(session) : [];
  const current = tabs.find(({ tab }) => tab === address.tab) ?? tabs[0];
  useEffect(() => {
    if (!current) return;
    document.title = `${current.text} · Show, attend and tell`;
    nameTab(current.tab);
  }, [current?.tab, address.tab]);
  return html`<a class="skip" href="#content" onClick=${skipToContent}>Skip to the content</a>
    <${Header} tabs=${tabs} current=${current} session=${session} address=${address} />
    <main id="content" tabindex="-1">
      <${ErrorLine} text=${error} onClose=${() => setError(null)} test="error" />
      ${!session && !error && html`<p class="waiting" role="status">Loading …</p>`}
      ${session && !current && html`<${EmptySession} />`}
      ${current && html`<${current.view} key=${current.tab} session=${session} go=${go} />`}
    </main>`;
}

/** The address holds the state, so the link must not change it. */
function skipToContent(event) {
  event.preventDefault();
  document.getElementById("content").focus();
}

const appRoot = document.getElementById("app");
appRoot.textContent = "";
render(html`<${App} />`, appRoot);
