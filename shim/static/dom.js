// The few things that every module does with the document.

export const find = (selector, root = document) => root.querySelector(selector);

export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** A copy of the only element of a <template>. */
export const copyOf = (template) => find(`template#${template}`).content.firstElementChild.cloneNode(true);

export function show(element, shown = true) {
  element.hidden = !shown;
}

/** What a screen reader says; a picture of the page has no place for it. */
export function say(text) {
  find("#said").textContent = text;
}

/** Marks a field as wrong and says why beside it; without a reason the mark goes away. */
export function mark(name, reason = "") {
  const problem = find(`#${name}-problem`);
  problem.textContent = reason;
  show(problem, Boolean(reason));
  for (const field of findAll(`[aria-describedby~="${name}-problem"]`)) {
    if (reason) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}
