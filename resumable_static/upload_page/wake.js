/** A phone whose screen goes dark stops uploading: keep it on while files are on their way. */

let wanted = false;
let lock = null;

/** Keep the screen on, or no more; browsers allow it on https and on this very machine only. */
export function keepAwake(wish) {
  if (wish === wanted) return;
  wanted = wish;
  settle();
}

// A page in the background loses its lock.
document.addEventListener("visibilitychange", settle);

async function settle() {
  if (!navigator.wakeLock || document.visibilityState !== "visible") return;
  try {
    if (wanted && (!lock || lock.released)) lock = await navigator.wakeLock.request("screen");
    else if (!wanted) await lock?.release();
  } catch {
    // an empty battery, or a setting: the upload goes on without
  }
}
