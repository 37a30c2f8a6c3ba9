/** The whole list in one line: how much is done, how fast, how long still; and what to do with all. */

import {element, showText} from "./dom.js";
import {totalsOf} from "./item.js";

export class Summary {
  element = element("div", {class: "summary", hidden: true});

  #phrases;
  #text = element("p", {class: "numbers"});
  #bar = element("progress", {max: 1});
  #pause;
  #clear;
  #pausing = true;

  /** `actions`: `pauseAll()`, `resumeAll()`, `clear()`. */
  constructor(phrases, actions) {
    this.#phrases = phrases;
    this.#bar.setAttribute("aria-label", phrases.text("overall"));
    this.#pause = element("button", {
      type: "button",
      onclick: () => (this.#pausing ? actions.pauseAll() : actions.resumeAll()),
    });
    this.#clear = element("button", {type: "button", onclick: actions.clear}, phrases.text("clearDone"));
    this.element.append(
      this.#text,
      this.#bar,
      element("div", {class: "buttons"}, this.#pause, this.#clear),
    );
  }

  /** Show the list's totals; return them. */
  update(queue) {
    const words = this.#phrases;
    const totals = totalsOf(queue.items);
    const going = totals.running + totals.waiting;
    this.element.hidden = !queue.items.length;
    this.#pausing = going > 0;
    showText(this.#pause, words.text(this.#pausing ? "pauseAll" : "resumeAll"));
    this.#pause.hidden = !going && !totals.paused;
    this.#clear.hidden = !totals.done && !totals.cancelled;
    this.#bar.value = totals.bytes ? totals.loaded / totals.bytes : Number(totals.done > 0);
    this.#bar.hidden = totals.done + totals.failed === totals.count;
    showText(this.#text, this.#numbers(totals, queue.meter).join(" · "));
    return totals;
  }

  #numbers(totals, meter) {
    const words = this.#phrases;
    const parts = [words.text("filesDone", {done: totals.done, count: totals.count})];
    if (totals.failed) parts.push(words.text("filesFailed", {count: totals.failed}));
    const percent = words.percent(totals.bytes ? totals.loaded / totals.bytes : 0);
    const size = words.size(totals.bytes);
    const whole = totals.done + totals.failed === totals.count;
    parts.push(whole ? size : words.text("percentOf", {percent, size}));
    if (totals.running && meter.speed) {
      parts.push(words.speed(meter.speed));
      const seconds = meter.secondsFor(totals.rest);
      if (seconds !== null) parts.push(words.text("timeLeft", {time: words.duration(seconds)}));
    }
    return parts;
  }
}
