// The dialog in which a mask is painted: with a pointer, with the keyboard, or by numbers.

import { find, findAll } from "./dom.js";
import { words } from "./language.js";
import { contextOf, draw, drawAll, EVERYTHING, maskFile, paintedShare, veilOf } from "./strokes.js";

/** @import { Line, Point, Stroke } from "./strokes.js" */

/** @typedef {{blob: Blob, veil: string, strokes: Stroke[]}} Mask */

const LONGEST_SIDE = 2048; // of the mask: the server needs its proportions, not the picture's pixels
const COLOUR = "#4f46d8";
/** @type {Record<string, Point>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NUDGE = 0.02; // of a side, for an arrow key; five times as much with Shift

export class MaskEditor {
  #dialog = find("dialog#mask");
  #canvas = find("canvas#mask-canvas");
  #context = contextOf(this.#canvas, { willReadFrequently: true });
  /** @type {Stroke[]} */
  #strokes = [];
  /** @type {Line | null} */
  #line = null; // under the brush now
  /** @type {Point} */
  #at = [0.5, 0.5];
  #used = false;

  constructor() {
    this.#listenToPointer();
    this.#listenToKeys();
    this.#listenToTools();
  }

  /**
   * Resolves to the mask, to null where nothing is painted, and to undefined if the dialog was left without a change.
   * @param {import("./pictures.js").Picture} picture
   * @returns {Promise<Mask | null | undefined>}
   */
  async edit(picture) {
    this.#begin(picture);
    this.#dialog.showModal();
    this.#canvas.focus();
    await new Promise((resolve) => this.#dialog.addEventListener("close", resolve, { once: true }));
    if (!this.#used) return undefined;
    if (!paintedShare(this.#context)) return null;
    const painted = this.#canvas;
    return { blob: await maskFile(painted), veil: veilOf(painted), strokes: this.#strokes };
  }

  /** @param {import("./pictures.js").Picture} picture */
  #begin(picture) {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
    this.#canvas.width = Math.max(1, Math.round(picture.width * scale));
    this.#canvas.height = Math.max(1, Math.round(picture.height * scale));
    this.#context.fillStyle = this.#context.strokeStyle = COLOUR;
    find("img#mask-picture").src = picture.url;
    find("#easel").style.setProperty("--ratio", String(picture.width / picture.height));
    this.#strokes = [...(picture.mask?.strokes ?? [])];
    this.#used = false;
    this.#line = null;
    this.#moveTo([0.5, 0.5]);
    this.#redraw();
  }

  #listenToPointer() {
    this.#canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.#canvas.setPointerCapture(event.pointerId);
      this.#press(this.#placeOf(event));
    });
    this.#canvas.addEventListener("pointermove", (event) => {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this.#moveTo(this.#placeOf(each));
    });
    for (const kind of ["pointerup", "pointercancel"]) this.#canvas.addEventListener(kind, () => this.#lift());
  }

  /**
   * @param {PointerEvent} event
   * @returns {Point}
   */
  #placeOf({ clientX, clientY }) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  }

  #listenToKeys() {
    this.#canvas.addEventListener("keydown", (event) => {
      const direction = ARROWS[event.key];
      if (direction) {
        const by = event.shiftKey ? 5 * NUDGE : NUDGE;
        const [x, y] = direction;
        this.#moveTo([clamp(this.#at[0] + x * by), clamp(this.#at[1] + y * by)]);
      } else if (event.key === " ") {
        if (!event.repeat) this.#press(this.#at);
      } else return;
      event.preventDefault();
    });
    this.#canvas.addEventListener("keyup", (event) => event.key === " " && this.#lift());
    this.#canvas.addEventListener("blur", () => this.#lift());
  }

  #listenToTools() {
    /** @type {(selector: string, action: () => void) => void} */
    const act = (selector, action) => find(selector).addEventListener("click", action);
    act("#mask-undo", () => this.#undo());
    act("#mask-clear", () => this.#add({ kind: "clear" }));
    act("#mask-all", () => this.#add(EVERYTHING));
    act("#mask-use", () => {
      this.#used = true;
      this.#dialog.close();
    });
    for (const button of findAll("[data-close]", this.#dialog)) {
      button.addEventListener("click", () => this.#dialog.close());
    }
    find("#brush-size").addEventListener("input", () => this.#showBrush());
    find("#rectangle").addEventListener("submit", (event) => {
      event.preventDefault();
      const share = (/** @type {string} */ side) => find(`input#rect-${side}`).valueAsNumber / 100;
      this.#add({
        kind: "rectangle",
        left: share("left"),
        top: share("top"),
        width: share("width"),
        height: share("height"),
      });
    });
  }

  get #brush() {
    return find("input#brush-size").valueAsNumber / 100;
  }

  /** @param {Point} place */
  #press(place) {
    const erase = find("input[name=tool]:checked").value === "erase";
    this.#moveTo(place);
    this.#line = { kind: "line", erase, brush: this.#brush, points: [place] };
    draw(this.#context, this.#line);
  }

  /** @param {Point} place */
  #moveTo(place) {
    if (this.#line) {
      this.#line.points.push(place);
      draw(this.#context, { ...this.#line, points: this.#line.points.slice(-2) });
    }
    this.#at = place;
    this.#showBrush();
  }

  #lift() {
    if (!this.#line) return;
    this.#strokes.push(this.#line);
    this.#line = null;
    this.#showShare();
  }

  /** @param {Stroke} stroke */
  #add(stroke) {
    this.#strokes.push(stroke);
    draw(this.#context, stroke);
    this.#showShare();
  }

  #undo() {
    this.#strokes.pop();
    this.#redraw();
  }

  #redraw() {
    drawAll(this.#context, this.#strokes);
    this.#showShare();
  }

  #showBrush() {
    const { style } = find("#brush");
    const { width, height } = this.#canvas;
    style.left = `${this.#at[0] * 100}%`;
    style.top = `${this.#at[1] * 100}%`;
    style.width = `${(this.#brush * Math.min(width, height) * 100) / width}%`;
  }

  #showShare() {
    find("#mask-share").textContent = shareWords(paintedShare(this.#context));
    find("button#mask-undo").disabled = !this.#strokes.length;
  }
}

/** @param {number} share */
function shareWords(share) {
  if (!share) return words("mask-share-none");
  return share < 0.01 ? words("mask-share-small") : words("mask-share", { percent: Math.round(share * 100) });
}

const clamp = (/** @type {number} */ share) => Math.min(1, Math.max(0, share));
