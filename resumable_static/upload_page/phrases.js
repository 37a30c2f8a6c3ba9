/** Words and numbers in the reader's language. Knows no element and no upload. */

import {ENGLISH} from "./strings.js";

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

export class Phrases {
  #strings;
  #language;
  #plurals;
  #numbers = new Map();

  /** `language` is a BCP 47 tag; a wrong one counts as English. */
  constructor(language = "en", strings = {}) {
    this.#strings = {...ENGLISH, ...strings};
    this.#language = Intl.NumberFormat.supportedLocalesOf([language].filter(isTag))[0] ?? "en";
    this.#plurals = new Intl.PluralRules(this.#language);
  }

  /** Tell whether there are words for `key`. */
  has(key) {
    return key in this.#strings;
  }

  /** Return the words for `key`, with `values` in their places. */
  text(key, values = {}) {
    const entry = this.#strings[key];
    const words =
      typeof entry === "object"
        ? (entry[this.#plurals.select(values.count)] ?? entry.other)
        : (entry ?? key);
    return words.replace(/\{(\w+)\}/g, (_, name) => this.#shown(values[name] ?? ""));
  }

  /** Return bytes as people read them, by thousands: 209,715,200 → "210 MB". */
  size(bytes) {
    const [amount, unit] = scaled(bytes);
    return this.#number(amount, {
      style: "unit",
      unit,
      unitDisplay: unit === "byte" ? "long" : "short",
      maximumSignificantDigits: 3,
    });
  }

  /** Return a speed in bytes a second: "12.3 MB/s". */
  speed(bytesPerSecond) {
    const [amount, unit] = scaled(bytesPerSecond);
    return this.#number(amount, {
      style: "unit",
      unit: `${unit}-per-second`,
      maximumSignificantDigits: 3,
    });
  }

  /** Return 0 … 1 as a percentage. 100 % is only what is whole. */
  percent(part) {
    const floored = Math.floor(part * 100) / 100;
    return this.#number(floored, {style: "percent", maximumFractionDigits: 0});
  }

  /** Return a time span as precise as it is steady: "2 hr 20 min", "3 min", "40 sec". */
  duration(seconds) {
    if (seconds < 60) {
      const step = seconds > 20 ? 5 : 1;
      return this.#unit(Math.max(1, Math.ceil(seconds / step) * step), "second");
    }
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return this.#unit(minutes, "minute");
    const hours = Math.floor(minutes / 60);
    if (hours >= 48) return this.#unit(Math.round(hours / 24), "day");
    const rest = minutes % 60;
    const whole = this.#unit(hours, "hour");
    return rest && hours < 10 ? `${whole} ${this.#unit(rest, "minute")}` : whole;
  }

  #unit(amount, unit) {
    return this.#number(amount, {style: "unit", unit, unitDisplay: "short"});
  }

  #shown(value) {
    return typeof value === "number" ? this.#number(value, {}) : String(value);
  }

  #number(value, options) {
    const key = JSON.stringify(options);
    if (!this.#numbers.has(key)) {
      this.#numbers.set(key, new Intl.NumberFormat(this.#language, options));
    }
    return this.#numbers.get(key).format(value);
  }
}

function scaled(amount) {
  let rank = 0;
  // 999.6 would be rounded to 1,000 of the smaller unit.
  while (amount >= 999.5 && rank < UNITS.length - 1) {
    amount /= 1000;
    rank += 1;
  }
  return [amount, UNITS[rank]];
}

function isTag(language) {
  try {
    return Intl.getCanonicalLocales(language).length === 1;
  } catch {
    return false;
  }
}
