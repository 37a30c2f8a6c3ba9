/** Everything inside a <longhaul-upload>: the drop zone, what is told, the list, and their wiring. */

import {Announcer} from "./announcer.js";
import {DropZone} from "./dropzone.js";
import {element} from "./dom.js";
import {List} from "./list.js";
import {Notice} from "./notice.js";
import {patience, pauseAfter} from "./patience.js";
import {Permission} from "./permission.js";
import {ownProblem, problemText} from "./problems.js";
import {Queue} from "./queue.js";
import {Reminder} from "./reminder.js";
import {ServerError} from "./server.js";
import {Summary} from "./summary.js";
import {Unfinished} from "./unfinished.js";
import {keepAwake} from "./wake.js";

/** Figures that change faster than this cannot be read. */
const RENDER_MS = 250;

const UNREACHABLE = ownProblem("passes", "unreachable");

export class Widget {
  element = element("section", {class: "widget"});
  permission;

  #host;
  #server;
  #phrases;
  #queue;
  #unfinished = new Unfinished();
  #zone;
  #notice;
  #reminder;
  #summary;
  #list;
  #announcer;
  #obstacle = ["", ""]; // what keeps everything from starting: kind of notice, reason
  #impatient = null; // ends the wait for another try
  #renderTimer = null;
  #connecting = false;

  /** `host`: the element; it has `asksForToken`, `getToken`, `tokenUrl` and gets the events. */
  constructor(host, server, phrases) {
    this.#host = host;
    this.#server = server;
    this.#phrases = phrases;
    this.#queue = new Queue(server);
    this.permission = new Permission(host, server);
    this.#build();
    this.#listen();
    this.#connect();
  }

  /** The element has left the page: nobody could stop its uploads any more. */
  suspend() {
    this.#queue.pauseAll();
  }

  /** Take up what was dropped somewhere on the page. */
  drop(dataTransfer) {
    this.#zone.take(dataTransfer);
  }

