/** A file in the list, what is known of it, and how the server will know it again. */

import {Meter} from "./meter.js";

/** Chunks of ordinary files: small enough that a cut costs little, large enough to be fast. */
const CHUNK_BYTES = 8 * 1024 * 1024;

/** Larger files get larger chunks, up to the server's limit: each is one question to it. */
const CHUNKS_WANTED = 1000;

const STATES = ["waiting", "running", "paused", "finishing", "done", "failed", "cancelled"];

export class Item {
  /** One of STATES. */
  state = "waiting";

  /** Why it failed, or what holds it up; null otherwise (problems.js). */
  problem = null;

  /** When the next try is, in ms since 1970; null without one. */
  retryAt = null;

  /** Bytes the server has, or that are on their way. */
  loaded = 0;

  /** How fast it goes. */
  meter = new Meter();

  /** What the server says of the finished file. */
  answer = null;

  /** `path` is the name with its folders, as it is to be kept. */
  constructor(file, path) {
    this.file = file;
    this.path = path;
    this.name = path.slice(path.lastIndexOf("/") + 1);
    this.folder = path.slice(0, -this.name.length);
    this.identifier = identifierOf(file, path);
  }

  get size() {
    return this.file.size;
  }

  /** Part of it that is there: 0 … 1. */
  get progress() {
    if (this.state === "done") return 1;
    return this.size ? Math.min(1, this.loaded / this.size) : 0;
  }
}

/** Return how many of `items` are in which state, and the bytes of those that can get done. */
export function totalsOf(items) {
  const totals = {count: 0, bytes: 0, loaded: 0, rest: 0};
  for (const state of STATES) totals[state] = 0;
  for (const item of items) {
    totals[item.state] += 1;
    if (item.state === "cancelled") continue;
    totals.count += 1;
    if (item.state === "failed") continue;
    totals.bytes += item.size;
    totals.loaded += item.progress * item.size;
    // What the time left is about: paused files take none.
    if (item.state === "running" || item.state === "waiting") {
      totals.rest += Math.max(0, item.size - item.loaded);
    }
  }
  return totals;
}

/**
 * Return the name under which the server takes up an unfinished file again.
 *
 * Resumable.js' own is size and name without its special characters, the same for ä.txt and
 * ö.txt. The time of the last change is in ours: an edited file never goes on in the old one.
 */
export function identifierOf(file, path) {
  return `${file.size}-${file.lastModified}-${hash(path)}`;
}

/** Return the chunk size for a file, a function of nothing that a reload changes. */
export function chunkBytes(size, leastBytes, mostBytes) {
  let bytes = CHUNK_BYTES;
  while (bytes * CHUNKS_WANTED < size) bytes *= 2;
  return Math.max(leastBytes, Math.min(bytes, mostBytes));
}

/** 106 bits of a text: two FNV-1a-like hashes, mixed. Not secret, only distinct. */
function hash(text) {
  let [a, b, c, d] = [0xdeadbeef, 0x41c6ce57, 0x9e3779b9, 0x85ebca6b];
  for (let i = 0; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
    c = Math.imul(c ^ code, 2246822519);
    d = Math.imul(d ^ code, 3266489917);
  }
  const mixed = [a ^ (b >>> 15), b ^ (c >>> 13), c ^ (d >>> 16), d ^ (a >>> 14)];
  return mixed.map((word) => (Math.imul(word, 0x2c1b3c6d) >>> 0).toString(16).padStart(8, "0")).join("");
}
