// The pictures to edit, in order. The first one is what a mask is painted on and what a result is compared with.

/**
 * @typedef {object} Picture
 * @property {File} file
 * @property {string} name    unlike every other's, as a command names them by it
 * @property {string} url     lives as long as the page: a result may still be compared with a removed picture
 * @property {number} width   0 where the browser cannot show the file; the server may still read it
 * @property {number} height
 * @property {import("./mask.js").Mask | null} mask
 */

export class Pictures extends EventTarget {
  /** @type {Picture[]} */
  #list = [];
  /** @type {Promise<unknown>} */
  #adding = Promise.resolve();

  get all() {
    return [...this.#list];
  }

  get count() {
    return this.#list.length;
  }

  get first() {
    return this.#list.at(0);
  }

  /** Resolves when all pictures are read that were added so far. */
  get settled() {
    return this.#adding;
  }

  /**
   * In the order of the calls, however long a picture takes to be read.
   * @param {File[]} files
   */
  add(files) {
    this.#adding = Promise.all([this.#adding, ...files.map(readPicture)]).then(([, ...read]) => {
      for (const picture of read) this.#list.push({ ...picture, name: this.#freeName(picture.file.name) });
      this.#changed();
    });
    return this.#adding;
  }

  /** @param {File} file */
  replace(file) {
    this.#list = [];
    return this.add([file]);
  }

  /** @param {Picture} picture */
  remove(picture) {
    this.#list.splice(this.#list.indexOf(picture), 1);
    this.#changed();
  }

  /**
   * By one place to the left (-1) or right (1).
   * @param {Picture} picture
   * @param {number} by
   */
  move(picture, by) {
    const from = this.#list.indexOf(picture);
    this.#list.splice(from, 1);
    this.#list.splice(from + by, 0, picture);
    this.#changed();
  }

  /**
   * @param {Picture} picture
   * @param {Picture["mask"]} mask
   */
  setMask(picture, mask) {
    picture.mask = mask;
    this.#changed();
  }

  /** @param {string} name */
  #freeName(name) {
    const [stem, ending] = splitName(name || "picture.png");
    const taken = new Set(this.#list.map((picture) => picture.name));
    let free = `${stem}${ending}`;
    for (let number = 2; taken.has(free); number += 1) free = `${stem}-${number}${ending}`;
    return free;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {File} file */
async function readPicture(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  const shown = await image.decode().then(() => true, () => false);
  const [width, height] = shown ? [image.naturalWidth, image.naturalHeight] : [0, 0];
  return { file, url, width, height, mask: null };
}

/** @param {string} name */
function splitName(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
}
