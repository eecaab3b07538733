// A picture that was taken apart: its layers as a stack, to be hidden, dragged apart and saved together.

import { shapeFrame } from "./compare.js";
import { copyOf, find, findAll, show } from "./dom.js";
import { words } from "./language.js";
import { zipOf } from "./zip.js";

const SPREAD = 40; // percent of the stack between its outermost layers
const SHRUNK = 0.4; // of each, where they are furthest apart

export class LayerStack {
  element = copyOf("stack");
  #frame = find(".layers", this.element);
  /** @type {import("./zip.js").Entry[]} */
  #files = [];
  #count;
  #stem;
  #urlOf;

  /**
   * @param {number} count   of layers
   * @param {string} stem    of the files' names
   * @param {(blob: Blob) => string} urlOf
   */
  constructor(count, stem, urlOf) {
    this.#count = count;
    this.#stem = stem;
    this.#urlOf = urlOf;
    this.element.classList.add("waiting");
    this.element.ariaLabel = words("layers");
    find(".facts", this.element).textContent = words("result-waiting");
    find("input[type=range]", this.element).addEventListener("input", () => this.#spread());
  }

  /**
   * Of the composition.
   * @param {Blob} blob
   * @param {number} width
   * @param {number} height
   */
  showPartial(blob, width, height) {
    this.element.classList.replace("waiting", "unfinished");
    find(".facts", this.element).textContent = words("result-unfinished");
    this.#frame.replaceChildren(this.#picture(blob, words("result-unfinished")));
    shapeFrame(this.#frame, width, height);
  }

  /**
   * From the bottom up.
   * @param {Blob} blob
   * @param {number} width
   * @param {number} height
   * @param {string} seed
   */
  async add(blob, width, height, seed) {
    const number = this.#files.length + 1;
    if (number === 1) this.#frame.replaceChildren();
    const picture = this.#picture(blob, words("layers-layer", { number }));
    this.#files.push({ name: `${this.#stem}-${number}.${blob.type.replace("image/", "")}`, blob });
    shapeFrame(this.#frame, width, height);
    this.#frame.append(picture);
    this.#makeDraggable(picture);
    this.#listToggle(picture, number);
    this.#spread();
    if (number < this.#count) return;
    this.element.classList.remove("waiting", "unfinished");
    find(".facts", this.element).textContent = words("result-facts", { width, height, seed });
    await this.#offer();
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   */
  #picture(blob, name) {
    const picture = new Image();
    picture.src = this.#urlOf(blob);
    picture.alt = name;
    picture.draggable = false;
    return picture;
  }

  /**
   * @param {HTMLImageElement} picture
   * @param {number} number
   */
  #listToggle(picture, number) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => show(picture, box.checked));
    label.append(box, words("layers-layer", { number }));
    find(".toggles", this.element).append(label);
  }

  /** @param {HTMLImageElement} picture */
  #makeDraggable(picture) {
    let [x, y] = [0, 0];
    picture.addEventListener("pointerdown", (event) => {
      const start = { x: event.clientX - Number(picture.dataset.x ?? 0), y: event.clientY - Number(picture.dataset.y ?? 0) };
      picture.setPointerCapture(event.pointerId);
      picture.onpointermove = (move) => {
        [x, y] = [move.clientX - start.x, move.clientY - start.y];
        Object.assign(picture.dataset, { x, y });
        picture.style.setProperty("--x", `${x}px`);
        picture.style.setProperty("--y", `${y}px`);
      };
      picture.onpointerup = picture.onpointercancel = () => (picture.onpointermove = null);
    });
  }

  /** As far as the slider says; what was dragged lies with the others again. */
  #spread() {
    const apart = find("input[type=range]", this.element).valueAsNumber / 100;
    const pictures = findAll("img", this.#frame);
    pictures.forEach((picture, index) => {
      const from = pictures.length > 1 ? index / (pictures.length - 1) - 0.5 : 0;
      delete picture.dataset.x;
      delete picture.dataset.y;
      picture.style.setProperty("--x", `${from * apart * SPREAD}%`);
      picture.style.setProperty("--y", `${-from * apart * SPREAD}%`);
      picture.style.setProperty("--size", String(1 - apart * SHRUNK));
    });
  }

  async #offer() {
    const link = find("a[data-do=zip]", this.element);
    link.href = this.#urlOf(await zipOf(this.#files));
    link.download = `${this.#stem}.zip`;
    show(find(".row", this.element));
    show(find(".apart", this.element));
  }
}
