/**
 * Files out of what a person chooses or drops: `[{file, path}]`, folders walked to their end.
 *
 * Resumable.js can do this too, but leaves out what a folder holds beyond its first hundred
 * entries, because Chromium hands them out by the hundred.
 */

/** Files that desktops leave behind, which nobody means to upload. */
const LITTER = new Set([".DS_Store", "Thumbs.db", "desktop.ini"]);

/** As people count: IMG_9 before IMG_10. */
const ORDER = new Intl.Collator(undefined, {numeric: true});

/** Return the files of an <input type="file">, with their folders if it chose a folder. */
export function chosen(input) {
  const entries = [...input.files].map((file) => ({
    file,
    path: file.webkitRelativePath || file.name,
  }));
  if (!input.webkitdirectory) return entries;
  return entries
    .filter(({file}) => !LITTER.has(file.name))
    .sort((a, b) => ORDER.compare(a.path, b.path));
}

/**
 * Return a promise of the files of a drop, folders included. Call it while the event lasts:
 * afterwards the browser hides its items. What cannot be read is left out and counted.
 */
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const roots = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  let unreadable = 0;
  for (const root of roots.filter(Boolean)) {
    if (root instanceof File) found.push({file: root, path: root.name});
    else unreadable += await walk(root, found);
  }
  return {entries: found, unreadable};
}

/** Tell whether a drag carries files; what else is dragged is none of our business. */
export function carriesFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

async function walk(root, found) {
  let unreadable = 0;
  const open = [root];
  while (open.length) {
    const entry = open.shift();
    try {
      if (entry.isDirectory) {
        open.unshift(...(await children(entry)));
      } else if (entry === root || !LITTER.has(entry.name)) {
        const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
        found.push({file, path: entry.fullPath.replace(/^\//, "")});
      }
    } catch {
      unreadable += 1;
    }
  }
  return unreadable;
}

/** Return all entries of a folder in the order of their names. */
async function children(directory) {
  const reader = directory.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    all.push(...some);
  }
  return all.sort((a, b) => ORDER.compare(a.name, b.name));
}
