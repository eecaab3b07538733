// The row of chosen pictures, each with buttons to move and remove it.

import { copyOf, find, findAll, say, show } from "./dom.js";

/** @param {import("./pictures.js").Pictures} pictures */
export function showThumbnails(pictures, { masked }) {
  const list = find("#thumbnails");
  list.replaceChildren(...pictures.all.map((picture, index) => thumbnail(pictures, picture, index, masked)));
  show(list, pictures.count > 0);
  find("#drop").classList.toggle("small", pictures.count > 0);
  find("#choose").textContent = pictures.count ? "Add pictures" : "Choose pictures";
}

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
  find(".number", item).textContent = index + 1;
  show(find(".number", item), pictures.count > 1);
  button(item, "left", `Move ${picture.name} to the front`, index > 0, () => move(pictures, picture, -1));
  button(item, "right", `Move ${picture.name} back`, index < pictures.count - 1, () => move(pictures, picture, 1));
  button(item, "remove", `Remove ${picture.name}`, true, () => remove(pictures, picture));
  return item;
}

function button(item, action, label, shown, act) {
  const found = find(`[data-do=${action}]`, item);
  found.ariaLabel = label;
  found.title = label;
  show(found, shown);
  found.addEventListener("click", act);
}

function move(pictures, picture, by) {
  pictures.move(picture, by);
  const place = pictures.all.indexOf(picture);
  say(`${picture.name} is now number ${place + 1}.`);
  focusOn(place, by < 0 ? "left" : "right");
}

function remove(pictures, picture) {
  const place = pictures.all.indexOf(picture);
  pictures.remove(picture);
  say(`${picture.name} was removed.`);
  focusOn(Math.min(place, pictures.count - 1), "remove");
}

/** The list was made anew, and the button that had the focus is gone. */
function focusOn(place, action) {
  const item = find("#thumbnails").children[place];
  const buttons = item ? findAll("button:not([hidden])", item) : [];
  (buttons.find((found) => found.dataset.do === action) ?? buttons[0] ?? find("#files")).focus();
}
