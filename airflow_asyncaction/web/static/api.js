// SPDX-License-Identifier: Apache-2.0
// Client of the user routes, with polling.

import { parse } from "./format.js";

const TICK_MS = 2000;
const LONGEST_WAIT_MS = 30000;
const DATE_CHARS = "Tue, 24 Nov 2026 18:00:00 GMT".length;

/** Paths of this app's mount and of Airflow, without a trailing slash. */
export const { root: ROOT, airflow: AIRFLOW } = document.documentElement.dataset;

/** The server's clock minus this machine's, in ms. */
let clockSkewMs = 0;

/** Error response: `code` of the protocol, and HTTP `status` (0 if there was no response). */
export class ApiError extends Error {
  constructor(status, code, message, retryAfterMs = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether a retry may succeed. */
  get isTransient() {
    return this.status < 400 || this.status === 429 || this.status >= 500;
  }
}

/** @returns {number} the server's time, in ms */
export function serverNow() {
  return Date.now() + clockSkewMs;
}

/**
 * Join a path of this app, each part encoded.
 * @param {...(string|number)} parts
 */
export function path(...parts) {
  return `${ROOT}/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}

/**
 * Encode a query. Empty values are left out, and lists are repeated.
 * @param {Object<string, *>} fields
 */
export function query(fields) {
  const pairs = Object.entries(fields).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((each) => [name, each]),
  );
  return new URLSearchParams(pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined));
}

/** Polls one resource. The server does not send it again if it has not changed. */
export class Source {
  #etag = null;
  #url = null;

  /**
   * @param {string} url a URL other than that of the last call is fetched whether or not it has changed
   * @param {(found: Object) => *} take called with the new resource; if it throws, the next call fetches it again
   * @returns {Promise<*>} the result of `take`; undefined: the resource has not changed
   */
  async get(url, take) {
    const headers = this.#etag !== null && url === this.#url ? { "If-None-Match": this.#etag } : {};
    const response = await send("GET", url, headers);
    if (response.status === 304) return undefined;
    const found = await jsonOf(response);
    const date = response.headers.get("Date")?.slice(-DATE_CHARS); // some servers send two dates
    const serverMs = Date.parse(found.serverTime ?? found.action?.serverTime ?? date);
    if (!Number.isNaN(serverMs)) clockSkewMs = serverMs - Date.now();
    const taken = await take(found);
    this.#url = url;
    this.#etag = response.headers.get("ETag");
    return taken;
  }
}

/**
 * Send one request.
 * @param {string} url
 * @param {string} method
 * @returns {Promise<Object>}
 */
export async function fetchJson(url, method = "GET") {
  return jsonOf(await send(method, url, {}));
}

async function send(method, url, headers) {
  let response;
  try {
    response = await fetch(url, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      headers: { "X-Requested-With": "asyncaction", Accept: "application/json", ...headers },
    });
  } catch {
    throw new ApiError(0, "unreachable", "The server is unreachable");
  }
  if (!response.ok && response.status !== 304) throw await errorOf(response);
  return response;
}

async function jsonOf(response) {
  try {
    return parse(await response.text());
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw new ApiError(0, "unreachable", "The server is unreachable");
    throw new ApiError(response.status, "no_json", "The server did not respond with JSON. You may have to sign in again");
  }
}

async function errorOf(response) {
  const retryAfterMs = 1000 * Number(response.headers.get("Retry-After") ?? 0) || 0;
  const body = await response.json().catch(() => ({}));
  const message = typeof body.message === "string" ? body.message : `The server responded with ${response.status}`;
  return new ApiError(response.status, String(body.error ?? ""), message, retryAfterMs);
}

/** Runs a function now and every 2 s while the page is visible, and less often while the server is unavailable. */
export class Ticker {
  #timer = null;
  #isBusy = false;
  #isOver = false;
  #isLate = false;
  #failures = 0;

  /**
   * @param {() => Promise<number|void>} tick returns ms until the next tick (default 2 s); Infinity: no more ticks
   * @param {(error: ?ApiError, waitMs: number) => void} onError null: the error is over; Infinity: no more ticks
   */
  constructor(tick, onError) {
    this.tick = tick;
    this.onError = onError;
    document.addEventListener("visibilitychange", () => this.#resume());
    this.#run();
  }

  /** Run now, since the view has changed. */
  now() {
    this.#isOver = false;
    this.#isLate = this.#isBusy;
    this.#run();
  }

  #resume() {
    if (this.#failures > 0) this.#isOver = false; // the user may have signed in
    this.#run();
  }

  async #run() {
    clearTimeout(this.#timer);
    if (this.#isBusy || this.#isOver || document.hidden) return;
    this.#isBusy = true;
    const waitMs = await this.#try();
    this.#isBusy = false;
    this.#isOver = waitMs === Infinity && !this.#isLate;
    if (!this.#isOver) this.#timer = setTimeout(() => this.#run(), this.#isLate ? 0 : waitMs);
    this.#isLate = false;
  }

  async #try() {
    try {
      const waitMs = (await this.tick()) ?? TICK_MS;
      if (this.#failures > 0) this.onError(null, waitMs);
      this.#failures = 0;
      return waitMs;
    } catch (error) {
      if (!(error instanceof ApiError)) console.error(error);
      this.#failures += 1;
      const backOffMs = Math.max(error.retryAfterMs ?? 0, TICK_MS * 2 ** Math.min(this.#failures, 8));
      const waitMs = error.isTransient === false ? Infinity : Math.min(LONGEST_WAIT_MS, backOffMs);
      this.onError(error, waitMs);
      return waitMs;
    }
  }
}
