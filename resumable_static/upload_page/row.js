/** One file's row: its name, state in words and drawing, progress, and what can be done with it. */

import {element, icon, showIcon, showText} from "./dom.js";
import {isHopeless, problemText} from "./problems.js";

/** State → the row's two buttons: [what the first does, what the second does]; "" for none. */
const ACTIONS = {
  waiting: ["pause", "cancel"],
  running: ["pause", "cancel"],
  trying: ["pause", "cancel"],
  paused: ["resume", "cancel"],
  finishing: ["", ""],
  done: ["download", "remove"],
  failed: ["retry", "remove"],
  cancelled: ["again", "remove"],
};

const ICONS = {again: "retry", remove: "cancel"};

/** States without a progress worth a bar. */
const BARLESS = new Set(["done", "cancelled", "finishing"]);

let rows = 0;

export class Row {
  #item;
  #phrases;
  #name;
  #state = element("span", {class: "state"});
  #details = element("span", {class: "details"});
  #drawing = element("span", {class: "drawing"});
  #bar = element("progress", {max: 1});
  #buttons;
  #actions = ["", ""];

  /** `act(action, item)` is called when a button is pressed. */
  constructor(item, phrases, act) {
    this.#item = item;
    this.#phrases = phrases;
    const id = `name-${(rows += 1)}`;
    this.#name = element("p", {class: "name", id, title: item.path}, item.name);
    this.#bar.setAttribute("aria-labelledby", id);
    this.#buttons = [0, 1].map((place) =>
      element("button", {
        type: "button",
        class: "round",
        hidden: true,
        onclick: () => act(this.#actions[place], item),
      }),
    );
    this.element = element(
      "li",
      {class: "row"},
      this.#drawing,
      element(
        "div",
        {class: "body"},
        this.#name,
        ...(item.folder ? [element("p", {class: "folder"}, item.folder)] : []),
        this.#bar,
        element("p", {class: "status"}, this.#state, " · ", this.#details),
      ),
      element("div", {class: "actions"}, ...this.#buttons),
    );
  }

  /** Show the item as it is now; `queue` tells what the server allows. */
  update({limitBytes, givesBack}) {
    const item = this.#item;
    const state = item.state === "running" && item.problem ? "trying" : item.state;
    this.element.dataset.state = state;
    showIcon(this.#drawing, state === "trying" ? "waiting" : state);
    showText(this.#state, this.#phrases.text(`state.${state}`));
    showText(this.#details, this.#told(state, limitBytes));
    this.#bar.hidden = BARLESS.has(state) || (state === "failed" && !item.loaded);
    this.#bar.value = item.progress;
    const removable = (state === "done" && !givesBack) || (state === "failed" && isHopeless(item.problem));
    this.#offer(removable ? ["", "remove"] : ACTIONS[state]);
  }

  /** Move the focus to the row's first button. */
  focus() {
    this.#buttons.find((button) => !button.hidden)?.focus();
  }

  #told(state, limitBytes) {
    const item = this.#item;
    const words = this.#phrases;
    const size = words.size(item.size);
    if (state === "failed") return problemText(words, item.problem, item, limitBytes);
    if (!["running", "trying", "paused"].includes(state) && !item.loaded) return size;
    if (["done", "finishing", "cancelled"].includes(state)) return size;
    const done = words.text("percentOf", {percent: words.percent(item.progress), size});
    if (state === "running") return [done, ...this.#pace()].join(" · ");
    return state === "trying" ? [done, ...this.#nextTry()].join(" · ") : done;
  }

  #pace() {
    const words = this.#phrases;
    const {meter, size, loaded} = this.#item;
    if (!meter.speed) return [];
    const seconds = meter.secondsFor(size - loaded);
    const speed = words.speed(meter.speed);
    return seconds === null ? [speed] : [speed, words.text("timeLeft", {time: words.duration(seconds)})];
  }

  #nextTry() {
    const words = this.#phrases;
    const {retryAt} = this.#item;
    if (retryAt === Infinity) return []; // once there is a token, and a notice asks for it
    const seconds = retryAt === null ? 0 : (retryAt - Date.now()) / 1000;
    if (seconds < 0.5) return [words.text("retryingNow")];
    return [words.text("retryIn", {time: words.duration(seconds)})];
  }

  #offer(actions) {
    this.#buttons.forEach((button, place) => {
      const action = actions[place];
      if (this.#actions[place] === action) return;
      button.hidden = !action;
      if (!action) return;
      const label = this.#phrases.text(action);
      button.title = label;
      button.setAttribute("aria-label", this.#phrases.text("actionOn", {action: label, name: this.#item.name}));
      button.replaceChildren(icon(ICONS[action] ?? action));
    });
    this.#actions = actions;
  }
}
