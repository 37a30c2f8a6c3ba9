/**
 * <longhaul-upload>: the upload page as an element for any page, with one script tag:
 *
 *     <script type="module" src="https://uploads.example.com/upload-page/longhaul-upload.js"
 *             data-token-url="/upload-token"></script>
 *
 * Where the page has no such element, one is put behind the script tag and gets its `data-`
 * attributes. Attributes: `token`; `token-url`, which answers what POST /upload/session did;
 * `theme` (light, dark); `lang`. Properties: `token`; `getToken`, an async function that returns
 * a token, called with why one is needed; `strings` (strings.js). Taken out of the page, it
 * pauses. Events, all bubbling:
 * `longhaul-ready`, `longhaul-progress`, `longhaul-done`, `longhaul-failed`.
 */

import {element} from "./dom.js";
import {Phrases} from "./phrases.js";
import {Server} from "./server.js";
import {Widget} from "./widget.js";

const STYLE = new URL("widget.css", import.meta.url).href;

export class LonghaulUpload extends HTMLElement {
  static observedAttributes = ["token"];

  #server = new Server();
  #widget = null;
  #getToken = null;
  #strings = {};

  connectedCallback() {
    if (this.#widget) return; // moved within the page
    for (const name of ["token", "getToken", "strings"]) this.#upgrade(name);
    const language = this.closest("[lang]")?.lang || navigator.language;
    this.#widget = new Widget(this, this.#server, new Phrases(language, this.#strings));
    const root = this.attachShadow({mode: "open"});
    const content = this.#widget.element;
    content.hidden = true; // until it has its style
    const style = element("link", {rel: "stylesheet", href: STYLE});
    style.onload = style.onerror = () => (content.hidden = false);
    root.append(style, content);
  }

  disconnectedCallback() {
    // A move within the page ends with the element in the page again.
    queueMicrotask(() => this.isConnected || this.#widget.suspend());
  }

  attributeChangedCallback(_name, _before, token) {
    if (token) this.token = token;
  }

  /** The session token; may be set at any time, also while uploads are on their way. */
  get token() {
    return this.#server.token;
  }

  set token(token) {
    if (this.#widget) this.#widget.permission.give(token);
    else this.#server.token = token;
  }

  /** An async function that returns a session token, or nothing. */
  get getToken() {
    return this.#getToken;
  }

  set getToken(ask) {
    this.#getToken = ask;
  }

  /** Other words than English ones; they count from the moment the element is in the page. */
  get strings() {
    return this.#strings;
  }

  set strings(strings) {
    this.#strings = strings;
  }

  /** Where the application answers with a new token. */
  get tokenUrl() {
    return this.getAttribute("token-url");
  }

  /** Whether a person may paste a token. */
  get asksForToken() {
    return this.hasAttribute("ask-token");
  }

  /** Take up the files of a drop that happened elsewhere on the page. */
  drop(dataTransfer) {
    this.#widget?.drop(dataTransfer);
  }

  /** A property that was set before this file was loaded hides the class's own. */
  #upgrade(name) {
    if (!Object.hasOwn(this, name)) return;
    const value = this[name];
    delete this[name];
    this[name] = value;
  }
}

customElements.define("longhaul-upload", LonghaulUpload);

for (const script of document.querySelectorAll("script[type=module][src]")) {
  if (script.src !== import.meta.url || document.querySelector("longhaul-upload")) continue;
  const made = document.createElement("longhaul-upload");
  for (const [name, value] of Object.entries(script.dataset)) {
    made.setAttribute(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), value);
  }
  if (document.head.contains(script)) document.body.append(made);
  else script.after(made);
}
