// SPDX-License-Identifier: Apache-2.0
// Components shared by the list and the view of an action.

import { path } from "./api.js";
import { fill, make, setText } from "./dom.js";
import { STATES, isSkipped, moment, plain, taskName } from "./format.js";

/** Badge of a state. */
export class State {
  element = make("span", { class: "state" });

  /** @param {Object} action */
  show(action) {
    const isStopping = action.action === "STOP";
    this.element.dataset.state = STATES.includes(action.status) ? action.status : "";
    const word = isSkipped(action) ? "SKIPPED" : action.status;
    setText(this.element, isStopping ? "STOPPING" : word);
    this.element.title = isStopping ? `${word}, asked to stop` : "";
  }
}

/** A progress bar with its message. */
export class Progress {
  #bar = make("progress", { max: 100 });
  #percent = make("span", { class: "percent" });
  #message = make("span", { class: "message" });
  #line = make("div", { class: "progress-line" }, this.#bar, this.#percent);
  element = make("div", { class: "progress" }, this.#line, this.#message);

  /** @param {Object} action */
  show(action) {
    const isKnown = typeof action.progress === "number";
    const isRunning = action.status === "RUNNING" || action.status === "STARTING";
    this.#line.hidden = !isKnown;
    this.element.dataset.state = isRunning ? "RUNNING" : action.status;
    if (isKnown) {
      this.#bar.value = action.progress;
      this.#bar.setAttribute("aria-label", `Progress of ${action.type}`);
    }
    setText(this.#percent, isKnown ? `${Math.floor(action.progress)}%` : ""); // 99.6% is not 100%
    const isScheduled = action.status === "SCHEDULED" && action.scheduledAt;
    const message = isScheduled ? `to run at ${moment(action.scheduledAt)}` : plain(action.message ?? "");
    setText(this.#message, message);
    this.#message.title = message;
  }
}

/**
 * Return a time, with milliseconds in its tooltip.
 * @param {?string} iso
 */
export function time(iso, text = moment(iso)) {
  return iso ? make("time", { datetime: iso, title: iso }, text) : "";
}

/** @param {Object} action @returns {string} path of its view */
export function actionPath(action) {
  return path("ui", "action", action.uuid);
}

/**
 * Return the breadcrumbs from the list of all actions to a place.
 * @param {Object} place `dagId`, `runId`, `taskId`, `mapIndex`, `uuid`: all optional
 */
export function crumbs(place) {
  const { dagId, runId, taskId, mapIndex = -1, uuid } = place;
  const steps = [
    ["Async actions", path("ui", "")],
    dagId && [dagId, path("ui", "dag", dagId)],
    dagId && runId && [runId, path("ui", "run", dagId, runId)],
    dagId && runId && taskId && [taskName(place), path("ui", "task", dagId, runId, taskId, mapIndex)],
    uuid && [uuid.slice(0, 8), null],
  ].filter(Boolean);
  const items = steps.map(([name, href], index) => {
    const isLast = index === steps.length - 1;
    return make("li", {}, isLast || !href ? make("span", { "aria-current": "page" }, name) : make("a", { href }, name));
  });
  return make("nav", { "aria-label": "Breadcrumbs", class: "crumbs" }, make("ol", {}, ...items));
}

/**
 * Return a message that a view shows instead of data.
 * @param {string} title
 * @param {...(Node|string)} body
 */
export function notice(title, ...body) {
  const element = make("section", { class: "notice" }, make("h2", {}, title));
  if (body.length > 0) element.append(make("p", {}, ...body));
  return element;
}

/** Table of names and values. Only changed cells are updated. */
export class Facts {
  #shown = "";
  element = make("dl", { class: "facts" });

  /** @param {Array<[string, ?(string|number|Node)]>} pairs those without a value are left out */
  show(pairs) {
    const filled = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    const shown = JSON.stringify(filled.map(([name, value]) => [name, value.textContent ?? value]));
    if (shown === this.#shown) return;
    this.#shown = shown;
    fill(this.element, ...filled.flatMap(([name, value]) => [make("dt", { title: name }, name), make("dd", {}, value)]));
  }
}
