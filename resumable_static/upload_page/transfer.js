/**
 * One file on its way to the server, by Resumable.js.
 *
 * Resumable.js cuts the file, asks for each chunk whether the server has it, and sends it. By
 * itself it repeats a refused chunk at once, a hundred times, and then gives the file up. Here
 * every request passes a gate, its `preprocess` hook: after a failure the gate holds the chunk
 * until it is worth a try, and then Resumable.js begins with the question again, which is
 * cheap. The outcome of each request is read by a listener of our own, set where Resumable.js
 * asks for `headers`, just before its own listeners look.
 */

import {finished} from "./finishing.js";
import {pauseAfter} from "./patience.js";
import {isHopeless, ownProblem, parsed, problemOfRequest} from "./problems.js";

/** A request that stands still for so long hangs. The server gives bodies up after 60 s. */
const STALL_MS = 60_000;

export class Transfer {
  /** Whether all of the file is there, and the server is finishing it. */
  finishing = false;

  #resumable;
  #server;
  #file;
  #events;
  #length = 0; // bytes of chunks the server has
  #busy = new Map(); // chunk that has a request, or waits for one → bytes handed over
  #held = new Map(); // chunk that waits at the gate → {until (ms), problem}
  #refused = new Map(); // chunk whose request has just failed → its problem
  #failures = new Map(); // chunk → failures in a row
  #moved = 0; // when a byte or an answer was last seen
  #latest = null; // the newest problem, until the server answers as it should
  #answered = ""; // URL of the newest request that succeeded
  #cut = false; // whether Resumable.js has made its chunks
  #aborting = false;
  #over = false;

