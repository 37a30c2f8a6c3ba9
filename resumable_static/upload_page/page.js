/**
 * The page at /upload-page, which has no application around it: its token comes in the
 * address's fragment (`#token=…`, never sent to a server), or is pasted.
 */

import "./longhaul-upload.js";

/** The token outlives a reload, and not the tab. */
const KEY = `longhaul.token ${new URL("../", import.meta.url)}`;

const upload = document.createElement("longhaul-upload");
const title = document.title;
let unfinished = false;

upload.setAttribute("ask-token", "");
upload.token = tokenOfAddress() || kept();
upload.addEventListener("longhaul-ready", () => keep(upload.token));
upload.addEventListener("longhaul-progress", ({detail: totals}) => {
  unfinished = totals.running + totals.waiting + totals.paused > 0;
  const percent = totals.bytes ? Math.floor((100 * totals.loaded) / totals.bytes) : 0;
  document.title = unfinished ? `${percent} % · ${title}` : title;
});
document.querySelector("main").replaceChildren(upload);

// A link with another token was pasted into this tab's address bar.
addEventListener("hashchange", () => {
  const token = tokenOfAddress();
  if (token) upload.token = token;
});

// A drop beside the zone would open the file here, and the list would be gone.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.types.includes("Files")) upload.drop(event.dataTransfer);
});

addEventListener("beforeunload", (event) => {
  if (unfinished) event.preventDefault();
});

/** Return the fragment's token and take it out of the address: it is not for bookmarks. */
function tokenOfAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
  if (!token) return "";
  history.replaceState(null, "", location.pathname + location.search);
  keep(token);
  return token;
}

function kept() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

function keep(token) {
  try {
    if (token) sessionStorage.setItem(KEY, token);
  } catch {
    // after a reload it has to be pasted again
  }
}
