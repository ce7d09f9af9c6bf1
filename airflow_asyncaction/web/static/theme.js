// SPDX-License-Identifier: Apache-2.0
// Uses the theme of Airflow's UI inside its frame, and that of the system otherwise.

/** Follow Airflow's theme, including later changes. */
export function followTheme() {
  const airflow = airflowRoot();
  if (airflow === null) return; // the style sheet follows the system's theme
  const follow = () => {
    const theme = ["dark", "light"].find((each) => airflow.classList.contains(each));
    if (theme) document.documentElement.dataset.theme = theme;
  };
  new MutationObserver(follow).observe(airflow, { attributes: true, attributeFilter: ["class"] });
  follow();
}

/** @returns {boolean} whether the page is shown inside Airflow's UI */
export function isFramed() {
  return window.parent !== window;
}

function airflowRoot() {
  try {
    return isFramed() ? window.parent.document.documentElement : null;
  } catch {
    return null; // of another origin
  }
}
