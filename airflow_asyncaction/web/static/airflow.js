// SPDX-License-Identifier: Apache-2.0
// Links into Airflow's UI around this page.

import { AIRFLOW, query } from "./api.js";
import { make } from "./dom.js";
import { isFramed } from "./theme.js";

/**
 * Return a link to the task log of an action's attempt.
 * @param {Object} action with a task
 * @param {string} text
 */
export function taskLog({ dagId, runId, taskId, mapIndex, iteration, regionId, attempt }, text) {
  const parts = ["dags", dagId, "runs", runId, "tasks", taskId, ...(mapIndex >= 0 ? ["mapped", mapIndex] : [])];
  const path = parts.map((part) => encodeURIComponent(part)).join("/");
  const region = regionId ? { region_id: regionId, region_index: mapIndex >= 0 ? mapIndex : iteration } : {};
  const parameters = String(query({ ...region, try_number: attempt > 0 ? attempt : null }));
  const href = `${AIRFLOW}/${path}${parameters && `?${parameters}`}`;
  return make("a", { href, on: { click: (event) => follow(event, href) } }, text);
}

/** Frames in Airflow's sandbox cannot navigate the parent window. Airflow's router does when its address changes. */
function follow(event, href) {
  if (!isFramed() || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  window.parent.history.pushState(null, "", href);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: null }));
}
