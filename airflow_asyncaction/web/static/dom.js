// SPDX-License-Identifier: Apache-2.0
// Creates DOM elements. All content is inserted as text, so that nothing a job sends becomes markup.

/**
 * Return a new element.
 *
 * Links are restricted to paths of this server.
 * @param {string} tag
 * @param {Object<string, *>} attributes `on`: listeners by event; true and false: with and without the attribute
 * @param {...(Node|string|number|null|undefined|false)} children strings become text; null and false are left out
 * @returns {HTMLElement}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "href" && !/^\/(?!\/)/.test(value)) {
      throw new Error(`Not a path of this server: ${value}`);
    } else if (value === true || value === false) {
      element.toggleAttribute(name, value);
    } else if (value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter(isShown));
  return element;
}

/**
 * Replace the children of an element.
 * @param {Element} element
 * @param {...(Node|string|number|null|undefined|false)} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...children.filter(isShown));
}

/**
 * Set an element's text if it differs, so that screen readers and selections are not disturbed.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Set the children of a parent. Elements that stay are not moved, so that they keep the focus.
 * @param {Element} parent
 * @param {Element[]} elements
 */
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
}

function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}
