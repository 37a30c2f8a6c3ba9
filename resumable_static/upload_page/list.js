/**
 * The rows of the list. A folder may hold ten thousand files: once the list is long, those that
 * are finished are put away behind a button, and of the others the first ones are shown.
 */

import {element, showText} from "./dom.js";
import {Row} from "./row.js";

/** A list up to here is shown as it is. */
const SHORT = 30;

/** So many rows at first, and so many more each time a person asks. */
const STEP = 100;

export class List {
  element;

  #phrases;
  #act;
  #rows = new Map(); // item → its row, while shown
  #list;
  #more = element("button", {type: "button", class: "more", hidden: true});
  #toggle = element("button", {type: "button", class: "more", hidden: true, "aria-expanded": "false"});
  #finished;
  #shown = STEP;
  #queue;

  /** `act(action, item)` is called when a row's button is pressed. */
  constructor(queue, phrases, act) {
    this.#queue = queue;
    this.#phrases = phrases;
    this.#act = act;
    this.#list = element("ul", {class: "rows", "aria-label": phrases.text("fileList")});
    this.#finished = element("ul", {
      class: "rows",
      hidden: true,
      "aria-label": phrases.text("finishedList"),
    });
    this.#more.onclick = () => {
      this.#shown += STEP;
      this.update();
    };
    this.#toggle.onclick = () => {
      this.#finished.hidden = !this.#finished.hidden;
      this.#toggle.setAttribute("aria-expanded", !this.#finished.hidden);
      this.update();
    };
    this.element = element("div", {class: "list"});
    this.element.append(this.#list, this.#more, this.#toggle, this.#finished);
  }

  /** Show the queue's items, all of them or the ones that matter. */
  update() {
    const {items} = this.#queue;
    const isPutAway = (item) => items.length > SHORT && item.state === "done";
    const putAway = items.filter(isPutAway);
    const rest = items.filter((item) => !isPutAway(item));
    const visible = rest.slice(0, this.#shown);
    const old = this.#finished.hidden ? [] : putAway.slice(-STEP).reverse();
    this.#offer(rest.length - visible.length, putAway.length);
    this.#dismissAllBut(new Set([...visible, ...old]));
    this.#place(this.#list, visible);
    this.#place(this.#finished, old);
    for (const row of this.#rows.values()) row.update(this.#queue);
  }

  #offer(more, done) {
    const words = this.#phrases;
    this.#more.hidden = !more;
    showText(this.#more, words.text("showMore", {count: more}));
    this.#toggle.hidden = !done;
    const key = this.#finished.hidden ? "showDone" : "hideDone";
    showText(this.#toggle, words.text(key, {count: done}));
    if (!done) this.#finished.hidden = true;
  }

  /** Remove rows; one that goes must not take the focus with it. */
  #dismissAllBut(wanted) {
    const focused = this.#list.getRootNode().activeElement;
    for (const [item, row] of this.#rows) {
      if (wanted.has(item)) continue;
      if (row.element.contains(focused)) this.#focusBeside(row.element, wanted);
      row.element.remove();
      this.#rows.delete(item);
    }
  }

  #focusBeside(gone, wanted) {
    const rows = [...this.#rows].filter(([item]) => wanted.has(item)).map(([, row]) => row);
    const after = rows.find(
      ({element: other}) => gone.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING,
    );
    (after ?? rows.at(-1))?.focus();
  }

  /** Make a list's children the rows of `items`; rows that are in their place are not touched. */
  #place(list, items) {
    let next = list.firstElementChild;
    for (const item of items) {
      if (!this.#rows.has(item)) this.#rows.set(item, new Row(item, this.#phrases, this.#act));
      const row = this.#rows.get(item).element;
      if (row === next) next = next.nextElementSibling;
      else list.insertBefore(row, next);
    }
  }
}
