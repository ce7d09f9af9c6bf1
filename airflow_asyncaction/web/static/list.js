// SPDX-License-Identifier: Apache-2.0
// The list of actions: all, those of a Dag, or those of a Dag run.

import { ROOT, Source, path, query, serverNow } from "./api.js";
import { arrange, fill, make, setText } from "./dom.js";
import { Filters } from "./filters.js";
import { ENDS, age, distance, plain, taskName } from "./format.js";
import { Progress, State, actionPath, crumbs, time } from "./parts.js";

const PAGE_SIZE = 50;
const COLUMNS = ["State", "Type", "Task", "Progress or error", "Runner", "Created", "Duration"];

/** Shows and updates one page of the list. */
export class ListView {
  onChange = () => {};
  isFilled = false;
  #source = new Source();
  #rows = new Map();
  #cursors = []; // cursors of the second to the current page
  #next = null;
  #body = make("tbody", { role: "rowgroup" }); // explicit roles: on a phone, CSS removes the table layout
  #empty = make("p", { class: "empty", hidden: true });
  #newer = make("button", { type: "button", on: { click: () => this.#turn(-1) } }, "Newer");
  #older = make("button", { type: "button", on: { click: () => this.#turn(1) } }, "Older");
  #page = make("span", { class: "quiet", "aria-live": "polite" });
  #table;

  /** @param {Object} place `dagId`, `runId`: restrict the list */
  constructor(place) {
    this.place = place;
    this.filters = new Filters(place, () => this.#restart());
    const names = COLUMNS.map((name) => make("th", { scope: "col", role: "columnheader" }, name));
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...names));
    const caption = make("caption", { class: "unseen" }, "Async actions, newest first");
    this.#table = make("table", { class: "actions", role: "table" }, caption, head, this.#body);
    const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Actions" }, this.#table);
    const pages = make("nav", { class: "pages", "aria-label": "Pages" }, this.#newer, this.#page, this.#older);
    const title = make("h1", {}, place.runId ?? place.dagId ?? "Async actions");
    const header = make("header", {}, place.dagId ? crumbs(place) : null, make("div", { class: "title" }, title));
    this.element = make("div", { class: "list" }, header, this.filters.element, scroll, this.#empty, pages);
    this.#read();
    window.addEventListener("popstate", () => {
      this.#read();
      this.onChange();
    });
    setInterval(() => document.hidden || this.#showAges(), 1000);
  }

  /** Fetch the current page once. */
  async tick() {
    const url = this.#url;
    await this.#source.get(url, (found) => url === this.#url && this.#show(found));
  }

  get #url() {
    const { dagId: dag, runId: run } = this.place;
    const cursor = this.#cursors.at(-1);
    const fields = { ...this.filters.fields, ...(dag && { dag }), ...(run && { run }), limit: PAGE_SIZE, cursor };
    return `${ROOT}/actions?${query(fields)}`;
  }

  #show({ actions, nextCursor }) {
    this.isFilled = true;
    this.#next = nextCursor;
    const rows = new Map();
    for (const action of actions) {
      const row = this.#rows.get(action.uuid) ?? new Row(this.place);
      row.show(action);
      rows.set(action.uuid, row);
    }
    this.#rows = rows;
    arrange(this.#body, [...rows.values()].map((row) => row.element));
    this.#table.hidden = rows.size === 0;
    this.#empty.hidden = rows.size > 0;
    setText(this.#empty, this.filters.isSet ? "No actions match these filters." : "There are no async actions yet.");
    this.#showPages();
  }

  #showPages() {
    this.#newer.disabled = this.#cursors.length === 0;
    this.#older.disabled = !this.#next;
    this.#newer.parentElement.hidden = this.#newer.disabled && this.#older.disabled;
    setText(this.#page, this.#cursors.length === 0 ? "Newest" : `Page ${this.#cursors.length + 1}`);
  }

  #showAges() {
    const now = serverNow();
    for (const row of this.#rows.values()) row.showAge(now);
  }

  /** Store the current page in the address, for reloads, the Back button and links. */
  get #address() {
    const search = query({ ...this.filters.values, cursor: this.#cursors });
    return search.size > 0 ? `?${search}` : window.location.pathname;
  }

  #read() {
    this.filters.read();
    this.#open(new URLSearchParams(window.location.search).getAll("cursor"));
  }

  #open(cursors) {
    this.#cursors = cursors;
    this.#next = null;
    this.#source = new Source(); // fetch everything again, even for a page that was shown before
    this.#showPages();
  }

  #turn(step) {
    this.#open(step > 0 ? [...this.#cursors, this.#next] : this.#cursors.slice(0, -1));
    window.history.pushState(null, "", this.#address);
    this.onChange();
  }

  #restart() {
    this.#open([]);
    window.history.replaceState(null, "", this.#address);
    this.onChange();
  }
}

class Row {
  #state = new State();
  #progress = new Progress();
  #error = new ShortError();
  #link = make("a");
  #runner = cell("runner");
  #created = cell("created");
  #age = cell("duration number");
  #task = cell("task");

  constructor(place) {
    this.place = place;
    const state = cell("state-cell", this.#state.element);
    const type = make("th", { scope: "row", role: "rowheader", class: "type" }, this.#link);
    const progress = cell("progress-cell", this.#progress.element, this.#error.element);
    const rest = [progress, this.#runner, this.#created, this.#age];
    this.element = make("tr", { role: "row" }, state, type, this.#task, ...rest);
  }

  show(action) {
    if (this.action === undefined) this.#showOnce(action);
    this.action = action;
    this.isOld = false;
    this.#state.show(action);
    this.#error.show(action);
    this.#progress.show(this.#error.element.hidden ? action : { ...action, message: null });
    setText(this.#runner, action.runner ?? "");
    this.showAge(serverNow());
  }

  showAge(now) {
    if (ENDS.includes(this.action.status) && this.isOld) return;
    setText(this.#age, age(this.action, now));
    const created = distance(this.action.createdAt, now);
    if (this.#created.textContent !== created) fill(this.#created, time(this.action.createdAt, created));
    this.isOld = now - Date.parse(this.action.createdAt) > 86400e3;
  }

  #showOnce(action) {
    this.#link.href = actionPath(action);
    setText(this.#link, action.type);
    this.#link.title = action.type;
    const { dagId, runId, taskId, mapIndex } = action;
    if (!dagId) return;
    const task = taskName(action);
    const href = path("ui", "task", dagId, runId, taskId ?? "", mapIndex);
    if (taskId) this.#task.append(make("a", { href, title: task }, task));
    const attempt = action.attempt > 1 && `attempt ${action.attempt}`;
    const rest = [attempt, !this.place.dagId && dagId, !this.place.runId && runId].filter(Boolean).join(" · ");
    if (rest) this.#task.append(make("div", { class: "quiet", title: rest }, rest));
  }
}

/** Error of an action in one line. */
class ShortError {
  #name = make("span", { class: "error-name" });
  #message = make("span");
  element = make("div", { class: "short-error", hidden: true }, this.#name, this.#message);

  show({ errorName, errorMessage, status }) {
    this.element.hidden = !ENDS.includes(status) || !errorName;
    this.element.dataset.state = status;
    setText(this.#name, errorName ?? "");
    setText(this.#message, errorMessage ? `: ${plain(errorMessage)}` : "");
    this.element.title = this.element.textContent;
  }
}

function cell(name, ...children) {
  return make("td", { role: "cell", class: name }, ...children);
}
