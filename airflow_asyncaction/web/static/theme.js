// SPDX-License-Identifier: Apache-2.0
// Light and dark as Airflow's UI has it around this page; alone, as the system has it.

/** Follow Airflow's theme, also when it is switched. */
export function followTheme() {
  const airflow = airflowRoot();
  if (airflow === null) return; // the style sheet follows the system by itself
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
