// Two pictures in one place; a slider moves the line between them.

import { find, show } from "./dom.js";

const SAME_SHAPE = 0.05; // by so much the ratios of two pictures may differ that are laid over each other

export function showAfter(frame, url, alt) {
  const image = find(".after", frame);
  image.src = url;
  image.alt = alt;
  show(image);
}

/** The frame takes the shape of the result. */
export function shapeFrame(frame, width, height) {
  frame.style.setProperty("--ratio", width / height);
}

/** `stretched`: the result has the picture's shape as far as the model can make it, however much its sides differ. */
export function compareWith(frame, picture, { width, height, stretched, label }) {
  const before = find(".before", frame);
  const slider = find("input", frame);
  before.src = picture.url;
  before.alt = `${picture.name}, before the edit`;
  const ratio = picture.width / picture.height / (width / height);
  before.classList.toggle("whole", !stretched && Math.abs(ratio - 1) > SAME_SHAPE);
  for (const part of [before, slider, find(".divider", frame), find(".tag-before", frame), find(".tag-after", frame)]) {
    show(part);
  }
  slider.ariaLabel = label;
  const move = () => {
    frame.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
  };
  slider.addEventListener("input", move);
  move();
}
