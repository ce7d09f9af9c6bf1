// SPDX-License-Identifier: Apache-2.0
// Timeline of an action: reports, refused reports with reasons, and messages of the runner.

import { arrange, fill, make, setText } from "./dom.js";
import { paneAtEnd } from "./error.js";
import { ENDS, clockOf, counted, dayOf, isSkipped, moment, prettyText } from "./format.js";

const MAX_EVENTS = 400;
const REPEATED = ["heartbeat", "report", "RUNNING"];
const TITLES = {
  queued: "Queued",
  due: "Scheduled time reached",
  registered: "Registered by its task",
  launched: "Launched",
  heartbeat: "Heartbeat",
  report: "Report",
  RUNNING: "Report",
  SUCCESS: "Reported SUCCESS",
  ERROR: "Reported ERROR",
  exit: "Process ended",
  stop: "Asked to stop",
  abandon: "Given up: no longer watched",
  supersede: "Replaced by a newer attempt",
  timeout: "Timed out",
  unlaunched: "Never launched",
  deferred: "Task deferred; its worker is free",
  file: "File",
  results: "Results stored",
};
const REASONS = {
  already_ended: "the action had already ended differently",
  superseded: "a newer attempt had taken over, or Airflow had ended the action",
  nonce_reused: "another report had the same nonce",
  malformed: "it was malformed",
  stale_time: "its time differed too much from the server's clock",
  too_large: "it was too large",
};

/** Timeline of one action. */
export class Timeline {
  after = 0;
  #reports = [];
  #entries = new Map();
  #list = make("ol", { class: "events" });
  element = make(
    "section",
    { class: "panel timeline" },
    make("h2", {}, "Timeline"),
    paneAtEnd("Timeline", this.#list),
  );

  /**
   * Add new reports.
   * @param {{reports: Object[]}} page
   */
  append({ reports }) {
    this.#reports.push(...reports);
    if (reports.length > 0) this.after = reports.at(-1).id;
  }

  /** @param {Object} action */
  show(action) {
    const events = [...startEvents(action), ...grouped(this.#reports, action), ...endEvents(action)];
    events.sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
    const left = Math.max(0, events.length - MAX_EVENTS);
    const entries = new Map();
    for (const event of withDays(events.slice(left))) {
      const entry = this.#entries.get(event.key) ?? (event.day ? new Day(event.day) : new Entry());
      entry.show(event);
      entries.set(event.key, entry);
    }
    this.#entries = entries;
    arrange(this.#list, [...entries.values()].map((entry) => entry.element));
    if (left > 0) this.#list.prepend(make("li", { class: "quiet" }, `${counted(left, "earlier event")} not shown`));
  }
}

class Entry {
  #time = make("time");
  #title = make("span", { class: "event-title" });
  #more = make("span", { class: "event-more" });
  #body = null;
  element = make("li", {}, this.#time, make("div", {}, this.#title, this.#more));

  show({ at, title, more = "", tone = "", body = null }) {
    this.element.dataset.tone = tone;
    this.#time.dateTime = at;
    this.#time.title = `${moment(at)} (${at})`;
    setText(this.#time, clockOf(at));
    setText(this.#title, title);
    setText(this.#more, more);
    if (body && this.#body === null) {
      this.#body = make("pre", { tabindex: 0, role: "group", "aria-label": "Request body" });
      fill(this.#body, prettyText(body));
      this.element.lastChild.append(make("details", {}, make("summary", {}, "Request body"), this.#body));
    }
  }
}

class Day {
  constructor(day) {
    this.element = make("li", { class: "day" }, day);
  }

  show() {}
}

/** Add the date before the first event of each day, if there are several days. */
function withDays(events) {
  const days = events.map((event) => dayOf(event.at));
  if (days.every((day) => day === days[0])) return events;
  return events.flatMap((event, index) =>
    days[index] === days[index - 1] ? [event] : [{ key: days[index], day: days[index] }, event],
  );
}

function startEvents({ createdAt, scheduledAt, startedAt, requestedBy }) {
  return [
    { key: "created", at: createdAt, title: "Created", more: requestedBy ? `by ${requestedBy}` : "" },
    scheduledAt && { key: "scheduled", at: createdAt, title: "Scheduled", more: `to run at ${moment(scheduledAt)}` },
    startedAt && { key: "started", at: startedAt, title: "Started" },
  ].filter(Boolean);
}

function endEvents({ status, endedAt, errorName }) {
  if (!endedAt || !ENDS.includes(status)) return [];
  const more = errorName ?? "";
  const tone = isSkipped({ status, errorName }) ? "" : status === "SUCCESS" ? "good" : "bad";
  return [{ key: "ended", at: endedAt, title: `Ended: ${status}`, more, tone }];
}

function grouped(reports, action) {
  const events = [];
  let last = null;
  for (const report of reports) {
    const canRepeat = !report.refusedWith && REPEATED.includes(report.kind);
    const isHeartbeat = report.kind === "heartbeat";
    if (canRepeat && last?.isHeartbeat === isHeartbeat) {
      last.add(report);
    } else {
      last = canRepeat ? new Repeated(report, isHeartbeat) : null;
      events.push(last ?? single(report, action));
    }
  }
  return events;
}

/** Consecutive reports of the same kind. */
class Repeated {
  #count = 1;
  #lines = 0;

  constructor(report, isHeartbeat) {
    this.key = report.id;
    this.at = report.receivedAt;
    this.to = report.receivedAt;
    this.isHeartbeat = isHeartbeat;
    this.#lines = report.logCount;
  }

  add(report) {
    this.#count += 1;
    this.#lines += report.logCount;
    this.to = report.receivedAt;
  }

  get title() {
    const noun = this.isHeartbeat ? "heartbeat" : "report";
    return this.#count > 1 ? counted(this.#count, noun) : TITLES[noun];
  }

  get more() {
    const until = this.#count > 1 ? `until ${clockOf(this.to)}` : "";
    return [until, this.#lines > 0 ? counted(this.#lines, "log line") : ""].filter(Boolean).join(", ");
  }
}

function single({ id, kind, receivedAt, refusedWith, body, logCount, scheme, requestedBy }, action) {
  const isStop = kind === "stop" && requestedBy;
  const title = isStop ? `Stopped by ${requestedBy}` : Object.hasOwn(TITLES, kind) ? TITLES[kind] : kind;
  const event = { key: id, at: receivedAt, title, body };
  if (refusedWith) {
    const reason = Object.hasOwn(REASONS, refusedWith) ? `${REASONS[refusedWith]} (${refusedWith})` : refusedWith;
    return { ...event, title: `Refused: ${title}`, more: reason, tone: "refused" };
  }
  const exit = kind === "exit" ? formatExit(action.exit) : "";
  const lines = logCount > 0 && kind !== "file" ? counted(logCount, "log line") : "";
  const signed = scheme === "v1" && kind === kind.toUpperCase() ? "signed with v1" : "";
  return { ...event, more: [exit, lines, signed].filter(Boolean).join(", ") };
}

/** @param {?Object} exit reported by the runner @returns {string} e.g. `code 137, OOMKilled` */
export function formatExit(exit) {
  const { code, signal, reason } = exit ?? {};
  const isPresent = (value) => value !== null && value !== undefined;
  return [isPresent(code) && `code ${code}`, isPresent(signal) && `signal ${signal}`, reason].filter(Boolean).join(", ");
}
