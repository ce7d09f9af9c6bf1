// SPDX-License-Identifier: Apache-2.0
// Why an action failed.

import { fill, make } from "./dom.js";
import { isSkipped, plain } from "./format.js";

/** The error of an action, or why it was skipped: its name, what happened, and the lines below that, which open at the last one. */
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
    if (shown === this.#shown) return; // somebody may be reading it
    this.#shown = shown;
    const [happened, ...lines] = plain(errorMessage ?? "").trim().split("\n");
    fill(
      this.element,
      errorName && make("h2", {}, errorName),
      happened && make("p", { class: "happened", tabindex: 0, role: "group", "aria-label": "What happened" }, happened),
      lines.length > 0 && opensAtItsEnd("Last lines", make("pre", {}, lines.join("\n"))),
    );
  }
}

/**
 * Return a pane that can be scrolled and opens at the end of what it holds.
 * @param {string} name for those who do not see it
 * @param {Element} content
 */
export function opensAtItsEnd(name, content) {
  return make("div", { class: "pane", tabindex: 0, role: "group", "aria-label": name }, content);
}
