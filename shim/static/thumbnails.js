// The row of chosen pictures, each with buttons to move and remove it.

import { copyOf, find, findAll, say, show } from "./dom.js";
import { words } from "./language.js";

/** @import { Picture, Pictures } from "./pictures.js" */

/**
 * @param {Pictures} pictures
 * @param {{masked: boolean}} options
 */
export function showThumbnails(pictures, { masked }) {
  const list = find("#thumbnails");
  list.replaceChildren(...pictures.all.map((picture, index) => thumbnail(pictures, picture, index, masked)));
  show(list, pictures.count > 0);
  find("#drop").classList.toggle("small", pictures.count > 0);
  find("#choose").textContent = pictures.count ? words("pictures-add") : words("pictures-choose");
}

/**
 * @param {Pictures} pictures
 * @param {Picture} picture
 * @param {number} index
 * @param {boolean} masked
 */
function thumbnail(pictures, picture, index, masked) {
  const item = copyOf("thumbnail");
  const [image, veil] = findAll("img", item);
  image.src = picture.url;
  image.alt = picture.name;
  item.classList.toggle("unseeable", !picture.width);
  if (masked && index === 0 && picture.mask) {
    veil.src = picture.mask.veil;
    show(veil);
  }
  find(".number", item).textContent = String(index + 1);
  show(find(".number", item), pictures.count > 1);
  const isLast = index === pictures.count - 1;
  button(item, "left", words("picture-left", picture), index > 0, () => move(pictures, picture, -1));
  button(item, "right", words("picture-right", picture), !isLast, () => move(pictures, picture, 1));
  button(item, "remove", words("picture-remove", picture), true, () => remove(pictures, picture));
  return item;
}

/**
 * @param {HTMLElement} item
 * @param {string} action
 * @param {string} label
 * @param {boolean} shown
 * @param {() => void} act
 */
function button(item, action, label, shown, act) {
  const found = find(`[data-do=${action}]`, item);
  found.ariaLabel = label;
  found.title = label;
  show(found, shown);
  found.addEventListener("click", act);
}

/**
 * @param {Pictures} pictures
 * @param {Picture} picture
 * @param {number} by
 */
function move(pictures, picture, by) {
  pictures.move(picture, by);
  const place = pictures.all.indexOf(picture);
  say(words("picture-moved", { name: picture.name, place: place + 1 }));
  focusOn(place, by < 0 ? "left" : "right");
}

/**
 * @param {Pictures} pictures
 * @param {Picture} picture
 */
function remove(pictures, picture) {
  const place = pictures.all.indexOf(picture);
  pictures.remove(picture);
  say(words("picture-removed", picture));
  focusOn(Math.min(place, pictures.count - 1), "remove");
}

/**
 * The list is new, and the button that had the focus is gone.
 * @param {number} place
 * @param {string} action
 */
function focusOn(place, action) {
  const item = find("#thumbnails").children[place];
  const buttons = item ? findAll("button:not([hidden])", item) : [];
  (buttons.find((found) => found.dataset.do === action) ?? buttons[0] ?? find("#files")).focus();
}
