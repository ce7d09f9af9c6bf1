// SPDX-License-Identifier: Apache-2.0
// View of one action: state, log, timeline, inputs and outputs, and the Stop button.

import { taskLog } from "./airflow.js";
import { ApiError, ROOT, Source, fetchJson, path, query, serverNow } from "./api.js";
import { fill, make, setText } from "./dom.js";
import { FileTable, JsonPanel } from "./contents.js";
import { ErrorBox } from "./error.js";
import { ENDS, age, taskName } from "./format.js";
import { LogView } from "./log.js";
import { Facts, Progress, State, crumbs, notice, time } from "./parts.js";
import { StopButton } from "./stop.js";
import { Timeline, formatExit } from "./timeline.js";

/** Shows an action by its id, or the newest attempt of a task instance. */
export class ActionView {
  onChange = () => {};
  isFilled = false;
  #attempts = new Source();
  #shown = null;

  /** @param {Object} place `uuid`, or `dagId`, `runId`, `taskId`, `mapIndex` */
  constructor(place) {
    this.place = place;
    this.element = make("div", { class: "action" });
    if (place.uuid) this.#open(place.uuid);
    setInterval(() => document.hidden || this.#shown?.showAge(), 1000);
  }

  /** Fetch changes once. @returns {Promise<number|void>} */
  async tick() {
    const isOver = this.#shown === null || (this.#shown.hasEnded && !this.#shown.mayFollow);
    if (!this.place.uuid && isOver) await this.#findNewest();
    if (this.#shown === null || this.#shown.isComplete) return this.#waitMs;
    const isMore = await this.#shown.update();
    if (!this.isFilled) fill(this.element, this.#shown.element);
    this.isFilled = true;
    return isMore ? 0 : this.#waitMs;
  }

  get #waitMs() {
    if (!this.place.uuid) return undefined;
    if (this.#shown.mayFollow) return SLOW_POLL_MS;
    return this.#shown.isComplete ? Infinity : undefined;
  }

  async #findNewest() {
    await this.#attempts.get(attemptsUrl(this.place), ({ actions }) => {
      const newest = actions[0]?.uuid;
      if (newest === undefined) fill(this.element, crumbs(this.place), notice("This task has no async action", WAITING));
      else if (newest !== this.#shown?.uuid) this.#open(newest);
    });
  }

  #open(uuid) {
    this.#shown = new Panels(uuid, () => this.onChange());
    this.isFilled = false;
  }
}

const SLOW_POLL_MS = 10000;
const WAITING = "It will be shown here as soon as the task registers one.";

/** All panels of one action. */
class Panels {
  hasEnded = false;
  /** Whether another attempt may follow. Each attempt is an action of its own. */
  mayFollow = false;
  /** Whether no more changes are expected. */
  isComplete = false;
  #source = new Source();
  #whole = {};
  #seen = "";
  #placed = "";
  #state = new State();
  #progress = new Progress();
  #facts = new Facts();
  #timeline = new Timeline();
  #title = make("h1");
  #age = make("span", { class: "quiet" });
  #live = make("p", { class: "unseen", role: "status" });
  #crumbs = make("div");
  #attempts = make("nav", { class: "attempts", "aria-label": "Attempts", hidden: true });
  #error = new ErrorBox();
  #arguments = new JsonPanel("Arguments");
  #results = new JsonPanel("Results");
  #details = new JsonPanel("Status details");
  #files;
  #log;
  #stop;

