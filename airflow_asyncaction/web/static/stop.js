// SPDX-License-Identifier: Apache-2.0
// Stop button with a confirmation dialog.

import { ApiError, fetchJson, path } from "./api.js";
import { make, setText } from "./dom.js";
import { ENDS } from "./format.js";

const EXPLANATION =
  "The job is asked to stop, and killed after its grace period. Its task fails and is not retried.";

/** The button and its dialog. */
export class StopButton {
  #open = make("button", { type: "button", class: "danger", hidden: true, on: { click: () => this.#confirm() } }, "Stop");
  #question = make("h2", { id: "stop-question" });
  #trouble = make("p", { class: "trouble", role: "alert" });
  #cancel = make("button", { type: "button", on: { click: () => this.#dialog.close() } }, "Cancel");
  #stop = make("button", { type: "button", class: "danger solid", on: { click: () => this.#send() } }, "Stop it");
  #dialog = make(
    "dialog",
    { "aria-labelledby": "stop-question" },
    this.#question,
    make("p", {}, EXPLANATION),
    this.#trouble,
    make("div", { class: "buttons" }, this.#cancel, this.#stop),
  );
  element = make("div", { class: "stop" }, this.#open, this.#dialog);

  /**
   * @param {string} uuid
   * @param {() => void} onDone
   */
  constructor(uuid, onDone) {
    this.uuid = uuid;
    this.onDone = onDone;
  }

  /** @param {Object} action */
  show(action) {
    const isStopping = action.action === "STOP";
    this.#open.hidden = ENDS.includes(action.status) || action.canStop === false;
    this.#open.disabled = isStopping;
    setText(this.#open, isStopping ? "Stopping…" : "Stop");
    setText(this.#question, `Stop ${action.type}?`);
    if (this.#open.hidden && this.#dialog.open) this.#dialog.close();
  }

  #confirm() {
    setText(this.#trouble, "");
    this.#dialog.showModal();
    this.#cancel.focus();
  }

  async #send() {
    this.#stop.disabled = true;
    try {
      await fetchJson(path("actions", this.uuid, "stop"), "PUT");
      this.#dialog.close();
      this.onDone();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(this.#trouble, error.status === 403 ? "You do not have permission to stop this action." : `${error.message}.`);
      if (error.status === 409) this.onDone();
    } finally {
      this.#stop.disabled = false;
    }
  }
}
