// The right side of the page: how far the edit is, what came of it, or why nothing did.

import { curlOf } from "./curl.js";
import { copyOf, find, say, show } from "./dom.js";
import { outputsOf, pathOf } from "./edit.js";
import { words } from "./language.js";
import { addressOf, storedKey } from "./server.js";

/** @import { Edit } from "./edit.js" */

const TICK_MILLISECONDS = 500;

export class Progress {
  #began = 0;
  #clock = 0;

  begin() {
    this.#began = performance.now();
    this.#clock = setInterval(() => this.#showTime(), TICK_MILLISECONDS);
    this.#say(words("progress-sending"));
    find("#progress-bar").removeAttribute("value");
    this.#showTime();
    show(find("#progress"));
  }

  /** @param {import("./edit.js").News} news */
  show(news) {
    if (news.kind === "sent") this.#say(words("progress-sent"));
    if (news.kind !== "step") return;
    find("progress#progress-bar").value = news.done / news.steps;
    this.#say(words("progress-step", news));
  }

  end() {
    clearInterval(this.#clock);
    show(find("#progress"), false);
  }

  get seconds() {
    return (performance.now() - this.#began) / 1000;
  }

  /** @param {string} text */
  #say(text) {
    find("#progress-text").textContent = text;
    say(text);
  }

  #showTime() {
    find("#progress-time").textContent = words("progress-seconds", { seconds: Math.floor(this.seconds) });
  }
}

/** @param {import("./failures.js").Failure} failure */
export function showFailure(failure) {
  const card = copyOf("words");
  find("h2", card).textContent = failure.title;
  find(".said", card).textContent = failure.message;
  find(".trace", card).textContent = failure.trace;
  find("#failure").replaceChildren(card);
}

export function clearFailure() {
  find("#failure").replaceChildren();
}

/**
 * @param {Edit} edit
 * @param {string} seed
 */
export function showCommand(edit, seed) {
  find("#curl").textContent = curlOf(edit, addressOf(pathOf(edit)), seed, Boolean(storedKey()));
  const file = find("a#mask-file");
  URL.revokeObjectURL(file.href);
  if (edit.mask) file.href = URL.createObjectURL(edit.mask);
  show(find("#command-mask"), Boolean(edit.mask));
  show(find("#command"));
}

export const hideCommand = () => show(find("#command"), false);

/** The clipboard's own interface is only there on https and on this machine's own address. */
export async function copyCommand() {
  const text = find("#curl");
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    getSelection()?.selectAllChildren(text);
    document.execCommand("copy");
  }
  const label = find("#copy span");
  label.textContent = words("copied");
  say(words("command-copied"));
  setTimeout(() => (label.textContent = words("copy")), 2000);
}

/**
 * @param {Edit} edit
 * @param {number} seconds
 */
export function sayDone(edit, seconds) {
  const told = { seconds: Math.round(seconds), count: outputsOf(edit) };
  say(told.count === 1 ? words("done-one", told) : words("done-several", told));
}
