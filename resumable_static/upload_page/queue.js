/**
 * All files of the list, and which of them are on their way: a few requests at a time, the
 * first file first. Knows no element; tells what happens by events:
 *
 * `change`: anything a person would see; detail: the item, null for several. `done`, `failed`:
 * an item. `refused`: the code with which the server wants a new token.
 */

import {chunkBytes, Item} from "./item.js";
import {Meter} from "./meter.js";
import {ownProblem} from "./problems.js";
import {Transfer} from "./transfer.js";

/** Requests at a time. Browsers open six connections to a server; the page needs some too. */
const REQUESTS = 3;

const TICK_MS = 500;

export class Queue extends EventTarget {
  items = [];
  meter = new Meter();

  #server;
  #settings = null;
  #Resumable = null;
  #byIdentifier = new Map();
  #waiting = new Set();
  #transfers = new Map(); // item → its transfer; paused ones too
  #soon;
  #ticking = null;

  constructor(server) {
    super();
    this.#server = server;
    // Timers of pages in the background are slowed down to one a second; messages are not.
    const channel = new MessageChannel();
    channel.port1.onmessage = () => this.#fill();
    this.#soon = () => channel.port2.postMessage(null);
  }

  /** Start; or go on with other settings, another person's perhaps. */
  open(settings, Resumable) {
    const stranger = this.#settings && this.#settings.account !== settings.account;
    this.#settings = settings;
    this.#Resumable = Resumable;
    if (stranger) this.#startOver();
    for (const item of this.items) this.#checkSize(item);
    this.retry(true);
    this.#soon();
  }

  /** The largest file in bytes, null for no limit or while unknown. */
  get limitBytes() {
    return this.#settings?.max_file_bytes ?? null;
  }

  /** Whether finished files can be had back. */
  get givesBack() {
    return this.#settings?.has_downloads ?? false;
  }

  /**
   * Add files: `[{file, path}]`. One that is in the list already is not added again; if it
   * failed or was cancelled it is taken up. Returns the added items, and how many were there.
   */
  add(entries) {
    const added = [];
    let repeated = 0;
    for (const {file, path} of entries) {
      const item = new Item(file, path);
      const known = this.#byIdentifier.get(item.identifier);
      if (known) {
        // The file of before may be gone; this one can be read.
        if (known.state === "failed" || known.state === "cancelled") {
          known.file = file;
          this.#enqueue(known);
        }
        repeated += 1;
        continue;
      }
      this.#byIdentifier.set(item.identifier, item);
      this.items.push(item);
      this.#waiting.add(item);
      added.push(item);
      this.#checkSize(item);
    }
    this.#changed(null);
    this.#soon();
    return {added, repeated};
  }

  pause(item) {
    if (item.state !== "waiting" && item.state !== "running") return;
    this.#waiting.delete(item);
    this.#transfers.get(item)?.pause();
    this.#rest(item);
    this.#set(item, "paused");
  }

  /** Go on with a paused file, as the next one. */
  resume(item) {
    if (item.state === "paused") this.#enqueue(item, true);
  }

  /** Try a failed or cancelled file again, or one that waits for better times at once. */
  again(item) {
    if (item.state === "running") this.#transfers.get(item)?.retry();
    else if (item.state === "failed" || item.state === "cancelled") this.#enqueue(item, true);
  }

  /** Stop a file; what the server has of it stays there until it expires. */
  cancel(item) {
    this.#drop(item);
    this.#set(item, "cancelled");
  }

  remove(item) {
    this.#drop(item);
    this.#byIdentifier.delete(item.identifier);
    this.items = this.items.filter((other) => other !== item);
    this.#changed(null);
  }

  pauseAll() {
    for (const item of this.items) this.pause(item);
  }

  resumeAll() {
    for (const item of this.items) if (item.state === "paused") this.#enqueue(item);
  }

  /** Take what is done or cancelled off the list. */
  clear() {
    const gone = (item) => item.state === "done" || item.state === "cancelled";
    for (const item of this.items.filter(gone)) this.#byIdentifier.delete(item.identifier);
    this.items = this.items.filter((item) => !gone(item));
    this.#changed(null);
  }