  /**
   * `events`: `sent(bytes)`, `changed()`, `reached()` (the server has answered),
   * `freed()` (a request less), `refused(code)` (no valid token), `done(answer)`,
   * `failed(problem)`. `options` go to Resumable.js.
   */
  constructor(Resumable, item, server, options, events) {
    this.#server = server;
    this.#file = item.file;
    this.#events = events;
    this.#resumable = new Resumable({
      ...options,
      target: server.target,
      method: "octet",
      forceChunkSize: true, // S3 takes no last part that is larger than the others
      minFileSize: 0,
      maxChunkRetries: Infinity, // how long to go on is decided at the gate
      permanentErrors: [],
      generateUniqueIdentifier: () => item.identifier,
      preprocess: (chunk) => this.#gate(chunk),
      headers: (_file, chunk) => this.#watched(chunk),
    });
    this.#resumable.on("fileSuccess", (_file, text) => this.#complete(parsed(text)));
    /** Resolves once the file has been cut into chunks. */
    this.ready = new Promise((resolve) => this.#resumable.on("fileAdded", resolve)).then(() => {
      this.#cut = true;
    });
    this.#resumable.addFile(item.file);
  }

  /** Bytes that the server has, or that are on their way to it. */
  get loaded() {
    let bytes = this.#length;
    for (const sent of this.#busy.values()) bytes += sent;
    return bytes;
  }

  /** Requests that run or wait for their next try; one that is about to begin counts. */
  get requests() {
    return this.#cut ? this.#busy.size : 1;
  }

  /** What holds chunks up, null while all goes well. */
  get trouble() {
    const [held] = this.#held.values();
    return held?.problem ?? this.#latest;
  }

  /** When the next chunk that waits may pass; null without one, Infinity where only a token helps. */
  get retryAt() {
    return this.#held.size ? Math.min(...[...this.#held.values()].map(({until}) => until)) : null;
  }

  /** Start up to `count` more requests; return how many there were to start. */
  start(count) {
    let started = 0;
    while (started < count && !this.#over && this.#resumable.uploadNextChunk()) started += 1;
    return started;
  }

  /** End all requests. What has arrived stays; `start` goes on. */
  pause() {
    const chunks = [...this.#busy.keys()];
    this.#abort(() => this.#resumable.pause());
    this.#busy.clear();
    this.#held.clear();
    this.#refused.clear();
    this.#latest = null;
    for (const chunk of chunks) {
      chunk.tested = false; // it may have arrived: ask again
      chunk.preprocessState = 0; // Resumable.js takes up only chunks that are to pass the gate
    }
  }

  /** End for good. */
  end() {
    this.#over = true;
    this.pause();
  }

  /** Let chunks pass that have waited long enough, and end requests that hang. */
  tick() {
    const now = Date.now();
    this.#release(({until}) => until <= now);
    if (performance.now() - this.#moved > STALL_MS) this.interrupt();
  }

  /** Give the requests that run up: they are tried again after a while. */
  interrupt() {
    for (const chunk of this.#busy.keys()) if (!this.#held.has(chunk)) this.#drop(chunk);
  }

  /** Let chunks pass that wait for better times; `all`: those that wait for a token too. */
  retry(all = false) {
    this.#release(({until}) => all || until !== Infinity);
  }

  /** The server has answered somebody: let chunks pass that it did not answer. */
  reached() {
    this.#release(({problem}) => problem.status === 0);
  }

  #release(may) {
    for (const [chunk, held] of [...this.#held]) {
      if (!may(held)) continue;
      this.#held.delete(chunk);
      this.#moved = performance.now();
      chunk.preprocessFinished();
    }
    this.#events.changed();
  }

  /** Asked by Resumable.js before it asks for, or sends, a chunk. */
  #gate(chunk) {
    const problem = this.#refused.get(chunk);
    this.#refused.delete(chunk);
    if (this.#over) return;
    this.#busy.set(chunk, 0);
    if (!problem) {
      this.#moved = performance.now();
      chunk.preprocessFinished();
      return;
    }
    chunk.tested = false; // ask again first: it may have arrived
    this.#hold(chunk, problem);
  }

  #hold(chunk, problem) {
    const count = (this.#failures.get(chunk) ?? 0) + 1;
    this.#failures.set(chunk, count);
    this.#latest = problem;
    const refused = problem.kind === "token";
    const renewed = refused && problem.token !== this.#server.token; // while this was on its way
    const wait = renewed ? 0 : pauseAfter(count, problem.retryAfterSeconds);
    this.#held.set(chunk, {until: refused && !renewed ? Infinity : Date.now() + wait, problem});
    if (refused && !renewed) this.#events.refused(problem.code);
    if (problem.status === 0) this.#checkFile(chunk);
    this.#events.changed();
  }

  /** Called by Resumable.js once `chunk.xhr` is open: listen, and return the headers. */
  #watched(chunk) {
    const {xhr, tested: sends} = chunk;
    const {token} = this.#server;
    if (sends) {
      xhr.upload.addEventListener("progress", (event) => this.#count(chunk, event.loaded));
    }
    xhr.addEventListener("readystatechange", () => {
      if (xhr.readyState !== XMLHttpRequest.DONE || this.#aborting) return;
      this.#judge(chunk, xhr, sends, token);
    });
    return this.#server.headers();
  }

  #count(chunk, loaded) {
    if (!this.#busy.has(chunk)) return;
    this.#moved = performance.now();
    this.#events.sent(Math.max(0, loaded - this.#busy.get(chunk)));
    this.#busy.set(chunk, loaded);
  }

  #judge(chunk, xhr, sends, token) {
    this.#moved = performance.now();
    if (!sends && xhr.status === 204) {
      this.#reached();
    } else if (xhr.status === 200 && parsed(xhr.responseText).id) {
      this.#answered = xhr.responseURL;
      this.#length += chunk.endByte - chunk.startByte;
      this.#busy.delete(chunk);
      this.#failures.delete(chunk);
      this.#reached();
      this.#events.freed();
    } else if (xhr.status === 200) {
      // A portal's sign-in page, or a proxy's start page: not our server, and nothing stored.
      this.#drop(chunk);
    } else {
      this.#refuse(chunk, {...problemOfRequest(xhr), token}, sends);
    }
  }

  /** Give up a chunk's request as if it had failed. */
  #drop(chunk) {
    this.#abort(() => chunk.abort());
    this.#refuse(chunk, ownProblem("passes", "unreachable"));
    setTimeout(() => {
      // Where the request had ended already, Resumable.js has been here itself.
      if (this.#refused.has(chunk)) chunk.send();
    });
  }

  #reached() {
    this.#latest = null;
    this.#events.reached();
  }

  #refuse(chunk, problem, sends = true) {
    // A file that could not be finished is refused when it is asked for, and tried anew when sent.
    if (problem.kind === "lasting" && !sends && !isHopeless(problem)) return;
    chunk.preprocessState = 0; // Resumable.js sends again at once: to the gate
    this.#refused.set(chunk, problem);
    if (problem.kind === "lasting") this.#fail(problem);
  }

  #fail(problem) {
    if (this.#over) return;
    this.end();
    this.#events.failed(problem);
  }

  /** A file that was changed or removed looks like a network that is down. */
  async #checkFile(chunk) {
    try {
      await this.#file.slice(chunk.startByte, chunk.startByte + 1).arrayBuffer();
    } catch {
      this.#fail(ownProblem("lasting", "file_unreadable"));
    }
  }

  async #complete(answer) {
    this.finishing = true;
    this.#events.changed();
    try {
      const last = await finished(answer, this.#answered, this.#server, {
        isOver: () => this.#over,
        refused: (code) => this.#events.refused(code),
      });
      if (this.#over) return;
      this.#over = true;
      this.#events.done(last);
    } catch (error) {
      if (!error.problem) throw error;
      this.#fail(error.problem);
    }
  }

  #abort(action) {
    this.#aborting = true; // aborted requests end with a readystatechange too
    action();
    this.#aborting = false;
  }
}
