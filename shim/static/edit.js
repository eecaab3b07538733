// One edit: what was asked for, how it is sent, and what comes back.

import { readEvents } from "./events.js";
import { Failure, brokenOff, failureOf, refusalOf } from "./failures.js";
import { ask, EDITS, GENERATIONS } from "./server.js";

const PARTIAL_IMAGES = "2";
const SEEDS = 2n ** 63n;

/**
 * @typedef {object} Edit
 * @property {string} part       the name of the file parts: "image[]" are references of one edit, "images" a batch
 * @property {import("./pictures.js").Picture[]} pictures
 * @property {Blob | null} mask
 * @property {{prompt: string, size: string} & Record<string, string>} fields  only those that are set
 * @property {number} variants
 *
 * @typedef {{kind: "sent"}
 *   | {kind: "step", done: number, steps: number}
 *   | {kind: "partial", index: number, blob: Blob, size: string}
 *   | {kind: "output", index: number, blob: Blob, size: string, seed: number}} News
 */

/**
 * Of each picture; 0 where it is edited instead.
 * @param {Edit} edit
 */
export const layersOf = (edit) => Number(edit.fields.layers ?? 0);

/** @param {Edit} edit */
export const outputsOf = (edit) =>
  edit.variants * (edit.part === "images" ? edit.pictures.length : 1) * (layersOf(edit) || 1);

/**
 * Where it is sent.
 * @param {Edit} edit
 */
export const pathOf = (edit) => (edit.pictures.length ? EDITS : GENERATIONS);

/**
 * The picture that the output was made of; none of an output of the prompt alone.
 * @param {Edit} edit
 * @param {number} index
 * @returns {import("./pictures.js").Picture | undefined}
 */
export const sourceOf = (edit, index) => edit.pictures[edit.part === "images" ? Math.floor(index / edit.variants) : 0];

/**
 * Whether the outputs have the shape of their source, as far as the model can make it.
 * @param {Edit} edit
 */
export const keepsShape = (edit) =>
  edit.fields.size === "source" ||
  (edit.fields.size === "auto" && (edit.part === "images" || edit.pictures.length === 1 || Boolean(edit.mask)));

/**
 * The seed in full: JSON has rounded a large one.
 * @param {Edit} edit
 * @param {number} index
 * @param {number} reported
 */
export function seedOf(edit, index, reported) {
  if (!edit.fields.seed) return String(reported);
  return String((BigInt(edit.fields.seed) + BigInt(index % edit.variants)) % SEEDS);
}

/**
 * Throws a Failure, or the signal's AbortError.
 * @param {Edit} edit
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<News>}
 */
export async function* run(edit, signal) {
  const response = await send(edit, signal);
  if (!response.ok || !response.body) throw await refusalOf(response);
  yield { kind: "sent" };
  let outputs = 0;
  try {
    for await (const frame of readEvents(response.body)) {
      const news = newsOf(frame);
      if (news?.kind === "output") outputs += 1;
      if (news) yield news;
    }
  } catch (error) {
    throw error instanceof Failure || signal.aborted ? error : brokenOff(true);
  }
  if (outputs < outputsOf(edit)) throw brokenOff(true);
}

/**
 * @param {Edit} edit
 * @param {AbortSignal} signal
 */
async function send(edit, signal) {
  try {
    return await ask(pathOf(edit), { method: "POST", body: formOf(edit), signal });
  } catch (error) {
    throw signal.aborted ? error : brokenOff(false);
  }
}

/** @param {Edit} edit */
function formOf(edit) {
  const form = new FormData();
  for (const { file, name } of edit.pictures) form.append(edit.part, file, name);
  if (edit.mask) form.append("mask", edit.mask, "mask.png");
  for (const [name, value] of Object.entries(edit.fields)) form.append(name, value);
  form.append("stream", "true");
  form.append("partial_images", PARTIAL_IMAGES);
  return form;
}

/**
 * @param {import("./events.js").Frame} frame
 * @returns {News | null}
 */
function newsOf({ event, data, comment }) {
  if (data === undefined) return stepOf(comment);
  const told = JSON.parse(data);
  switch (event?.replace(/^image_(edit|generation)\./, "")) {
    case "error":
      throw failureOf(told);
    case "partial_image":
      return { kind: "partial", index: told.index ?? 0, blob: pictureOf(told), size: told.size };
    case "completed":
      return { kind: "output", index: told.index, blob: pictureOf(told), size: told.size, seed: told.seed };
    default:
      return null;
  }
}

/**
 * @param {string} comment
 * @returns {News | null}
 */
function stepOf(comment) {
  const progress = /^progress (\d+)\/(\d+)$/.exec(comment);
  return progress && { kind: "step", done: Number(progress[1]), steps: Number(progress[2]) };
}

/** @param {{b64_json: string, output_format: string}} told */
function pictureOf({ b64_json, output_format }) {
  const bytes = Uint8Array.fromBase64?.(b64_json) ?? Uint8Array.from(atob(b64_json), (byte) => byte.charCodeAt(0));
  return new Blob([bytes], { type: `image/${output_format}` });
}
