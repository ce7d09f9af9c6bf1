// SPDX-License-Identifier: Apache-2.0
// The lines a job has reported: they follow, and are searched and downloaded here.

import { fill, make, say } from "./dom.js";
import { clockOf, counted, plain } from "./format.js";

const PAUSE_MS = 150;
const AT_THE_END_PX = 24;
const SEVERITIES = { CRITICAL: 50, FATAL: 50, ERROR: 40, WARNING: 30, WARN: 30, INFO: 20, DEBUG: 10, TRACE: 10 };
const LEVELS = { 0: "All levels", 20: "Info and above", 30: "Warnings and errors", 40: "Errors" };

/** The log of one action. */
export class LogView {
  after = 0;
  #lines = [];
  #timer = null;
  #pane = make("div", { class: "lines", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Log lines" });
  #search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search the log" });
  #level = make("select", { "aria-label": "Level" }, ...options(LEVELS));
  #follow = make("input", { type: "checkbox", checked: true });
  #count = make("span", { class: "quiet", "aria-live": "polite" });
  #download = make("button", { type: "button", disabled: true }, "Download");
  #empty = make("p", { class: "empty" });

  /** @param {() => string} fileName of a download */
  constructor(fileName) {
    const follow = make("label", { class: "check" }, this.#follow, "Follow");
    const tools = make("div", { class: "tools" }, this.#search, this.#level, follow, this.#download);
    const head = make("div", { class: "panel-head" }, make("h2", {}, "Log", this.#count), tools);
    this.element = make("section", { class: "panel log" }, head, this.#empty, this.#pane);
    this.#search.addEventListener("input", () => this.#soon());
    this.#level.addEventListener("input", () => this.#narrow());
    this.#follow.addEventListener("input", () => this.#scroll());
    this.#pane.addEventListener("scroll", () => this.#notice(), { passive: true });
    this.#download.addEventListener("click", () => this.#save(fileName()));
    this.#show();
  }

  /**
   * Add the lines that have come.
   * @param {{firstLine: number, lastLine: number, lines: Object[]}} page
   */
  append({ firstLine, lastLine, lines }) {
    if (lines.length === 0) return;
    const fragment = document.createDocumentFragment();
    const missing = firstLine - this.after - 1;
    if (missing > 0) fragment.append(make("div", { class: "gap" }, `${counted(missing, "line")} dropped here`));
    lines.forEach((line, index) => {
      const shown = new Line(firstLine + index, line);
      this.#lines.push(shown);
      shown.narrow(this.#sought, this.#severity);
      fragment.append(shown.element);
    });
    this.#pane.append(fragment);
    this.after = lastLine;
    this.#show();
    this.#scroll();
  }

  /**
   * Say why there are no lines.
   * @param {...(Node|string)} why
   */
  explain(...why) {
    fill(this.#empty, ...why);
  }

  get #sought() {
    return this.#search.value.toLowerCase();
  }

  get #severity() {
    return Number(this.#level.value);
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#narrow(), PAUSE_MS);
  }

  #narrow() {
    for (const line of this.#lines) line.narrow(this.#sought, this.#severity);
    this.#show();
    this.#scroll();
  }

  #show() {
    const all = this.#lines.length;
    const isNarrowed = this.#sought !== "" || this.#severity > 0;
    const found = isNarrowed ? this.#lines.filter((line) => !line.element.hidden).length : all;
    say(this.#count, isNarrowed ? `${found} of ${counted(all, "line")}` : all > 0 ? counted(all, "line") : "");
    this.#pane.hidden = all === 0;
    this.#empty.hidden = all > 0;
    this.#download.disabled = all === 0;
  }

  #scroll() {
    if (this.#follow.checked) this.#pane.scrollTop = this.#pane.scrollHeight;
  }

  #notice() {
    const { scrollHeight, scrollTop, clientHeight } = this.#pane;
    this.#follow.checked = scrollHeight - scrollTop - clientHeight < AT_THE_END_PX;
  }

  #save(name) {
    const blob = new Blob(this.#lines.map((line) => line.text), { type: "text/plain;charset=utf-8" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}

class Line {
  #message;
  #shown = make("span", { class: "text" });

  constructor(number, { time, level, message }) {
    this.#message = plain(String(message ?? ""));
    this.level = String(level ?? "").toUpperCase();
    this.severity = SEVERITIES[this.level] ?? 20;
    this.time = typeof time === "number" ? time : null;
    const at = this.time === null ? "" : clockOf(this.time);
    this.element = make(
      "div",
      { class: "line", "data-severity": this.severity },
      make("span", { class: "line-number", "aria-hidden": "true" }, number),
      make("span", { class: "line-time" }, at),
      make("span", { class: "line-level" }, this.level),
      this.#shown,
    );
    this.narrow("", 0);
  }

  /** As it is in a file. */
  get text() {
    const at = this.time === null ? "" : new Date(this.time).toISOString();
    return `${[at, this.level, this.#message].filter(Boolean).join(" ")}\n`;
  }

  narrow(sought, severity) {
    this.element.hidden = this.severity < severity || !this.#message.toLowerCase().includes(sought);
    if (sought === this.sought || (this.element.hidden && !this.sought)) return;
    this.sought = sought;
    fill(this.#shown, ...marked(this.#message, this.element.hidden ? "" : sought));
  }
}

function marked(message, sought) {
  if (sought === "") return [message];
  const parts = [];
  const lower = message.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(sought); at >= 0; at = lower.indexOf(sought, from)) {
    parts.push(message.slice(from, at), make("mark", {}, message.slice(at, at + sought.length)));
    from = at + sought.length;
  }
  return [...parts, message.slice(from)];
}

function options(names) {
  return Object.entries(names).map(([value, name]) => make("option", { value }, name));
}
