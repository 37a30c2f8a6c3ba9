/**
 * What an answer that is not a success means for an upload, by status and code.
 *
 * `passes`: try again, whoever waits long enough gets through. `token`: needs a new one.
 * `lasting`: no repetition helps until a person has done something.
 */

const REFUSING = new Set([401, 403]);
const PASSING = new Set([0, 408, 421, 423, 425, 429, 502, 503, 504, 507]);

/** Codes of problems of the file itself: this one will never get there. */
const HOPELESS = new Set(["file_unreadable", "upload_too_large", "invalid_name", "uri_too_long"]);

/** Words of this page for what a proxy or the framework answers without one of our codes. */
const CODES = new Map([
  [404, "not_found"],
  [413, "piece_too_large"],
  [414, "uri_too_long"],
  [500, "internal_error"],
]);

/** Return the problem that an answer tells of; `header(name)` returns a header or null. */
export function problemOf(status, text, header) {
  const told = parsed(text);
  const kind = REFUSING.has(status) ? "token" : PASSING.has(status) ? "passes" : "lasting";
  return {
    kind,
    status,
    code: CODES.get(status) ?? told.code ?? (PASSING.has(status) ? "unreachable" : "unknown"),
    message: told.error ?? "",
    requestId: header("X-Request-ID"),
    retryAfterSeconds: Number(header("Retry-After")) || 0,
  };
}

/** Return the problem that a finished XMLHttpRequest tells of. */
export function problemOfRequest(xhr) {
  return problemOf(xhr.status, xhr.responseText, (name) => xhr.getResponseHeader(name));
}

/** Return a problem of this page's own making. */
export function ownProblem(kind, code) {
  return {kind, code, status: 0, message: "", requestId: null, retryAfterSeconds: 0};
}

/** Tell whether another try of the same file is in vain. */
export function isHopeless(problem) {
  return HOPELESS.has(problem.code);
}

/** Return a body of ours as an object; anything else as an empty one. */
export function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

/** Return what a person should read of a lasting problem of `item`. */
export function problemText(phrases, problem, item, limitBytes) {
  const words = {
    status: problem.status,
    message: problem.message,
    size: phrases.size(item.file.size),
    limit: limitBytes === null ? "" : phrases.size(limitBytes),
  };
  const unknownLimit = problem.code === "upload_too_large" && limitBytes === null;
  const key = `problem.${problem.code}${unknownLimit ? "_unknown" : ""}`;
  const text = phrases.text(phrases.has(key) ? key : "problem.unknown", words);
  const ours = problem.status >= 500 && problem.requestId;
  return ours ? `${text} ${phrases.text("requestId", {id: problem.requestId})}` : text;
}
