// The outputs of one edit, each in its place from the start: waiting, then unfinished, then done.

import { compareWith, shapeFrame, showAfter } from "./compare.js";
import { copyOf, find, show } from "./dom.js";
import { keepsShape, outputsOf, seedOf, sourceOf } from "./edit.js";

export class Results {
  #list = find("#results");
  #edit = null;
  #urls = [];
  #reuse;

  /** @param {(file: File) => void} reuse  what happens to a result that becomes the input */
  constructor(reuse) {
    this.#reuse = reuse;
  }

  begin(edit) {
    this.clear();
    this.#edit = edit;
    const places = Array.from({ length: outputsOf(edit) }, (_, index) => this.#place(index));
    this.#list.replaceChildren(...places);
    this.#list.classList.toggle("several", places.length > 1);
  }

  clear() {
    this.#list.replaceChildren();
    this.#urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  }

  showPartial({ index, blob, size }) {
    const place = this.#list.children[index];
    const frame = find(".compare", place);
    place.classList.replace("waiting", "unfinished");
    find(".facts", place).textContent = "Taking shape …";
    shapeFrame(frame, ...sidesOf(size));
    showAfter(frame, this.#urlOf(blob), `Unfinished picture ${this.#nameOf(index)}`);
  }

  /** @returns {string} its seed */
  showOutput({ index, blob, size, seed: reported }) {
    const place = this.#list.children[index];
    const frame = find(".compare", place);
    const [width, height] = sidesOf(size);
    const seed = seedOf(this.#edit, index, reported);
    const source = sourceOf(this.#edit, index);
    const url = this.#urlOf(blob);
    place.classList.remove("waiting", "unfinished");
    place.ariaLabel = `Result ${this.#nameOf(index)}`;
    shapeFrame(frame, width, height);
    showAfter(frame, url, `${source.name} after “${this.#edit.fields.prompt}”`);
    if (source.width) {
      const label = `Before and after, ${this.#nameOf(index)}`;
      compareWith(frame, source, { width, height, stretched: keepsShape(this.#edit), label });
    }
    find(".facts", place).textContent = `${width} × ${height} · seed ${seed}`;
    this.#offer(place, url, blob, fileName(source.name, index, blob));
    return seed;
  }

  /** What did not come, and will not. */
  dropUnfinished() {
    for (const place of [...this.#list.querySelectorAll(".waiting, .unfinished")]) place.remove();
  }

  #place(index) {
    const place = copyOf("result");
    place.classList.add("waiting");
    find(".facts", place).textContent = "Waiting …";
    place.ariaLabel = `Result ${this.#nameOf(index)}, in the making`;
    shapeFrame(find(".compare", place), ...expectedSides(this.#edit, index));
    return place;
  }

  #offer(place, url, blob, name) {
    const [download, reuse] = ["download", "reuse"].map((action) => find(`[data-do=${action}]`, place));
    download.href = url;
    download.download = name;
    download.ariaLabel = `Download ${name}`;
    reuse.addEventListener("click", () => this.#reuse(new File([blob], name, { type: blob.type })));
    show(download.parentElement);
  }

  #nameOf(index) {
    return `${index + 1} of ${outputsOf(this.#edit)}`;
  }

  #urlOf(blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    return url;
  }
}

/** Until the server tells; with several references it takes the shape of one that only the model knows. */
function expectedSides(edit, index) {
  if (edit.fields.size !== "auto") return sidesOf(edit.fields.size);
  const { width, height } = sourceOf(edit, index);
  return width ? [width, height] : [1, 1];
}

const sidesOf = (size) => size.split("x").map(Number);

function fileName(source, index, blob) {
  const stem = source.replace(/\.[^.]+$/, "");
  return `${stem}-edited-${index + 1}.${blob.type.replace("image/", "").replace("jpeg", "jpg")}`;
}
