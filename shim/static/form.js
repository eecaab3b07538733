// The form: what it offers, and the edit that it describes.

import { find, findAll, mark, show } from "./dom.js";
import { words } from "./language.js";

/**
 * @import { Edit } from "./edit.js"
 * @import { Picture, Pictures } from "./pictures.js"
 * @import { Limits, Range } from "./server.js"
 */

const OPTIONAL = {
  steps: "num_inference_steps",
  seed: "seed",
  guidance: "true_cfg_scale",
  negative: "negative_prompt",
};

/**
 * @param {Pictures} pictures
 * @param {Limits | null} limits
 */
export function showForm(pictures, limits) {
  const several = pictures.count > 1;
  const fromPrompt = isFromPrompt(pictures, limits);
  show(find("#pictures-hint"), fromPrompt);
  find("#prompt-label").textContent = limits?.layers ? words("prompt-layers") : fromPrompt ? words("prompt-make") : words("prompt");
  show(find("#apart"), Boolean(limits?.layers));
  show(find("#shape"), !limits?.layers);
  const batch = isBatch(pictures);
  show(find("#mode"), several);
  show(find("#mode-hint"), several);
  find("#mode-hint").textContent = batch ? words("mode-batch-hint") : aboutReferences(pictures.count, limits);
  show(find("#free-size"), find("select#size").value === "free");
  showMask(pictures, batch);
  if (limits?.layers) show(find("#mask-row"), false);
}

/**
 * Whether a picture of the prompt alone is made.
 * @param {Pictures} pictures
 * @param {Limits | null} limits
 */
export const isFromPrompt = (pictures, limits) => !pictures.count && Boolean(limits?.generates);

/**
 * @param {number} count
 * @param {Limits | null} limits
 */
function aboutReferences(count, limits) {
  if (limits && count > limits.references) return words("mode-references-many", { count: limits.references });
  return words("mode-references-hint");
}

/**
 * @param {Pictures} pictures
 * @param {boolean} batch
 */
function showMask(pictures, batch) {
  const { first } = pictures;
  const possible = Boolean(first?.width) && !batch;
  show(find("#mask-row"), Boolean(first));
  find("button#mask-open").disabled = !possible;
  find("#mask-open span").textContent = first?.mask ? words("mask-change") : words("mask-paint");
  show(find("#mask-remove"), possible && Boolean(first?.mask));
  find("#mask-hint").textContent = maskWords(first, batch, pictures.count);
}

/**
 * @param {Picture | undefined} first
 * @param {boolean} batch
 * @param {number} count
 */
function maskWords(first, batch, count) {
  if (batch) return words("mask-hint-batch");
  if (first && !first.width) return words("mask-hint-unseeable");
  return count > 1 ? words("mask-hint-first") : words("mask-hint");
}

/** @param {Pictures} pictures */
export const isBatch = (pictures) => pictures.count > 1 && find("input[name=mode]:checked").value === "batch";

/**
 * The maskable picture's mask, if the mode lets it be sent.
 * @param {Pictures} pictures
 */
export const maskOf = (pictures) => (isBatch(pictures) ? null : (pictures.first?.mask ?? null));

/** @param {Limits} limits */
export function applyLimits(limits) {
  limitTo(limits.steps, find("input#steps"));
  limitTo(limits.guidance, find("input#guidance"));
  limitTo(limits.variants, find("input#count"));
  limitTo(limits.sides, find("input#width"), find("input#height"));
  for (const option of findAll("option[value*=x]")) option.disabled = !isPossible(option.value, limits);
  find("#free-size").addEventListener("input", () => checkPixels(limits.pixels));
  checkPixels(limits.pixels);
  show(find("#key-section"), limits.needsKey);
  find("option[value=jpeg]").disabled = limits.layers > 0;
}

/**
 * @param {Range} range
 * @param {HTMLInputElement[]} inputs
 */
function limitTo({ minimum, maximum }, ...inputs) {
  for (const input of inputs) {
    input.min = String(minimum);
    input.max = String(maximum);
  }
}

/**
 * @param {string} size
 * @param {Limits} limits
 */
function isPossible(size, { sides, pixels }) {
  const [width, height] = size.split("x").map(Number);
  return Math.max(width, height) <= sides.maximum && width * height <= pixels;
}

/** @param {number} pixels */
function checkPixels(pixels) {
  const [width, height] = [find("input#width"), find("input#height")];
  const tooMany = width.valueAsNumber * height.valueAsNumber > pixels;
  height.setCustomValidity(tooMany ? words("size-large", { pixels }) : "");
}

/**
 * Marks what is missing or wrong, with the focus on the first of it.
 * @param {Pictures} pictures
 * @param {Limits | null} limits
 */
export function isComplete(pictures, limits) {
  const prompt = find("textarea#prompt");
  const enough = pictures.count > 0 || isFromPrompt(pictures, limits);
  mark("pictures", enough ? "" : words("pictures-missing"));
  const said = Boolean(limits?.layers) || Boolean(prompt.value.trim());
  mark("prompt", said ? "" : words("prompt-missing"));
  if (!enough) find("#files").focus();
  else if (!said) prompt.focus();
  else return areNumbersValid();
  return false;
}

/** The browser says what is wrong with a number; it cannot where the field is folded away. */
function areNumbersValid() {
  const inputs = /** @type {HTMLInputElement[]} */ (findAll("#form input"));
  const fields = inputs.filter((field) => !field.closest("[hidden]"));
  const more = find("details#more");
  more.open ||= fields.some((field) => more.contains(field) && !field.validity.valid);
  return fields.every((field) => field.reportValidity());
}

/**
 * @param {Pictures} pictures
 * @param {Limits | null} limits
 * @returns {Edit}
 */
export function readEdit(pictures, limits) {
  const controls = find("form#form").elements;
  const value = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (controls.namedItem(id)).value.trim();
  const chosen = value("size") === "source" && !pictures.count ? "auto" : value("size");
  const size = chosen === "free" ? `${value("width")}x${value("height")}` : chosen;
  const variants = limits?.layers ? 1 : Number(value("count"));
  /** @type {Edit["fields"]} */
  const fields = { prompt: value("prompt"), size: limits?.layers ? "auto" : size };
  if (limits?.layers) Object.assign(fields, { layers: value("layers"), resolution: value("resolution") });
  if (variants > 1) fields.n = String(variants);
  for (const [id, name] of Object.entries(OPTIONAL)) if (value(id)) fields[name] = value(id);
  if (value("format") !== "png") fields.output_format = value("format");
  return {
    part: isBatch(pictures) ? "images" : "image[]",
    pictures: pictures.all,
    mask: limits?.layers ? null : (maskOf(pictures)?.blob ?? null),
    fields,
    variants,
  };
}
