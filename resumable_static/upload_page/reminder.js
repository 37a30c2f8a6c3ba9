/** After a reload: which files were not finished, and that they only have to be chosen again. */

import {element, showText} from "./dom.js";

/** So many names are told; the others are counted. */
const NAMED = 5;

export class Reminder {
  element = element("aside", {class: "reminder", hidden: true});

  #phrases;
  #text = element("p");
  #names = element("ul");
  #shown = "";

  constructor(phrases, forget) {
    this.#phrases = phrases;
    const button = element("button", {type: "button", onclick: forget}, phrases.text("forget"));
    this.element.append(this.#text, this.#names, button);
  }

  /** Show what is left: `[{path, size}]`. */
  update(left) {
    const words = this.#phrases;
    this.element.hidden = !left.length;
    const told = left.slice(0, NAMED).map(({path, size}) => `${path} · ${words.size(size)}`);
    if (left.length > NAMED) told.push(words.text("andMore", {count: left.length - NAMED}));
    if (told.join("\n") === this.#shown) return;
    this.#shown = told.join("\n");
    showText(this.#text, words.text("unfinished", {count: left.length}));
    this.#names.replaceChildren(...told.map((text) => element("li", {}, text)));
  }
}
