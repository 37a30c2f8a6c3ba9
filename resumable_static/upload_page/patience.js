/** How long to wait before another try. */

/** Seconds before the first, second … repetition, where the server does not say. */
const BACKOFF_SECONDS = [1, 2, 4, 8, 15];

/** Return the milliseconds to wait after failure number `count` (from 1); the server may ask for more. */
export function pauseAfter(count, retryAfterSeconds = 0) {
  const planned = BACKOFF_SECONDS[Math.min(count, BACKOFF_SECONDS.length) - 1];
  const jitter = 0.8 + 0.4 * Math.random(); // all the world must not come back at once
  return Math.max(planned, retryAfterSeconds) * jitter * 1000;
}

/** Resolve after so many milliseconds, or as soon as the network is back. */
export function patience(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(over, milliseconds);
    addEventListener("online", over);
    function over() {
      clearTimeout(timer);
      removeEventListener("online", over);
      resolve();
    }
  });
}