  /** The network has gone: what is on its way will never hear of it. */
  interrupt() {
    for (const transfer of this.#transfers.values()) transfer.interrupt();
  }

  /** Let all that wait for better times try now; `all`: what waits for a token too. */
  retry(all = false) {
    for (const transfer of this.#transfers.values()) transfer.retry(all);
  }

  #enqueue(item, first = false) {
    this.#rest(item);
    this.#waiting = first ? new Set([item, ...this.#waiting]) : this.#waiting.add(item);
    this.#set(item, "waiting");
    this.#checkSize(item);
    this.#soon();
  }

  #checkSize(item) {
    if (item.state !== "waiting" || this.limitBytes === null || item.size <= this.limitBytes) return;
    this.#waiting.delete(item);
    this.#fail(item, ownProblem("lasting", "upload_too_large"));
  }

  #drop(item) {
    this.#waiting.delete(item);
    this.#transfers.get(item)?.end();
    this.#transfers.delete(item);
    this.#rest(item);
    this.#soon();
  }

  /** Forget what was true only while the file was on its way. */
  #rest(item) {
    item.loaded = this.#transfers.get(item)?.loaded ?? 0;
    item.problem = item.retryAt = null;
    item.meter.reset();
  }

  /** What the server has under the former account is nothing to this one. */
  #startOver() {
    for (const [item, transfer] of this.#transfers) {
      transfer.end();
      this.#transfers.delete(item);
      this.#rest(item);
      if (item.state === "running" || item.state === "finishing") this.#enqueue(item);
    }
  }

  /** Fill free places: more chunks of the files that are on their way, then the next file. */
  #fill() {
    if (!this.#settings) return;
    const running = [...this.#transfers].filter(([item]) => item.state === "running");
    let free = REQUESTS;
    for (const [, transfer] of running) free -= transfer.requests;
    for (const [, transfer] of running) free -= transfer.start(free);
    for (const item of this.#waiting) {
      if (free <= 0) break;
      free -= 1;
      this.#start(item);
    }
    this.#tickWhileRunning();
  }

  #start(item) {
    this.#waiting.delete(item);
    if (!this.#transfers.has(item)) this.#transfers.set(item, this.#transfer(item));
    this.#set(item, "running");
    this.#transfers.get(item).ready.then(() => this.#soon());
  }

  #transfer(item) {
    const {options, min_chunk_bytes: least, max_chunk_bytes: most} = this.#settings;
    const own = {chunkSize: chunkBytes(item.size, least, most)};
    if (item.folder) item.file.relativePath = item.path; // Resumable.js looks there
    else own.relativePathParameterName = "";
    const transfer = new Transfer(this.#Resumable, item, this.#server, {...options, ...own}, {
      sent: (bytes) => [this.meter, item.meter].forEach((meter) => meter.add(bytes)),
      changed: () => this.#show(item, transfer),
      reached: () => this.#reached(item, transfer),
      freed: () => this.#soon(),
      refused: (code) => this.#tell("refused", code),
      done: (answer) => this.#finish(item, answer),
      failed: (problem) => this.#fail(item, problem),
    });
    return transfer;
  }

  #show(item, transfer) {
    item.loaded = transfer.loaded;
    item.problem = transfer.trouble;
    item.retryAt = transfer.retryAt;
    this.#set(item, item.state === "running" && transfer.finishing ? "finishing" : item.state);
  }

  #reached(item, transfer) {
    // The server is back: nobody needs to sit out a long wait.
    for (const other of this.#transfers.values()) other.reached();
    this.#show(item, transfer);
  }

  #finish(item, answer) {
    this.#transfers.delete(item);
    this.#rest(item);
    item.answer = answer;
    item.loaded = item.size;
    this.#set(item, "done");
    this.#tell("done", item);
    this.#soon();
  }

  #fail(item, problem) {
    this.#rest(item);
    this.#transfers.delete(item);
    item.problem = problem;
    this.#set(item, "failed");
    this.#tell("failed", item);
    this.#soon();
  }

  #tickWhileRunning() {
    const busy = this.items.some((item) => item.state === "running");
    if (busy === (this.#ticking !== null)) return;
    if (busy) {
      this.#ticking = setInterval(() => this.#tick(), TICK_MS);
    } else {
      clearInterval(this.#ticking);
      this.#ticking = null;
      this.meter.reset();
    }
  }

  #tick() {
    this.meter.sample();
    for (const [item, transfer] of this.#transfers) {
      if (item.state !== "running") continue;
      item.meter.sample();
      transfer.tick();
      this.#show(item, transfer);
    }
    this.#tickWhileRunning();
  }

  #set(item, state) {
    item.state = state;
    this.#changed(item);
  }

  #changed(item) {
    this.#tell("change", item);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }
}
