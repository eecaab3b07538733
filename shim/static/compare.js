// Two pictures in one place; a slider moves the line between them.

import { find, show } from "./dom.js";
import { words } from "./language.js";

const SAME_SHAPE = 0.05; // by so much the ratios of two pictures may differ that are laid over each other

/**
 * @param {HTMLElement} frame
 * @param {string} url
 * @param {string} alt
 */
export function showAfter(frame, url, alt) {
  const image = find("img.after", frame);
  image.src = url;
  image.alt = alt;
  show(image);
}

/**
 * The frame takes the shape of the result.
 * @param {HTMLElement} frame
 * @param {number} width
 * @param {number} height
 */
export function shapeFrame(frame, width, height) {
  frame.style.setProperty("--ratio", String(width / height));
}

/**
 * `stretched`: the result has the picture's shape as far as the model can make it, however much its sides differ.
 * @param {HTMLElement} frame
 * @param {import("./pictures.js").Picture} picture
 * @param {{width: number, height: number, stretched: boolean, label: string}} result
 */
export function compareWith(frame, picture, { width, height, stretched, label }) {
  const before = find("img.before", frame);
  const slider = find("input", frame);
  before.src = picture.url;
  before.alt = words("result-before-name", { name: picture.name });
  const ratio = picture.width / picture.height / (width / height);
  before.classList.toggle("whole", !stretched && Math.abs(ratio - 1) > SAME_SHAPE);
  for (const part of [before, slider, find(".divider", frame), find(".tag-before", frame), find(".tag-after", frame)]) {
    show(part);
  }
  slider.ariaLabel = label;
  const move = () => {
    frame.style.setProperty("--at", `${slider.value}%`);
    const before = slider.valueAsNumber;
    slider.setAttribute("aria-valuetext", words("result-compared", { before, after: 100 - before }));
  };
  slider.addEventListener("input", move);
  move();
}