  constructor(uuid, onChange) {
    this.uuid = uuid;
    this.#files = new FileTable(uuid);
    const logName = () => `${this.#whole.type ?? "action"}-${uuid.slice(0, 8)}.log`.replace(/[^\w.-]+/g, "_");
    this.#log = new LogView(uuid, logName);
    this.#stop = new StopButton(uuid, onChange);
    const title = make("div", { class: "title" }, this.#state.element, this.#title, this.#age, this.#stop.element);
    const head = make("header", {}, this.#crumbs, title, this.#attempts, this.#progress.element, this.#live);
    const contents = [this.#arguments, this.#results, this.#details].map((panel) => panel.element);
    const wide = make("div", { class: "wide" }, this.#log.element, this.#files.element, ...contents);
    const facts = make("section", { class: "panel" }, make("h2", {}, "About"), this.#facts.element);
    const side = make("div", { class: "side" }, facts, this.#timeline.element);
    this.element = make("div", {}, head, this.#error.element, make("div", { class: "columns" }, wide, side));
  }

  /** Show changes. @returns {Promise<boolean>} whether more are available at once */
  async update() {
    const after = query({ afterLine: this.#log.after, afterReport: this.#timeline.after });
    const url = `${path("actions", this.uuid, "changes")}?${after}`;
    return (await this.#source.get(url, (found) => this.#take(found))) ?? false;
  }

  /** Update the duration. */
  showAge() {
    if (this.#whole.type === undefined) return;
    const isStopped = this.#whole.stopReason === "Requested"; // it is not retried
    const parts = [age(this.#whole, serverNow()), this.mayFollow && !isStopped && "another attempt may follow"];
    setText(this.#age, parts.filter(Boolean).join(" · "));
  }

  async #take({ action, logs, reports }) {
    const isMore = logs.hasMore || reports.hasMore;
    const { status, isDone, isFinal, nextAttempt } = action;
    const seen = JSON.stringify([status, isDone, isFinal, nextAttempt, action.action, action.reportCount > 0, isMore]);
    if (seen !== this.#seen) await this.#readWhole(action);
    this.#seen = seen;
    this.#log.append(logs);
    this.#timeline.append(reports);
    if (reports.reports.some((report) => report.kind === "file")) this.#files.show(await this.#fetchPart("files"));
    this.hasEnded = ENDS.includes(status);
    this.mayFollow = isDone && !isMore && !isFinal && !nextAttempt;
    this.isComplete = isDone && !isMore && !this.mayFollow;
    this.#show({ ...this.#whole, ...action });
    return isMore;
  }

  async #readWhole(action) {
    this.#whole = await fetchJson(path("actions", this.uuid));
    this.#files.show(await this.#fetchPart("files"));
    if (action.taskId) this.#showAttempts((await fetchJson(attemptsUrl(action))).actions);
  }

  async #fetchPart(part) {
    try {
      return await fetchJson(path("actions", this.uuid, part));
    } catch (error) {
      if (error instanceof ApiError && !error.isTransient) return null; // the other panels do not need it
      throw error;
    }
  }

  #show(action) {
    this.#whole = action;
    document.title = `${action.type} · ${action.status}`;
    this.#showPlace(action);
    setText(this.#title, action.type);
    setText(this.#live, `${action.type} is ${action.status}`);
    this.#state.show(action);
    this.#progress.show(action);
    this.#stop.show(action);
    this.#error.show(action);
    this.#facts.show(facts(action));
    this.#timeline.show(action);
    this.#arguments.show(action.arguments, isFilled(action.arguments));
    this.#results.show(action.results, Boolean(action.hasResults), action.canSeeResults !== false);
    this.#details.show(action.statusDetails, hasMoreThanProgress(action.statusDetails));
    this.#log.explain(...emptyLogMessage(action));
    this.showAge();
  }

  /** An operation's action has no task until its Dag run starts. */
  #showPlace(action) {
    const { dagId, runId, taskId, mapIndex, regionId, attempt } = action;
    const place = JSON.stringify([dagId, runId, taskName(action), mapIndex, regionId, attempt]);
    if (place === this.#placed) return;
    this.#placed = place;
    fill(this.#crumbs, crumbs(action));
    this.#log.link(taskId ? taskLog(action, "Task log") : null);
  }

  #showAttempts(actions) {
    this.#attempts.hidden = actions.length < 2;
    const links = [...actions].reverse().map((each) => {
      const state = new State();
      state.show(each);
      const current = each.uuid === this.uuid ? "true" : null;
      const href = path("ui", "action", each.uuid);
      const name = `${each.iteration === null ? "" : `Iteration ${each.iteration} · `}Attempt ${each.attempt}`;
      return make("li", {}, make("a", { href, "aria-current": current }, name, state.element));
    });
    fill(this.#attempts, make("ol", {}, ...links));
  }
}

function attemptsUrl({ dagId: dag, runId: run, taskId: task, mapIndex }) {
  return `${ROOT}/actions?${query({ dag, run, task, mapIndex, limit: 50 })}`;
}

function facts(action) {
  return [
    ["Iteration", action.iteration],
    ["Attempt", action.attempt || null],
    ["Runner", action.runner],
    ["Requested by", action.requestedBy],
    ["Created", time(action.createdAt)],
    ["Scheduled for", time(action.scheduledAt)],
    ["Started", time(action.startedAt)],
    ["Last report", time(action.lastReportAt)],
    ["Ended", time(action.endedAt)],
    ["Reports", action.refusedCount ? `${action.reportCount}, ${action.refusedCount} refused` : action.reportCount],
    ["Stop reason", action.stopReason],
    ["Exit", formatExit(action.exit)],
    ...named(action.job, action.agent),
    ["Action", make("code", {}, action.uuid)],
  ];
}

const LONGEST_FACT = 500;
const LONGEST_MESSAGE = 200;
const NAMES = { hostname: "Host", host: "Host", pod: "Pod", node: "Node", namespace: "Namespace", pid: "Process" };

function named(...sources) {
  const values = new Map();
  for (const [name, value] of sources.flatMap((source) => Object.entries(source ?? {})).slice(0, 40)) {
    const shown = JSON.isRawJSON?.(value) ? value.rawJSON : value;
    if (!["string", "number", "boolean"].includes(typeof shown)) continue;
    const title = Object.hasOwn(NAMES, name) ? NAMES[name] : name;
    if (!values.has(title)) values.set(title, String(shown).slice(0, LONGEST_FACT));
  }
  return [...values];
}

function emptyLogMessage(action) {
  if (!action.isDone && !action.startedAt) return ["The job has not started yet."];
  if (action.logLines > action.logLinesDropped) return ["You do not have permission to see the job's log lines."];
  const words = "The job has not reported any lines. Its output is in the ";
  return [words, action.taskId ? taskLog(action, "task log") : "task log", "."];
}

function isFilled(value) {
  return value !== null && value !== undefined && Object.keys(Object(value)).length > 0;
}

/** Whether there are more details than the header shows. */
function hasMoreThanProgress(details) {
  if (details === null || typeof details !== "object") return false;
  const isLong = typeof details.message === "string" && details.message.length > LONGEST_MESSAGE;
  return isLong || Object.keys(details).some((name) => name !== "progress" && name !== "message");
}
