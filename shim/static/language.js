// The page's language is the first of the browser's that the table has.

import { findAll } from "./dom.js";
import { WORDS } from "./words.js";

/**
 * The names that stand in braces in a text.
 * @template {string} Text
 * @typedef {Text extends `${string}{${infer Name}}${infer Rest}` ? Name | NamesIn<Rest> : never} NamesIn
 */

const LANGUAGES = ["en", "zh-CN"]; // in the order of the table
const ATTRIBUTES = ["aria-label", "content", "placeholder", "title"];

/** @type {Record<string, readonly [string, string]>} */
const table = WORDS;
const language = chosenLanguage();

function chosenLanguage() {
  const known = LANGUAGES.map(baseOf);
  const wanted = navigator.languages.map(baseOf).find((base) => known.includes(base));
  return wanted ? known.indexOf(wanted) : 0;
}

/** @param {string} tag  such as zh-TW */
function baseOf(tag) {
  return tag.split("-")[0].toLowerCase();
}

/**
 * @template {keyof typeof WORDS} Key
 * @typedef {Record<NamesIn<(typeof WORDS)[Key][0]>, string | number>} Values
 */

/**
 * @template {keyof typeof WORDS} Key
 * @param {Key} key
 * @param {{} extends Values<Key> ? [] : [Values<Key>]} values
 */
export function words(key, ...values) {
  /** @type {Record<string, string | number>} */
  const named = values[0] ?? {};
  return textOf(key).replace(/\{(\w+)\}/g, (_, name) => String(named[name]));
}

/** For a key that comes from the server; "" where the table lacks it. */
export const wordsIfAny = (/** @type {string} */ key) => (Object.hasOwn(table, key) ? textOf(key) : "");

const textOf = (/** @type {string} */ key) => table[key][language];

/** `data-words="key"` stands for an element's text, `data-words-title="key"` for its title. */
export function fillPage() {
  document.documentElement.lang = LANGUAGES[language];
  for (const root of [document, ...findAll("template").map(({ content }) => content)]) {
    for (const element of findAll("[data-words]", root)) element.textContent = textIn(element, "data-words");
    for (const name of ATTRIBUTES) {
      const marked = `data-words-${name}`;
      for (const element of findAll(`[${marked}]`, root)) element.setAttribute(name, textIn(element, marked));
    }
  }
}

/**
 * @param {Element} element
 * @param {string} attribute
 */
function textIn(element, attribute) {
  return textOf(element.getAttribute(attribute) ?? "");
}
