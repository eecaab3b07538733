// The outputs of one edit, each in its place from the start: waiting, then unfinished, then done.

import { compareWith, shapeFrame, showAfter } from "./compare.js";
import { copyOf, find, show } from "./dom.js";
import { keepsShape, layersOf, outputsOf, seedOf, sourceOf } from "./edit.js";
import { words } from "./language.js";
import { LayerStack } from "./layers.js";

/**
 * @import { Edit, News } from "./edit.js"
 * @import { Picture } from "./pictures.js"
 */

export class Results {
  #list = find("#results");
  /** @type {Edit} */
  #edit = /** @type {any} */ (null); // until one begins
  /** @type {string[]} */
  #urls = [];
  /** @type {LayerStack[]} */
  #stacks = []; // of each picture that is taken apart
  #reuse;

  /** @param {(file: File) => void} reuse  what happens to a result that becomes the input */
  constructor(reuse) {
    this.#reuse = reuse;
  }

  /** @param {Edit} edit */
  begin(edit) {
    this.clear();
    this.#edit = edit;
    const layers = layersOf(edit);
    const stems = layers ? (edit.part === "images" ? edit.pictures : edit.pictures.slice(0, 1)).map(stemOf) : [];
    this.#stacks = stems.map((stem) => new LayerStack(layers, `${stem}-layers`, (blob) => this.#urlOf(blob)));
    if (layers) return this.#list.replaceChildren(...this.#stacks.map((stack) => stack.element));
    const places = Array.from({ length: outputsOf(edit) }, (_, index) => this.#place(index));
    this.#list.replaceChildren(...places);
    this.#list.classList.toggle("several", places.length > 1);
  }

  clear() {
    this.#list.replaceChildren();
    this.#urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  }

  /** @param {Extract<News, {kind: "partial"}>} news */
  showPartial({ index, blob, size }) {
    if (this.#stacks.length) return this.#stacks[index].showPartial(blob, ...sidesOf(size));
    const place = this.#list.children[index];
    const frame = find(".compare", place);
    place.classList.replace("waiting", "unfinished");
    find(".facts", place).textContent = words("result-unfinished");
    shapeFrame(frame, ...sidesOf(size));
    showAfter(frame, this.#urlOf(blob), words("result-unfinished-name", this.#numberOf(index)));
  }

  /**
   * @param {Extract<News, {kind: "output"}>} news
   * @returns {string} its seed
   */
  showOutput({ index, blob, size, seed: reported }) {
    const [width, height] = sidesOf(size);
    if (this.#stacks.length) {
      const stack = this.#stacks[Math.floor(index / layersOf(this.#edit))];
      const seed = this.#edit.fields.seed ?? String(reported);
      stack.add(blob, width, height, seed);
      return seed;
    }
    const place = this.#list.children[index];
    const frame = find(".compare", place);
    const seed = seedOf(this.#edit, index, reported);
    const source = sourceOf(this.#edit, index);
    const url = this.#urlOf(blob);
    place.classList.remove("waiting", "unfinished");
    place.ariaLabel = words("result-done", this.#numberOf(index));
    shapeFrame(frame, width, height);
    showAfter(frame, url, nameOf(source, this.#edit.fields.prompt));
    if (source?.width) {
      const label = words("result-compare", this.#numberOf(index));
      compareWith(frame, source, { width, height, stretched: keepsShape(this.#edit), label });
    }
    find(".facts", place).textContent = words("result-facts", { width, height, seed });
    this.#offer(place, url, blob, fileName(source, index, blob));
    return seed;
  }

  /** What did not come, and will not. */
  dropUnfinished() {
    for (const place of [...this.#list.querySelectorAll(".waiting, .unfinished")]) place.remove();
  }

  /** @param {number} index */
  #place(index) {
    const place = copyOf("result");
    place.classList.add("waiting");
    find(".facts", place).textContent = words("result-waiting");
    place.ariaLabel = words("result-waiting-name", this.#numberOf(index));
    shapeFrame(find(".compare", place), ...expectedSides(this.#edit, index));
    return place;
  }

  /**
   * @param {Element} place
   * @param {string} url
   * @param {Blob} blob
   * @param {string} name
   */
  #offer(place, url, blob, name) {
    const download = find("a[data-do=download]", place);
    const reuse = find("[data-do=reuse]", place);
    download.href = url;
    download.download = name;
    download.ariaLabel = words("result-download-name", { name });
    reuse.addEventListener("click", () => this.#reuse(new File([blob], name, { type: blob.type })));
    show(find(".row", place));
  }

  /** @param {number} index */
  #numberOf(index) {
    return { number: index + 1, count: outputsOf(this.#edit) };
  }

  /** @param {Blob} blob */
  #urlOf(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }
}

/**
 * Until the server tells; with several references it takes the shape of one that only the model knows.
 * @param {Edit} edit
 * @param {number} index
 * @returns {[width: number, height: number]}
 */
function expectedSides(edit, index) {
  if (!["auto", "source"].includes(edit.fields.size)) return sidesOf(edit.fields.size);
  const source = sourceOf(edit, index);
  return source?.width ? [source.width, source.height] : [1, 1];
}

/**
 * @param {string} size
 * @returns {[width: number, height: number]}
 */
function sidesOf(size) {
  const [width, height] = size.split("x").map(Number);
  return [width, height];
}

/**
 * @param {Picture | undefined} source
 * @param {string} prompt
 */
const nameOf = (source, prompt) =>
  source ? words("result-after-name", { name: source.name, prompt }) : words("result-made-name", { prompt });

/**
 * @param {Picture | undefined} source
 * @param {number} index
 * @param {Blob} blob
 */
function fileName(source, index, blob) {
  const stem = source ? `${stemOf(source)}-edited` : "picture";
  return `${stem}-${index + 1}.${blob.type.replace("image/", "").replace("jpeg", "jpg")}`;
}

/** @param {Picture} source */
const stemOf = (source) => source.name.replace(/\.[^.]+$/, "");
