// SPDX-License-Identifier: Apache-2.0
// Filters of the list.

import { query } from "./api.js";
import { make } from "./dom.js";
import { STATES } from "./format.js";

const PAUSE_MS = 300;
const HOUR_MS = 3600e3;
const SINCE = { "": "Any time", 1: "Last hour", 24: "Last 24 hours", 168: "Last 7 days", 720: "Last 30 days" };

/** The form of filters. */
export class Filters {
  #texts = {};
  #states = STATES.map((value) => make("input", { type: "checkbox", value }));
  #hours = make("select", {}, ...Object.entries(SINCE).map(([value, name]) => make("option", { value }, name)));
  #clear = make("button", { type: "button", class: "plain", on: { click: () => this.#reset() } }, "Clear filters");
  #timer = null;

  /**
   * @param {Object} place `dagId`, `runId`: fixed by the view, so that they have no filter
   * @param {() => void} onChange
   */
  constructor(place, onChange) {
    this.onChange = onChange;
    const names = { type: "Type", ...(!place.dagId && { dag: "Dag" }), ...(!place.runId && { run: "Run" }) };
    const fields = Object.entries(names).map(([name, title]) => {
      this.#texts[name] = make("input", { type: "search", spellcheck: "false", autocomplete: "off" });
      return make("label", { class: "field" }, title, this.#texts[name]);
    });
    const since = make("label", { class: "field" }, "Created", this.#hours);
    const chips = this.#states.map((box) => make("label", { class: "chip", "data-state": box.value }, box, box.value));
    const states = make("fieldset", { class: "chips" }, make("legend", { class: "unseen" }, "States"), ...chips);
    this.element = make("form", { role: "search", "aria-label": "Filters", class: "filters" });
    this.element.append(...fields, since, states, this.#clear);
    this.element.addEventListener("input", () => this.#changeSoon());
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.read();
  }

  /** @returns {Object} query parameters of the route */
  get fields() {
    const { hours, ...rest } = this.values;
    return { ...rest, since: hours && this.since };
  }

  /** @returns {boolean} whether any filter is set */
  get isSet() {
    return query(this.values).size > 0;
  }

  /** Read the filters from the page's address. */
  read() {
    clearTimeout(this.#timer);
    const parameters = new URLSearchParams(window.location.search);
    for (const [name, input] of Object.entries(this.#texts)) input.value = parameters.get(name) ?? "";
    for (const box of this.#states) box.checked = parameters.getAll("status").includes(box.value);
    this.#hours.value = Object.hasOwn(SINCE, parameters.get("hours") ?? "") ? parameters.get("hours") ?? "" : "";
    this.#update();
  }

  #changeSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#change(), PAUSE_MS);
  }

  #change() {
    this.#update();
    this.onChange();
  }

  #update() {
    const texts = Object.entries(this.#texts).map(([name, input]) => [name, input.value.trim()]);
    const status = this.#states.filter((box) => box.checked).map((box) => box.value);
    this.values = { ...Object.fromEntries(texts), status, hours: this.#hours.value };
    this.since = new Date(Date.now() - Number(this.#hours.value) * HOUR_MS).toISOString();
    this.#clear.hidden = !this.isSet;
  }

  #reset() {
    this.element.reset();
    this.#texts.type.focus();
    this.#change();
  }
}
