/** What a screen reader hears: what has happened, a few words at a time, never a stream of figures. */

import {element} from "./dom.js";

/** Between two announcements, so that the first one is heard to its end. */
const PAUSE_MS = 3000;

/** Between two announcements of progress. */
const PROGRESS_MS = 30_000;

export class Announcer {
  element = element("div", {class: "heard", role: "status"});

  #phrases;
  #waiting = [];
  #done = [];
  #timer = null;
  #toldProgressAt = performance.now();

  constructor(phrases) {
    this.#phrases = phrases;
  }

  /** Say something soon. */
  say(text) {
    this.#waiting.push(text);
    this.#plan();
  }

  /** A file is done; several that are done about the same time are told as a number. */
  done(item) {
    this.#done.push(item.name);
    this.#plan();
  }

  /** Tell of progress, if it is time to. `totals` as in item.js. */
  progress(totals, seconds) {
    const now = performance.now();
    if (!totals.running || seconds === null) return;
    if (now - this.#toldProgressAt < PROGRESS_MS) return;
    this.#toldProgressAt = now;
    const words = this.#phrases;
    const percent = words.percent(totals.bytes ? totals.loaded / totals.bytes : 0);
    const rest = words.text("timeLeft", {time: words.duration(seconds)});
    this.say(words.text("say.progress", {percent, rest}));
  }

  #plan() {
    // A moment for what comes together; the pause if something has just been said.
    this.#timer ??= setTimeout(() => this.#speak(), this.element.textContent ? PAUSE_MS : 300);
  }

  #speak() {
    this.#timer = null;
    const names = this.#done.splice(0);
    if (names.length) {
      this.#waiting.unshift(this.#phrases.text("say.done", {count: names.length, name: names[0]}));
    }
    this.element.textContent = this.#waiting.splice(0).join(". ");
    if (this.element.textContent) this.#plan(); // next time: silence, or what has come meanwhile
  }
}
