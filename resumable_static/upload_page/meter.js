/**
 * How fast bytes go, smoothed so that a person can read it: an exponential average over about
 * five seconds, corrected for its start, and no time left before it means something.
 */

/** Older bytes than this count for little. */
const MEMORY_SECONDS = 5;

/** A speed measured over less than this says nothing about the hours to come. */
const SETTLED_SECONDS = 2;

/** After so long without a byte nobody should be told a speed, or when it will be done. */
const STILL_SECONDS = 4;

export class Meter {
  #now;
  #bytes = 0;
  #average = 0;
  #weight = 0;
  #started = null;
  #sampled = null;
  #moved = null;

  /** `now` returns milliseconds on a clock that only goes forward. */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /** Count bytes that have just been sent. */
  add(bytes) {
    if (this.#started === null) this.#started = this.#sampled = this.#now();
    this.#bytes += bytes;
    this.#moved = this.#now();
  }

  /** Take a sample; call it about once or twice a second while bytes go. */
  sample() {
    if (this.#sampled === null) return;
    const now = this.#now();
    const seconds = (now - this.#sampled) / 1000;
    if (seconds < 0.2) return; // two calls in a row: no division by next to nothing
    const share = 1 - Math.exp(-seconds / MEMORY_SECONDS);
    this.#average += share * (this.#bytes / seconds - this.#average);
    this.#weight += share * (1 - this.#weight);
    this.#bytes = 0;
    this.#sampled = now;
  }

  /** Bytes a second; 0 while nothing is known, or nothing moves. */
  get speed() {
    const still = this.#moved === null || this.#now() - this.#moved > STILL_SECONDS * 1000;
    return this.#weight && !still ? this.#average / this.#weight : 0;
  }

  /** Return the seconds that `bytes` will take, null while nobody can know. */
  secondsFor(bytes) {
    const settled = this.#started !== null && this.#now() - this.#started > SETTLED_SECONDS * 1000;
    return settled && this.speed ? bytes / this.speed : null;
  }

  /** Forget all: after a pause the network may be another one. */
  reset() {
    this.#bytes = this.#average = this.#weight = 0;
    this.#started = this.#sampled = this.#moved = null;
  }
}
