// The few things that every module does with the document.

/**
 * @template {string} Text
 * @template {string} Mark
 * @typedef {Text extends `${infer Head}${Mark}${string}` ? Head : Text} Before
 */

/**
 * What a selector finds: `button#run` a button, `#run` and `#run span` some element.
 * @template {string} Selector
 * @typedef {Selector extends `${string} ${string}` ? HTMLElement
 *   : Before<Before<Before<Before<Selector, "#">, ".">, "[">, ":"> extends infer Tag
 *   ? Tag extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[Tag] : HTMLElement : never} Found
 */

/**
 * What is there: a selector that finds nothing is a mistake of the page.
 * @template {string} Selector
 * @param {Selector} selector
 * @param {ParentNode} root
 * @returns {Found<Selector>}
 */
export function find(selector, root = document) {
  const found = /** @type {Found<Selector> | null} */ (root.querySelector(selector));
  if (!found) throw new Error(`nothing is ${selector}`);
  return found;
}

/**
 * @template {string} Selector
 * @param {Selector} selector
 * @param {ParentNode} root
 * @returns {Found<Selector>[]}
 */
export function findAll(selector, root = document) {
  return /** @type {Found<Selector>[]} */ ([...root.querySelectorAll(selector)]);
}

/**
 * A copy of the only element of a <template>.
 * @param {string} template
 */
export function copyOf(template) {
  const { content } = find(`template#${template}`);
  return /** @type {HTMLElement} */ (content.firstElementChild?.cloneNode(true));
}

/** @param {HTMLElement} element */
export function show(element, shown = true) {
  element.hidden = !shown;
}

/**
 * What a screen reader says; a picture of the page has no place for it.
 * @param {string} text
 */
export function say(text) {
  find("#said").textContent = text;
}

/**
 * Marks a field as wrong and says why beside it; without a reason the mark goes away.
 * @param {string} name
 */
export function mark(name, reason = "") {
  const problem = find(`#${name}-problem`);
  problem.textContent = reason;
  show(problem, Boolean(reason));
  for (const field of findAll(`[aria-describedby~="${name}-problem"]`)) {
    if (reason) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}
