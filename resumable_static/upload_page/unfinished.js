/**
 * Names of files whose upload has begun and not ended, kept in the browser for the time after
 * a reload. Nothing but names and sizes: the browser gives the files themselves away only to
 * whoever chooses them again.
 */

import {isHopeless} from "./problems.js";

const PREFIX = "longhaul.unfinished.";

/** How often a file that is on its way is noted anew: it expires so long after its last byte. */
const FRESH_MS = 60_000;

/** So many names are remembered; a folder may hold more files than the storage has room for. */
const MOST = 1000;

export class Unfinished {
  #key = null;
  #lifeMs = 0;
  #before = new Map(); // identifier → {path, size, at}: begun before this page was loaded
  #now = new Map(); // the same, begun on this page

  /** Read what an account left behind; of the server it expires after `seconds`. */
  open(account, base, seconds) {
    const key = `${PREFIX}${base}${account}`;
    if (key === this.#key) return;
    this.#key = key;
    this.#lifeMs = seconds * 1000;
    this.#before = new Map(this.#read().filter(([, {at}]) => at > Date.now() - this.#lifeMs));
    this.#now.clear();
  }

  /** What was begun before and has not been chosen again: `[{path, size}]`. */
  get left() {
    return [...this.#before.values()];
  }

  /** Note what has become of an item. */
  follow(item) {
    if (item.state === "running") {
      const known = this.#now.get(item.identifier);
      if (known && Date.now() - known.at < FRESH_MS) return;
      this.#before.delete(item.identifier);
      this.#now.set(item.identifier, {path: item.path, size: item.size, at: Date.now()});
    } else if (!isOver(item) || !this.#now.delete(item.identifier)) {
      return;
    }
    this.#write();
  }

  /** A person has chosen these again. */
  chosen(items) {
    for (const {identifier} of items) {
      const known = this.#before.get(identifier);
      this.#before.delete(identifier);
      if (known) this.#now.set(identifier, known);
    }
  }

  /** Forget an item, or (null) all that was left behind. */
  forget(item) {
    if (item === null) this.#before.clear();
    else this.#now.delete(item.identifier);
    this.#write();
  }

  #read() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      return kept.filter(([id, told]) => typeof id === "string" && typeof told.path === "string");
    } catch {
      return []; // no storage here, or somebody else's words in it
    }
  }

  #write() {
    if (this.#key === null) return;
    const all = [...this.#before, ...this.#now].slice(-MOST);
    try {
      if (all.length) localStorage.setItem(this.#key, JSON.stringify(all));
      else localStorage.removeItem(this.#key);
    } catch {
      // full or forbidden: uploads go on all the same, only nobody is reminded
    }
  }
}

function isOver({state, problem}) {
  return state === "done" || state === "cancelled" || (state === "failed" && isHopeless(problem));
}
