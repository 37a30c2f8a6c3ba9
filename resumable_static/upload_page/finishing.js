/** The time between the last chunk and the finished file: none on a disk, a while in a bucket. */

import {patience} from "./patience.js";
import {ownProblem, parsed, problemOf} from "./problems.js";
import {ServerError} from "./server.js";

/** When to ask, and ask again. */
const PAUSES_MS = [500, 1000, 2000, 5000];

/**
 * Return the server's last word on a file that is all there. `answer` is what it said when the
 * last chunk came, `url` where to ask. `events`: `isOver()`, whether nobody waits any more;
 * `refused(code)`, called when a new token is needed. Rejects with a ServerError.
 */
export async function finished(answer, url, server, events) {
  for (let asked = 0; !answer.complete && !events.isOver(); asked += 1) {
    await patience(PAUSES_MS[Math.min(asked, PAUSES_MS.length - 1)]);
    answer = (await news(url, server, events)) ?? answer;
  }
  return answer;
}

async function news(url, server, events) {
  const {token} = server;
  const response = await fetch(url, {headers: server.headers()}).catch(() => null);
  if (response === null) return null; // the next question may come through
  const text = await response.text().catch(() => "");
  if (response.status === 200) {
    const told = parsed(text);
    if (told.received < told.total_chunks) throw new ServerError(ownProblem("lasting", "parts_lost"));
    return told;
  }
  if (response.status === 204) throw new ServerError(ownProblem("lasting", "parts_lost"));
  const problem = problemOf(response.status, text, (name) => response.headers.get(name));
  if (problem.kind === "lasting") throw new ServerError(problem);
  if (problem.kind === "token" && token === server.token) events.refused(problem.code);
  return null;
}
