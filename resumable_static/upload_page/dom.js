/** Elements made without HTML: what a file is called is never parsed. */

const SVG = "http://www.w3.org/2000/svg";

/** Line drawings on a grid of 24, after the state or action they stand for. */
const PATHS = {
  upload: "M12 16V4M7 9l5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  waiting: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 7v5l3 2",
  running: "M12 20V5M6 11l6-6 6 6",
  paused: "M9 6v12M15 6v12",
  finishing: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  done: "M5 12.5l4.5 4.5L19 7.5",
  failed: "M12 4L2.5 20h19zM12 10v4.5M12 17.2v.3",
  cancelled: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M6 6l12 12",
  pause: "M9 6v12M15 6v12",
  resume: "M8 5l11 7-11 7z",
  retry: "M20 12a8 8 0 1 1-2.5-5.8L20 8.5M20 3.5v5h-5",
  cancel: "M6 6l12 12M18 6L6 18",
  download: "M12 4v12M7 11l5 5 5-5M4 20h16",
};

/** Return a new element: properties (`class`, `on…` and attributes with a hyphen too), children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.includes("-") || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Return a drawing; what it means is said in words beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  svg.dataset.icon = name;
  return svg;
}

/** Put another drawing in the place of one, unless it is the same. */
export function showIcon(holder, name) {
  if (holder.firstElementChild?.dataset.icon !== name) holder.replaceChildren(icon(name));
}

/** Set an element's text, unless it is the same: a screen reader must not hear it again. */
export function showText(holder, text) {
  if (holder.textContent !== text) holder.textContent = text;
}
