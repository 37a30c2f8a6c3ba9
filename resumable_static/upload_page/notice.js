/** What holds all files up, above the list: in words that say what to do, with the means to. */

import {element, showText} from "./dom.js";

/** Kind → words. The first kind of this order that is true is shown. */
const WORDS = {
  library: "noLibrary",
  refused: "", // the words come with it
  offline: "offline",
  unreachable: "unreachable",
  storage_full: "storageFull",
  busy: "busy",
  tokenForm: "",
  tokenAsking: "tokenRenewing",
  tokenEnded: "",
};

/** Code of the server's refusal → words. */
const WHY = {
  token_missing: "tokenWanted",
  token_expired: "tokenExpired",
  not_authorized: "tokenOther",
};

const LINK_COMMAND = "flask sessions create me --link";
const ASSETS_COMMAND = "make assets";

export class Notice {
  element = element("div", {class: "notice", role: "alert", hidden: true});

  #phrases;
  #actions;
  #shown = "";

  /** `actions`: `retry()`, `signIn(token)`, `askAgain()`. */
  constructor(phrases, actions) {
    this.#phrases = phrases;
    this.#actions = actions;
  }

  /** Show `kind` (of WORDS; "" for nothing). `reason`: a code, or for `refused` the words. */
  show(kind, reason = "") {
    const key = `${kind} ${reason}`;
    if (key === this.#shown) return;
    this.#shown = key;
    this.element.hidden = !kind;
    this.element.dataset.kind = kind;
    if (kind === "tokenForm") this.#showForm(reason);
    else this.element.replaceChildren(...(kind ? this.#content(kind, reason) : []));
  }

  #content(kind, reason) {
    const words = this.#phrases;
    if (kind === "library") {
      return [
        element("p", {}, words.text("noLibrary")),
        command(ASSETS_COMMAND),
        element("p", {}, words.text("noLibraryAfter")),
      ];
    }
    if (kind === "refused") return [element("p", {}, reason)];
    if (kind === "tokenAsking") return [element("p", {}, words.text("tokenRenewing"))];
    if (kind === "tokenEnded") {
      const missing = reason === "token_missing";
      return [
        element("p", {}, words.text(missing ? "tokenMissing" : "tokenEnded")),
        this.#button("retry", this.#actions.askAgain),
      ];
    }
    return [
      element("p", {}, words.text(WORDS[kind])),
      ...(kind === "offline" ? [] : [this.#button("tryNow", this.#actions.retry)]),
    ];
  }

  /** The form stays the same one while somebody types; only its words change. */
  #showForm(reason) {
    const words = this.#phrases;
    let form = this.element.querySelector("form");
    if (!form) {
      form = this.#form();
      this.element.replaceChildren(form);
    }
    showText(form.querySelector(".why"), words.text(WHY[reason] ?? "tokenWrong"));
    const input = form.querySelector("input");
    input.setAttribute("aria-invalid", reason !== "token_missing");
    input.value = "";
  }

  #form() {
    const words = this.#phrases;
    const input = element("input", {
      // Not shown, and not kept by the browser: it is a key, if one with an end.
      type: "password",
      autocomplete: "off",
      id: "token",
      required: true,
      spellcheck: false,
      "aria-describedby": "token-why",
    });
    const form = element(
      "form",
      {},
      element("p", {class: "why", id: "token-why"}),
      element("label", {for: "token"}, words.text("tokenLabel")),
      element(
        "div",
        {class: "field"},
        input,
        element("button", {class: "primary"}, words.text("tokenSubmit")),
      ),
      element("p", {class: "how"}, words.text("tokenHow"), " ", command(LINK_COMMAND)),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      // A whole link is as good as the token in it.
      const token = input.value.trim().replace(/^.*#token=/, "");
      if (token) this.#actions.signIn(token);
    });
    return form;
  }

  #button(key, onclick) {
    return element("button", {type: "button", onclick}, this.#phrases.text(key));
  }
}

function command(text) {
  return element("code", {}, text);
}
