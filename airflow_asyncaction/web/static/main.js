// SPDX-License-Identifier: Apache-2.0
// Entry point: shows the view of the page's address.

import { ActionView } from "./action.js";
import { AIRFLOW, ROOT, Ticker } from "./api.js";
import { fill, make } from "./dom.js";
import { ListView } from "./list.js";
import { notice } from "./parts.js";
import { followTheme, isFramed } from "./theme.js";

/**
 * Parse a path of the page.
 *
 * Airflow's UI does not replace `{MAP_INDEX}` for a task that is not mapped.
 * @param {string} pathname percent-encoded path
 * @returns {?{view: string, uuid?: string, dagId?: string, runId?: string, taskId?: string, mapIndex?: number}}
 */
export function placeOf(pathname) {
  let parts;
  try {
    parts = pathname.slice(`${ROOT}/ui/`.length).split("/").map(decodeURIComponent);
  } catch {
    return null;
  }
  const [view, ...names] = parts;
  if (view === "" && names.length === 0) return { view: "list" };
  if (view === "dag" && names.length === 1) return { view: "list", dagId: names[0] };
  if (view === "run" && names.length === 2) return { view: "list", dagId: names[0], runId: names[1] };
  if (view === "action" && names.length === 1) return { view: "action", uuid: names[0] };
  if (view !== "task" || names.length < 3 || names.length > 4) return null;
  const [dagId, runId, taskId, mapIndex = ""] = names;
  return { view: "action", dagId, runId, taskId, mapIndex: /^\d+$/.test(mapIndex) ? Number(mapIndex) : -1 };
}

function open(place, main) {
  if (place === null) {
    fill(main, notice("Page not found", make("a", { href: `${ROOT}/ui/` }, "All async actions")));
    return;
  }
  const view = place.view === "list" ? new ListView(place) : new ActionView(place);
  fill(main, view.element);
  const ticker = new Ticker(
    () => view.tick(),
    (error, waitMs) => showError(error, waitMs, view, main),
  );
  view.onChange = () => ticker.now();
}

function showError(error, waitMs, view, main) {
  const note = document.getElementById("note");
  note.hidden = error === null;
  if (error === null) {
    if (!view.element.isConnected) fill(main, view.element);
    return;
  }
  if (waitMs !== Infinity) {
    fill(note, `${error.message}. The page may be outdated. Retrying in ${Math.round(waitMs / 1000)} s.`);
    return;
  }
  const [title, ...body] = describeError(error);
  note.hidden = !view.isFilled;
  if (view.isFilled) fill(note, `${title}. `, ...body);
  else fill(main, notice(title, ...body));
}

function describeError(error) {
  if (error.status === 401) {
    const next = encodeURIComponent(window.location.href);
    const link = make("a", { href: `${AIRFLOW}/api/v2/auth/login?next=${next}` }, "Sign in to Airflow");
    return ["You are not signed in", link, isFramed() ? ", then come back to this page." : ""];
  }
  if (error.status === 403) return ["Permission denied", error.message];
  if (error.status === 404) return ["Action not found", "It was deleted, or you may not see it. ", allActionsLink()];
  return ["Something went wrong", error.message];
}

function allActionsLink() {
  return make("a", { href: `${ROOT}/ui/` }, "All async actions");
}

followTheme();
open(placeOf(window.location.pathname), document.getElementById("view"));
