/** Where files are dropped or chosen. */

import {element, icon, showText} from "./dom.js";
import {carriesFiles, chosen, dropped} from "./picking.js";

/** Safari on a phone has the property too, and opens its usual chooser of files. */
const TAKES_FOLDERS = "webkitdirectory" in HTMLInputElement.prototype;

/** Nothing can be dragged with a thumb. */
const INVITATION = matchMedia("(hover: none) and (pointer: coarse)").matches ? "tap" : "drop";

export class DropZone {
  element = element("div", {class: "zone"});

  #phrases;
  #found;
  #hint = element("p", {class: "hint"});
  #title = element("p", {class: "title"});
  #told = element("p", {class: "told", hidden: true});
  #over = 0; // elements inside that the drag is over

  /** `found([{file, path}], unreadable)` gets what was chosen or dropped. */
  constructor(phrases, found) {
    this.#phrases = phrases;
    this.#found = found;
    const files = this.#input({multiple: true});
    const folder = this.#input({webkitdirectory: true});
    const buttons = element(
      "div",
      {class: "buttons"},
      this.#button("chooseFiles", "primary", files),
      ...(TAKES_FOLDERS ? [this.#button("chooseFolder", "folders", folder)] : []),
    );
    this.element.append(icon("upload"), this.#title, buttons, this.#hint, this.#told, files, folder);
    showText(this.#title, phrases.text(INVITATION));
    this.limit(null);
    this.#listen();
  }

  /** Tell of the largest file allowed, null for none. */
  limit(bytes) {
    const words = this.#phrases;
    const limit = bytes === null ? "" : `${words.text("limit", {size: words.size(bytes)})} `;
    showText(this.#hint, limit + words.text("resumable"));
  }

  /** Say what was strange about what was just added; "" takes that back. */
  tell(text) {
    this.#told.hidden = !text;
    showText(this.#told, text);
  }

  /** Take up a drop, this zone's or the page's; call it while the event lasts. */
  async take(dataTransfer) {
    this.element.classList.remove("over");
    this.#over = 0;
    showText(this.#title, this.#phrases.text("reading"));
    const {entries, unreadable} = await dropped(dataTransfer);
    showText(this.#title, this.#phrases.text(INVITATION));
    this.#found(entries, unreadable);
  }

  #listen() {
    const zone = this.element;
    zone.addEventListener("dragenter", (event) => {
      if (!carriesFiles(event)) return;
      this.#over += 1;
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", (event) => {
      if (!carriesFiles(event)) return;
      this.#over = Math.max(0, this.#over - 1);
      zone.classList.toggle("over", this.#over > 0);
    });
    zone.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    });
    zone.addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      event.stopPropagation(); // the page may take drops anywhere
      this.take(event.dataTransfer);
    });
  }

  #input(properties) {
    const input = element("input", {type: "file", hidden: true, ...properties});
    input.addEventListener("change", () => {
      this.#found(chosen(input), 0);
      input.value = ""; // the same file may be chosen again
    });
    return input;
  }

  #button(key, kind, input) {
    const button = element("button", {type: "button", class: kind, onclick: () => input.click()});
    button.append(this.#phrases.text(key));
    return button;
  }
}
