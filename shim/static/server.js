// What the page knows of its server: the limits in its description, the model, and the key.

const KEY = "api-key";
export const EDITS = "v1/images/edits";
export const GENERATIONS = "v1/images/generations";

/**
 * Relative to the page, which a proxy may serve under a prefix.
 * @param {string} path
 */
export const addressOf = (path) => new URL(path, document.baseURI).href;

export const storedKey = () => sessionStorage.getItem(KEY) ?? "";

/** @param {string} key */
export function storeKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/**
 * Without credentials: else the browser would answer a 401 with its own password box.
 * A header carries Latin-1, and a key in UTF-8 is what the server expects.
 * @param {string} path
 * @param {RequestInit} options
 */
export function ask(path, options = {}) {
  const key = storedKey();
  /** @type {HeadersInit} */
  const headers = key ? { Authorization: `Bearer ${asBytes(key)}` } : {};
  return fetch(addressOf(path), { credentials: "omit", cache: "no-store", headers, ...options });
}

const asBytes = (/** @type {string} */ text) => String.fromCharCode(...new TextEncoder().encode(text));

/**
 * @typedef {{minimum: number, maximum: number}} Range
 *
 * @typedef {object} Limits
 * @property {boolean} needsKey
 * @property {number} references  pictures of one edit
 * @property {number} layers      most of a picture that is taken apart; 0: it is edited
 * @property {boolean} generates  whether the model makes pictures of a prompt alone
 * @property {Range} steps
 * @property {Range} guidance
 * @property {Range} variants
 * @property {Range} sides
 * @property {number} pixels      width times height
 */

/**
 * From the server's description; null where that cannot be read.
 * @returns {Promise<Limits | null>}
 */
export async function readLimits() {
  try {
    const description = await (await ask("openapi.json")).json();
    const operation = description.paths[`/${EDITS}`].post;
    const fields = operation.requestBody.content["multipart/form-data"].schema.properties;
    return {
      needsKey: !operation.security.some((/** @type {object} */ scheme) => Object.keys(scheme).length === 0),
      references: fields.image.maxItems,
      layers: description.paths[`/${EDITS}`].post["x-layers"] ?? 0,
      generates: description.paths[`/${GENERATIONS}`].post["x-available"] === true,
      steps: fields.num_inference_steps,
      guidance: fields.true_cfg_scale,
      variants: fields.n,
      sides: fields.size["x-sides"],
      pixels: fields.size["x-pixels"].maximum,
    };
  } catch {
    return null;
  }
}

/** The model's name, or "" where the server does not tell. */
export async function readModel() {
  try {
    const models = await (await ask("v1/models")).json();
    return models.data[0].id;
  } catch {
    return "";
  }
}
