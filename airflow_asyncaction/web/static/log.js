// SPDX-License-Identifier: Apache-2.0
// Log panel: follows, searches and downloads the lines that a job reported.

import { ApiError, fetchJson, path, query } from "./api.js";
import { fill, make, setText } from "./dom.js";
import { clockOf, counted, moment, plain } from "./format.js";

const MAX_LINES = 10000;
const PAUSE_MS = 150;
const AT_THE_END_PX = 24;
const SEVERITIES = { CRITICAL: 50, FATAL: 50, ERROR: 40, WARNING: 30, WARN: 30, INFO: 20, DEBUG: 10, TRACE: 10 };
const LEVELS = { 0: "All levels", 20: "Info and above", 30: "Warnings and errors", 40: "Errors" };

/** The log of one action. */
export class LogView {
  after = 0;
  #lines = [];
  #found = [];
  #changes = 0;
  #timer = null;
  #left = make("div", { class: "gap", hidden: true });
  #list = make("div", {}, this.#left);
  #pane = make(
    "div",
    { class: "lines", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Log lines" },
    this.#list,
  );
  #search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search the log" });
  #level = make("select", { "aria-label": "Level" }, ...options(LEVELS));
  #follow = make("input", { type: "checkbox", checked: true });
  #count = make("span", { class: "quiet", "aria-live": "polite" });
  #download = make("button", { type: "button" }, "Download");
  #trouble = make("p", { class: "trouble", role: "alert" });
  #empty = make("p", { class: "empty" });
  #links = make("span", { class: "links" });
  #tools;

