// SPDX-License-Identifier: Apache-2.0
// Panels of inputs and outputs: JSON and files.

import { path } from "./api.js";
import { fill, make, setText } from "./dom.js";
import { pretty, size } from "./format.js";

const COLUMNS = ["File", "Role", "Size", "SHA-256"];

/** Panel of a JSON value. */
export class JsonPanel {
  #text;

  /** @param {string} title */
  constructor(title) {
    this.#text = make("pre", { tabindex: 0, role: "group", "aria-label": title });
    this.element = make("section", { class: "panel", hidden: true }, make("h2", {}, title), this.#text);
  }

  /** @param {*} value @param {boolean} isPresent @param {boolean} isShown whether the user may see it */
  show(value, isPresent, isShown = true) {
    this.element.hidden = !isPresent;
    if (isPresent) setText(this.#text, isShown ? pretty(value) : "You do not have permission to see this.");
  }
}

/** The files of one action. */
export class FileTable {
  #shown = "";
  #body = make("tbody", { role: "rowgroup" }); // explicit roles: on a phone, CSS removes the table layout

  /** @param {string} uuid */
  constructor(uuid) {
    this.uuid = uuid;
    const names = COLUMNS.map((name) => make("th", { scope: "col", role: "columnheader" }, name));
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...names));
    const table = make("table", { role: "table" }, make("caption", { class: "unseen" }, "Files"), head, this.#body);
    const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Files" }, table);
    this.element = make("section", { class: "panel files", hidden: true }, make("h2", {}, "Files"), scroll);
  }

  /** @param {?{files: Object[]}} found null: unchanged */
  show(found) {
    const shown = JSON.stringify(found);
    if (found === null || shown === this.#shown) return;
    this.#shown = shown;
    this.element.hidden = found.files.length === 0;
    fill(this.#body, ...found.files.map((file) => this.#row(file)));
  }

  #row(file) {
    const href = path("actions", this.uuid, "files", file.property, file.index);
    const place = file.index > 0 ? `${file.property} [${file.index}]` : file.property;
    const link = make("a", { href, download: file.name ?? "" }, file.name || place);
    const about = make("div", { class: "quiet" }, [place, file.mimetype].filter(Boolean).join(" · "));
    const digests = `SHA-256 ${file.sha256}\nMD5 ${file.hash}`;
    return make(
      "tr",
      { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, link, about),
      make("td", { role: "cell" }, file.role),
      make("td", { role: "cell", class: "number", title: `${file.size} bytes` }, size(file.size)),
      make("td", { role: "cell" }, make("code", { title: digests }, file.sha256 ?? file.hash)),
    );
  }
}
