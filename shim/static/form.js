// The form: what it offers, and the edit that it describes.

import { find, findAll, mark, show } from "./dom.js";

const OPTIONAL = { steps: "num_inference_steps", seed: "seed", guidance: "true_cfg_scale", negative: "negative_prompt" };

/** @param {import("./server.js").Limits | null} limits */
export function showForm(pictures, limits) {
  const several = pictures.count > 1;
  const batch = isBatch(pictures);
  show(find("#mode"), several);
  show(find("#mode-hint"), several);
  find("#mode-hint").textContent = batch ? "One edit of every picture." : aboutReferences(pictures.count, limits);
  show(find("#free-size"), find("#size").value === "free");
  showMask(pictures, batch);
}

function aboutReferences(count, limits) {
  if (limits && count > limits.references) {
    return `This server takes at most ${limits.references} pictures of one edit.`;
  }
  return "One edit that sees all pictures. Call them the first, the second … in your prompt.";
}

function showMask(pictures, batch) {
  const { first } = pictures;
  const possible = Boolean(first?.width) && !batch;
  show(find("#mask-row"), Boolean(first));
  find("#mask-open").disabled = !possible;
  find("#mask-open span").textContent = first?.mask ? "Change mask" : "Paint a mask";
  show(find("#mask-remove"), possible && Boolean(first?.mask));
  find("#mask-hint").textContent = maskWords(first, batch, pictures.count);
}

function maskWords(first, batch, count) {
  if (batch) return "A mask needs one picture, or pictures together.";
  if (first && !first.width) return "This browser cannot show the picture, so it cannot be painted on.";
  return count > 1 ? "Only what you paint of the first picture will change." : "Only what you paint will change.";
}

export const isBatch = (pictures) => pictures.count > 1 && find("input[name=mode]:checked").value === "batch";

/** The maskable picture's mask, if the mode lets it be sent. */
export const maskOf = (pictures) => (isBatch(pictures) ? null : (pictures.first?.mask ?? null));

export function applyLimits(limits) {
  find("#steps").max = limits.steps;
  find("#count").max = limits.variants;
  show(find("#key-section"), limits.needsKey);
}

/** Marks what is missing or wrong, with the focus on the first of it. */
export function isComplete(pictures) {
  const prompt = find("#prompt");
  mark("pictures", pictures.count ? "" : "Choose at least one picture.");
  mark("prompt", prompt.value.trim() ? "" : "Say what should change.");
  if (!pictures.count) find("#files").focus();
  else if (!prompt.value.trim()) prompt.focus();
  else return areNumbersValid();
  return false;
}

/** The browser says what is wrong with a number; it cannot where the field is folded away. */
function areNumbersValid() {
  const fields = findAll("#form input").filter((field) => !field.closest("[hidden]"));
  const more = find("#more");
  more.open ||= fields.some((field) => more.contains(field) && !field.validity.valid);
  return fields.every((field) => field.reportValidity());
}

/** @returns {import("./edit.js").Edit} */
export function readEdit(pictures) {
  const value = (id) => find(`#${id}`).value.trim();
  const size = value("size") === "free" ? `${value("width")}x${value("height")}` : value("size");
  const variants = Number(value("count"));
  const fields = { prompt: value("prompt"), size };
  if (variants > 1) fields.n = String(variants);
  for (const [id, name] of Object.entries(OPTIONAL)) if (value(id)) fields[name] = value(id);
  if (value("format") !== "png") fields.output_format = value("format");
  return {
    part: isBatch(pictures) ? "images" : "image[]",
    pictures: pictures.all,
    mask: maskOf(pictures)?.blob ?? null,
    fields,
    variants,
  };
}
