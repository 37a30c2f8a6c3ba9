/**
 * How a page gets its session token, and a new one when the server refuses the old one: from a
 * function or an address of the application that embeds it, or from a person who pastes it.
 *
 * Events: `change`, when `state` has become another one.
 */

import {patience, pauseAfter} from "./patience.js";

/** A token that is refused sooner than this was no good from its start. */
const FRESH_MS = 10_000;

export class Permission extends EventTarget {
  /** "fine"; "asking" the application; "wanted": a person has to act. */
  state = "fine";

  /** Why a token is needed: token_missing, token_expired or another code of the server's. */
  reason = "";

  #host;
  #server;
  #given = null; // resolves the promise of whoever waits for a token
  #obtained = -Infinity;
  #disappointments = 0;

  /** `host` has `getToken` or `tokenUrl`, or neither. */
  constructor(host, server) {
    super();
    this.#host = host;
    this.#server = server;
  }

  /** Resolve once there is a new token; `reason` is why the present one does not do. */
  async obtain(reason) {
    this.reason = reason;
    const given = new Promise((resolve) => {
      this.#given = resolve;
    });
    this.#askApplication(reason);
    await given;
    this.#become("fine");
  }

  /** Take a token from wherever it comes. */
  give(token) {
    if (token === this.#server.token && this.state === "fine") return;
    this.#server.token = token;
    this.#obtained = performance.now();
    this.#given?.();
    this.#given = null;
  }

  /** Ask the application once more, at a person's wish. */
  again() {
    this.#askApplication(this.reason);
  }

  async #askApplication(reason) {
    const ask = this.#host.getToken ?? (this.#host.tokenUrl && (() => fetched(this.#host.tokenUrl)));
    if (!ask) return this.#become("wanted");
    this.#become("asking");
    const fresh = performance.now() - this.#obtained < FRESH_MS;
    this.#disappointments = fresh ? this.#disappointments + 1 : 0;
    for (;;) {
      // The first time at once; an application that hands out refused tokens is not hammered.
      if (this.#disappointments) await patience(pauseAfter(this.#disappointments));
      try {
        const token = this.#given && (await ask(reason));
        if (!this.#given) return; // it has come by another way meanwhile
        if (typeof token === "string" && token) return this.give(token);
        return this.#become("wanted");
      } catch {
        this.#disappointments += 1; // its server may be down too
      }
    }
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}

/** Return the token out of what POST /upload/session answered, handed on by the application. */
async function fetched(url) {
  const response = await fetch(url, {cache: "no-store", headers: {Accept: "application/json"}});
  if (response.status === 401 || response.status === 403) return ""; // a person must log in there
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return (await response.json()).token;
}
