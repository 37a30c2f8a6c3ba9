/** The server these files came from: what it tells a page, and the token requests carry. */

import {ownProblem, parsed, problemOfRequest} from "./problems.js";

/** How long the settings may take. A server that is up answers in milliseconds. */
const SETTINGS_TIMEOUT_MS = 20_000;

/** An error that carries a problem (problems.js). */
export class ServerError extends Error {
  constructor(problem) {
    super(problem.message || problem.code);
    this.problem = problem;
  }
}

export class Server {
  /** The session token, "" for none. */
  token = "";

  constructor(base = new URL("../", import.meta.url)) {
    this.base = base;
  }

  /** Where chunks go, as Resumable.js calls it. */
  get target() {
    return new URL("api/upload", this.base).href;
  }

  /** Return the headers of a request. */
  headers() {
    return this.token ? {Authorization: `Bearer ${this.token}`} : {};
  }

  /** Return what GET /upload-page/settings tells. Rejects with a ServerError. */
  settings() {
    return new Promise((resolve, reject) => {
      const xhr = new XMLHttpRequest();
      xhr.open("GET", new URL("upload-page/settings", this.base));
      xhr.timeout = SETTINGS_TIMEOUT_MS;
      for (const [name, value] of Object.entries(this.headers())) xhr.setRequestHeader(name, value);
      xhr.addEventListener("loadend", () => {
        const told = parsed(xhr.responseText);
        if (xhr.status === 200 && "needs_token" in told) return resolve(told);
        const stranger = xhr.status === 200; // a portal's page, say
        reject(new ServerError(stranger ? ownProblem("passes", "unreachable") : problemOfRequest(xhr)));
      });
      xhr.send();
    });
  }
}
