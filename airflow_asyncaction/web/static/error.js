// SPDX-License-Identifier: Apache-2.0
// Panel of an action's error.

import { fill, make } from "./dom.js";
import { isSkipped, plain } from "./format.js";

/** Error of an action, or the reason why it was skipped: name, message, and last lines of output. */
export class ErrorBox {
  #shown = "";
  element = make("section", { class: "error", hidden: true, "aria-label": "Error" });

  /** @param {Object} action */
  show({ errorName, errorMessage, status }) {
    this.element.hidden = !errorName && !errorMessage;
    const skipped = isSkipped({ status, errorName });
    this.element.dataset.state = status;
    this.element.classList.toggle("skipped", skipped);
    this.element.setAttribute("aria-label", skipped ? "Skipped" : "Error");
    const shown = JSON.stringify([errorName, errorMessage]);
    if (shown === this.#shown) return; // do not disturb a reader
    this.#shown = shown;
    const [happened, ...lines] = plain(errorMessage ?? "").trim().split("\n");
    fill(
      this.element,
      errorName && make("h2", {}, errorName),
      happened && make("p", { class: "happened", tabindex: 0, role: "group", "aria-label": "What happened" }, happened),
      lines.length > 0 && paneAtEnd("Last lines", make("pre", {}, lines.join("\n"))),
    );
  }
}

/**
 * Return a scrollable pane that is initially scrolled to its end.
 * @param {string} name for screen readers
 * @param {Element} content
 */
export function paneAtEnd(name, content) {
  return make("div", { class: "pane", tabindex: 0, role: "group", "aria-label": name }, content);
}