  #build() {
    const phrases = this.#phrases;
    this.#zone = new DropZone(phrases, (entries, unreadable) => this.#add(entries, unreadable));
    this.#notice = new Notice(phrases, {
      retry: () => this.#retryNow(),
      signIn: (token) => (this.#host.token = token),
      askAgain: () => this.permission.again(),
    });
    this.#reminder = new Reminder(phrases, () => {
      this.#unfinished.forget(null);
      this.#render();
    });
    this.#summary = new Summary(phrases, {
      pauseAll: () => this.#queue.pauseAll(),
      resumeAll: () => this.#queue.resumeAll(),
      clear: () => this.#queue.clear(),
    });
    this.#list = new List(this.#queue, phrases, (action, item) => this.#act(action, item));
    this.#announcer = new Announcer(phrases);
    this.element.setAttribute("aria-label", phrases.text("label"));
    const parts = [this.#notice, this.#zone, this.#reminder, this.#summary, this.#list, this.#announcer];
    this.element.append(...parts.map((part) => part.element));
  }

  #listen() {
    const queue = this.#queue;
    queue.addEventListener("change", ({detail: item}) => {
      if (item) this.#unfinished.follow(item);
      this.#renderSoon();
    });
    queue.addEventListener("refused", ({detail: code}) => this.#connect(code));
    queue.addEventListener("done", ({detail: item}) => {
      this.#announcer.done(item);
      this.#tell("done", {...identity(item), ...item.answer});
    });
    queue.addEventListener("failed", ({detail: item}) => {
      const problem = problemText(this.#phrases, item.problem, item, queue.limitBytes);
      this.#announcer.say(this.#phrases.text("say.failed", {name: item.name, problem}));
      this.#tell("failed", {...identity(item), code: item.problem.code, message: problem});
    });
    this.permission.addEventListener("change", () => this.#render());
    addEventListener("online", () => this.#retryNow());
    addEventListener("offline", () => this.#queue.interrupt());
  }

  #add(entries, unreadable) {
    const words = this.#phrases;
    const {added, repeated} = this.#queue.add(entries);
    this.#unfinished.chosen(added);
    if (added.length) this.#announcer.say(words.text("say.added", {count: added.length}));
    const strange = [];
    if (repeated) strange.push(words.text("say.repeated", {count: repeated}));
    if (unreadable) strange.push(words.text("say.unreadable", {count: unreadable}));
    if (!entries.length && !unreadable) strange.push(words.text("say.nothing"));
    this.#zone.tell(strange.join(". "));
    for (const text of strange) this.#announcer.say(text);
    this.#render();
  }

  #act(action, item) {
    if (action === "download") return this.#download(item);
    if (action === "remove") {
      this.#unfinished.forget(item);
      this.#queue.remove(item);
    } else {
      this.#queue[{retry: "again"}[action] ?? action](item);
    }
    this.#render();
  }

  /**
   * The token is put into the address only now, and the address into nothing that stays. What a
   * browser shows instead of saving must not take this page's place.
   */
  #download(item) {
    const url = new URL(`download/${item.answer.id}`, this.#server.base);
    if (this.#server.token) url.searchParams.set("upload_token", this.#server.token);
    const rel = "noopener noreferrer";
    element("a", {href: url.href, download: item.name, target: "_blank", rel}).click();
  }

  /** Learn from the server what an upload needs, as often as it takes; `code`: of a refusal. */
  async #connect(code = "") {
    if (this.#connecting) return;
    this.#connecting = true;
    if (code) await this.permission.obtain(code);
    for (let tries = 1; !(await this.#connected(tries)); tries += 1);
    this.#connecting = false;
    this.#render();
  }

  /** Try once; return whether that settles it, one way or the other. */
  async #connected(tries) {
    try {
      const settings = await this.#server.settings();
      this.#hinder("");
      if (settings.needs_token) {
        await this.permission.obtain("token_missing");
        return false;
      }
      if (settings.has_library) await this.#open(settings, tries);
      else this.#hinder("library");
      return true;
    } catch (error) {
      const {problem} = error instanceof ServerError ? error : {problem: UNREACHABLE};
      if (problem.kind === "token") {
        await this.permission.obtain(problem.code);
      } else if (problem.kind === "passes") {
        this.#hinder(noticeOf(problem));
        const better = new Promise((resolve) => (this.#impatient = resolve));
        await Promise.race([patience(pauseAfter(tries, problem.retryAfterSeconds)), better]);
      } else {
        this.#hinder("refused", problem.message);
        return true;
      }
      return false;
    }
  }

  async #open(settings, tries) {
    // Some browsers remember that an import failed, by its address.
    const {default: Resumable} = await import(`./resumable.js${tries > 1 ? `?${tries}` : ""}`);
    this.#unfinished.open(settings.account, this.#server.base, settings.unfinished_seconds);
    this.#unfinished.chosen(this.#queue.items);
    this.#zone.limit(settings.max_file_bytes);
    this.#queue.open(settings, Resumable);
    this.#tell("ready", {});
  }

  #retryNow() {
    this.#impatient?.();
    this.#queue.retry();
    this.#render();
  }

  #hinder(kind, reason = "") {
    this.#obstacle = [kind, reason];
    this.#render();
  }

  #renderSoon() {
    this.#renderTimer ??= setTimeout(() => this.#render(), RENDER_MS);
  }

  #render() {
    clearTimeout(this.#renderTimer);
    this.#renderTimer = null;
    const queue = this.#queue;
    this.#notice.show(...this.#noticed());
    this.#reminder.update(this.#unfinished.left);
    this.#list.update();
    const totals = this.#summary.update(queue);
    this.element.classList.toggle("filled", queue.items.length > 0);
    this.#announcer.progress(totals, queue.meter.secondsFor(totals.rest));
    keepAwake(totals.running > 0);
    this.#tell("progress", totals);
  }

  /** Return kind and reason of the notice that matters most now. */
  #noticed() {
    const {state, reason} = this.permission;
    if (state === "asking") return ["tokenAsking"];
    if (state === "wanted") return [this.#host.asksForToken ? "tokenForm" : "tokenEnded", reason];
    const trouble = this.#queue.items.find(({state, problem}) => state === "running" && problem);
    if (!navigator.onLine && (trouble || this.#obstacle[0])) return ["offline"];
    if (this.#obstacle[0]) return this.#obstacle;
    return [trouble && trouble.problem.kind === "passes" ? noticeOf(trouble.problem) : ""];
  }

  #tell(type, detail) {
    this.#host.dispatchEvent(new CustomEvent(`longhaul-${type}`, {detail, bubbles: true, composed: true}));
  }
}

function noticeOf({code}) {
  return code === "unreachable" || code === "storage_full" ? code : "busy";
}

function identity({name, path, size}) {
  return {name, path, size};
}