  /**
   * @param {string} uuid
   * @param {() => string} fileName of a download
   */
  constructor(uuid, fileName) {
    this.uuid = uuid;
    const follow = make("label", { class: "check" }, this.#follow, "Follow");
    this.#tools = make("div", { class: "tools" }, this.#search, this.#level, follow, this.#download);
    const title = make("div", { class: "panel-title" }, make("h2", {}, "Log", this.#count), this.#links);
    const head = make("div", { class: "panel-head" }, title, this.#tools);
    this.element = make("section", { class: "panel log" }, head, this.#trouble, this.#empty, this.#pane);
    this.#search.addEventListener("input", () => this.#narrowSoon());
    this.#level.addEventListener("input", () => this.#narrow());
    this.#follow.addEventListener("input", () => this.#scroll());
    this.#pane.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const observer = new ResizeObserver(() => this.#refresh());
    observer.observe(this.#list); // a line has its height once it is rendered
    observer.observe(this.#pane);
    this.#download.addEventListener("click", () => this.#save(fileName()));
    this.#show();
  }

  /**
   * Add new lines.
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
      shown.narrow(this.#searched, this.#severity);
      fragment.append(shown.element);
    });
    this.#list.append(fragment);
    this.after = lastLine;
    this.#trim();
    this.#show();
  }

  /**
   * Show why there are no lines.
   * @param {...(Node|string)} why
   */
  explain(...why) {
    const text = why.map((each) => each.textContent ?? each).join("");
    if (text !== this.#empty.textContent) fill(this.#empty, ...why);
  }

  /**
   * Show a link beside the title while there are lines.
   * @param {?Element} link
   */
  link(link) {
    fill(this.#links, link);
  }

  get #searched() {
    return this.#search.value.toLowerCase();
  }

  get #severity() {
    return Number(this.#level.value);
  }

  #narrowSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#narrow(), PAUSE_MS);
  }

  #narrow() {
    for (const line of this.#lines) line.narrow(this.#searched, this.#severity);
    this.#show();
  }

  /** Remove the oldest lines and the gaps between them. */
  #trim() {
    if (this.#lines.length <= MAX_LINES) return;
    this.#lines.splice(0, this.#lines.length - MAX_LINES);
    const [{ element, number }] = this.#lines;
    while (this.#left.nextSibling !== element) this.#left.nextSibling.remove();
    this.#left.hidden = false;
    setText(this.#left, `${counted(number - 1, "earlier line")} not shown. Download contains all lines that the server has`);
  }

  #show() {
    this.#settle();
    const all = this.#lines.length;
    const isNarrowed = this.#searched !== "" || this.#severity > 0;
    this.#found = isNarrowed ? this.#lines.filter((line) => !line.element.hidden) : this.#lines;
    const lines = this.#left.hidden ? counted(all, "line") : `the last ${counted(all, "line")}`;
    setText(this.#count, isNarrowed ? `${this.#found.length.toLocaleString("en")} of ${lines}` : all > 0 ? lines : "");
    this.#pane.style.setProperty("--digits", String(this.after).length);
    this.#pane.hidden = all === 0;
    this.#tools.hidden = all === 0;
    this.#links.hidden = all === 0; // the message for an empty log has its own links
    this.#empty.hidden = all > 0;
  }

  #scroll() {
    if (this.#follow.checked) this.#pane.scrollTop = this.#pane.scrollHeight;
  }

  /** Scroll in the next frame. Until the frame after it, scroll events do not come from the user. */
  #settle() {
    this.#changes += 1;
    requestAnimationFrame(() => {
      this.#refresh();
      requestAnimationFrame(() => (this.#changes -= 1));
    });
  }

  #refresh() {
    this.#scroll();
    this.#mark();
  }

  /** Highlight only the matches on the screen. Highlighting thousands of lines would take seconds. */
  #mark() {
    const { top, bottom } = this.#pane.getBoundingClientRect();
    let [from, to] = [0, this.#found.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.#found[middle].rectangle.bottom < top) from = middle + 1;
      else to = middle;
    }
    for (; this.#found[from]?.rectangle.top < bottom; from += 1) this.#found[from].mark(this.#searched);
  }

  #onScroll() {
    this.#mark();
    if (this.#changes > 0) return;
    const { scrollHeight, scrollTop, clientHeight } = this.#pane;
    this.#follow.checked = scrollHeight - scrollTop - clientHeight < AT_THE_END_PX;
  }

  async #save(name) {
    const lines = [...this.#lines];
    this.#download.disabled = true;
    setText(this.#trouble, "");
    try {
      save(name, [...(await this.#readBefore(lines[0].number)), ...lines.map((line) => line.text)]);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(this.#trouble, `${error.message}.`);
    } finally {
      this.#download.disabled = false;
    }
  }

  async #readBefore(number) {
    const texts = [];
    let isMore = true;
    for (let after = 0; isMore && after < number - 1; ) {
      const page = await fetchJson(`${path("actions", this.uuid, "logs")}?${query({ after })}`);
      texts.push(...page.lines.slice(0, Math.max(0, number - page.firstLine)).map(formatLine));
      after = page.lastLine;
      isMore = page.hasMore;
    }
    return texts;
  }
}

class Line {
  #line;
  #message;
  #marked = "";
  #shown = make("span", { class: "text" });

  constructor(number, line) {
    this.number = number;
    this.#line = line;
    this.#message = messageOf(line);
    const level = levelOf(line);
    this.severity = SEVERITIES[level] ?? 20;
    this.element = make(
      "div",
      { class: "line", "data-severity": this.severity },
      make("span", { class: "line-number", "aria-hidden": "true" }, number),
      make("span", { class: "line-time", title: isTimed(line) ? moment(line.time) : null }, isTimed(line) ? clockOf(line.time) : ""),
      make("span", { class: "line-level" }, level),
      this.#shown,
    );
    fill(this.#shown, this.#message);
  }

  /** Format a line for the download. */
  get text() {
    return formatLine(this.#line);
  }

  get rectangle() {
    return this.element.getBoundingClientRect();
  }

  narrow(searched, severity) {
    this.element.hidden = this.severity < severity || !this.#message.toLowerCase().includes(searched);
  }

  mark(searched) {
    if (searched === this.#marked) return;
    this.#marked = searched;
    fill(this.#shown, ...highlight(this.#message, searched));
  }
}

function isTimed({ time }) {
  return typeof time === "number";
}

function levelOf({ level }) {
  return String(level ?? "").toUpperCase();
}

function messageOf({ message }) {
  return plain(String(message ?? ""));
}

function formatLine(line) {
  const at = isTimed(line) ? new Date(line.time).toISOString() : "";
  return `${[at, levelOf(line), messageOf(line)].filter(Boolean).join(" ")}\n`;
}

function save(name, texts) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(texts, { type: "text/plain;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function highlight(message, searched) {
  if (searched === "") return [message];
  const parts = [];
  const lower = message.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(searched); at >= 0; at = lower.indexOf(searched, from)) {
    parts.push(message.slice(from, at), make("mark", {}, message.slice(at, at + searched.length)));
    from = at + searched.length;
  }
  return [...parts, message.slice(from)];
}

function options(names) {
  return Object.entries(names).map(([value, name]) => make("option", { value }, name));
}
