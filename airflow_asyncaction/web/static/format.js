// SPDX-License-Identifier: Apache-2.0
// Formats values.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const ESCAPES = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?)/g;

/** Final states. */
export const ENDS = ["SUCCESS", "ERROR", "TIMEOUT", "STOPPED"];

/** All states, in the order of an action's life. */
export const STATES = ["SCHEDULED", "QUEUED", "STARTING", "RUNNING", ...ENDS];

/** @param {Object} action @returns {boolean} whether it was skipped: STOPPED, and no error */
export function isSkipped({ status, errorName }) {
  return status === "STOPPED" && errorName === "Skipped";
}

/**
 * Return the task of a place, with its name or index if it is mapped, and with its iteration if it is in a loop.
 * @param {Object} place
 * @returns {?string} e.g. `load [orders.csv]`, `poll (iteration 2)`
 */
export function taskName({ taskId, mapIndex = -1, renderedMapIndex, iteration = null }) {
  if (!taskId) return taskId;
  const mapped = mapIndex >= 0 ? ` [${renderedMapIndex ?? mapIndex}]` : "";
  return `${taskId}${mapped}${iteration === null ? "" : ` (iteration ${iteration})`}`;
}

/** @param {?string} iso @returns {string} e.g. `2026-11-24 18:00:05`, in this machine's time zone */
export function moment(iso) {
  if (!iso) return "";
  const date = new Date(iso);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;
}

/** @param {string} iso @returns {string} e.g. `2026-11-24`, in this machine's time zone */
export function dayOf(iso) {
  return moment(iso).split(" ")[0];
}

/** @param {number|string} time ms or ISO 8601 @returns {string} e.g. `18:00:05.123` */
export function clockOf(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "" : `${clock(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** @param {number} ms @returns {string} e.g. `1.2 s`, `3 min 20 s`, `5 h 2 min` */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** @param {?string} iso @param {number} now @returns {string} e.g. `3 min ago`, `in 2 h` */
export function distance(iso, now) {
  if (!iso) return "";
  const seconds = (now - Date.parse(iso)) / 1000;
  const about = coarse(Math.abs(seconds));
  if (Math.abs(seconds) < 5) return "now";
  return seconds < 0 ? `in ${about}` : `${about} ago`;
}

/** @param {number} bytes @returns {string} e.g. `1.5 MiB` */
export function size(bytes) {
  if (!(bytes >= 0)) return "";
  const power = bytes < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

/** @param {number} count @param {string} noun @returns {string} e.g. `1 line`, `2 lines` */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** @param {string} text JSON @returns {*} integers too large for a number stay text, if the browser supports it */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => {
    const isExact = !Number.isInteger(value) || Number.isSafeInteger(value);
    return isExact || !context?.source || !JSON.rawJSON ? value : JSON.rawJSON(context.source);
  });
}

/** @param {*} value @returns {string} */
export function pretty(value) {
  return JSON.stringify(value, null, 2) ?? "";
}

/** @param {string} text JSON, or anything @returns {string} indented if it is JSON */
export function prettyText(text) {
  try {
    return pretty(parse(text));
  } catch {
    return text;
  }
}

/** @param {string} text @returns {string} without terminal colours */
export function plain(text) {
  return text.includes("\u001b") ? text.replace(ESCAPES, "") : text;
}

/** @param {Object} action @param {number} now @returns {string} how long it has run, or waited */
export function age(action, now) {
  const from = Date.parse(action.startedAt ?? action.createdAt);
  const to = action.endedAt ? Date.parse(action.endedAt) : now;
  return Number.isNaN(from) || action.status === "SCHEDULED" ? "" : duration(to - from);
}

function clock(date) {
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function coarse(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function two(number) {
  return String(number).padStart(2, "0");
}
