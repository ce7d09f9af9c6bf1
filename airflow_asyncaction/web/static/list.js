// SPDX-License-Identifier: Apache-2.0
// The list of actions: of all, of a Dag, or of a run.

import { ROOT, Source, path, query, serverNow } from "./api.js";
import { arrange, fill, make, say } from "./dom.js";
import { Filters } from "./filters.js";
import { ENDS, age, distance } from "./format.js";
import { Progress, State, actionPath, crumbs, time } from "./parts.js";

const PAGE_SIZE = 50;
const COLUMNS = ["State", "Type", "Task", "Progress", "Runner", "Created", "Duration"];

/** Shows one page of the list, and keeps it up to date. */
export class ListView {
  onChange = () => {};
  isFilled = false;
  #source = new Source();
  #rows = new Map();
  #cursors = []; // of the pages from the second one to this one
  #next = null;
  #body = make("tbody");
  #empty = make("p", { class: "empty", hidden: true });
  #newer = make("button", { type: "button", on: { click: () => this.#turn(-1) } }, "Newer");
  #older = make("button", { type: "button", on: { click: () => this.#turn(1) } }, "Older");
  #page = make("span", { class: "quiet", "aria-live": "polite" });
  #table;

  /** @param {Object} place `dagId`, `runId`: of which Dag or run only */
  constructor(place) {
    this.place = place;
    this.filters = new Filters(place, () => this.#restart());
    const head = make("tr", {}, ...COLUMNS.map((name) => make("th", { scope: "col" }, name)));
    const caption = make("caption", { class: "unseen" }, "Async actions, the newest first");
    this.#table = make("table", { class: "actions" }, caption, make("thead", {}, head), this.#body);
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

  /** Ask for the page that is shown, once. */
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
    say(this.#empty, this.filters.isSet ? "No action is like this." : "There are no async actions here yet.");
    this.#showPages();
  }

  #showPages() {
    this.#newer.disabled = this.#cursors.length === 0;
    this.#older.disabled = !this.#next;
    this.#newer.parentElement.hidden = this.#newer.disabled && this.#older.disabled;
    say(this.#page, this.#cursors.length === 0 ? "Newest" : `Page ${this.#cursors.length + 1}`);
  }

  #showAges() {
    const now = serverNow();
    for (const row of this.#rows.values()) row.showAge(now);
  }

  /** The page's address tells which page this is, for reloads, for the way back and for others. */
  get #address() {
    const search = query({ ...this.filters.asked, cursor: this.#cursors });
    return search.size > 0 ? `?${search}` : window.location.pathname;
  }

  #read() {
    this.filters.read();
    this.#open(new URLSearchParams(window.location.search).getAll("cursor"));
  }

  #open(cursors) {
    this.#cursors = cursors;
    this.#next = null;
    this.#source = new Source(); // also of a page that was shown already, all is asked for again
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
  #link = make("a");
  #runner = make("td");
  #created = make("td", { class: "nowrap" });
  #age = make("td", { class: "number nowrap" });
  #task = make("td", { class: "task" });

  constructor(place) {
    this.place = place;
    const state = make("td", {}, this.#state.element);
    const type = make("th", { scope: "row" }, this.#link);
    const progress = make("td", { class: "progress-cell" }, this.#progress.element);
    const rest = [progress, this.#runner, this.#created, this.#age];
    this.element = make("tr", {}, state, type, this.#task, ...rest);
  }

  show(action) {
    if (this.action === undefined) this.#showOnce(action);
    this.action = action;
    this.isOld = false;
    this.#state.show(action);
    this.#progress.show(action);
    say(this.#runner, action.runner ?? "");
    this.showAge(serverNow());
  }

  showAge(now) {
    if (ENDS.includes(this.action.status) && this.isOld) return;
    say(this.#age, age(this.action, now));
    const created = distance(this.action.createdAt, now);
    if (this.#created.textContent !== created) fill(this.#created, time(this.action.createdAt, created));
    this.isOld = now - Date.parse(this.action.createdAt) > 86400e3;
  }

  #showOnce(action) {
    this.#link.href = actionPath(action);
    say(this.#link, action.type);
    this.#link.title = action.type;
    const { dagId, runId, taskId, mapIndex } = action;
    if (!dagId) return;
    const task = mapIndex >= 0 ? `${taskId} [${mapIndex}]` : taskId;
    const href = path("ui", "task", dagId, runId, taskId ?? "", mapIndex);
    const attempt = action.attempt > 1 ? make("span", { class: "quiet" }, `attempt ${action.attempt}`) : null;
    if (taskId) this.#task.append(make("div", { class: "pair" }, make("a", { href, title: task }, task), attempt ?? ""));
    const rest = [!this.place.dagId && dagId, !this.place.runId && runId].filter(Boolean).join(" · ");
    if (rest) this.#task.append(make("div", { class: "quiet", title: rest }, rest));
  }
}
