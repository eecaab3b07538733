// The right side of the page: how far the edit is, what came of it, or why nothing did.

import { curlOf } from "./curl.js";
import { copyOf, find, say, show } from "./dom.js";
import { outputsOf } from "./edit.js";
import { addressOf, EDITS, storedKey } from "./server.js";

const TICK_MILLISECONDS = 500;

export class Progress {
  #began = 0;
  #clock = 0;

  begin() {
    this.#began = performance.now();
    this.#clock = setInterval(() => this.#showTime(), TICK_MILLISECONDS);
    this.#say("Sending the pictures …");
    find("#progress-bar").removeAttribute("value");
    this.#showTime();
    show(find("#progress"));
  }

  /** @param {import("./edit.js").News} news */
  show(news) {
    if (news.kind === "sent") this.#say("The server works on it …");
    if (news.kind !== "step") return;
    find("#progress-bar").value = news.done / news.steps;
    this.#say(`Step ${news.done} of ${news.steps}`);
  }

  end() {
    clearInterval(this.#clock);
    show(find("#progress"), false);
  }

  get seconds() {
    return (performance.now() - this.#began) / 1000;
  }

  #say(text) {
    find("#progress-text").textContent = text;
    say(text);
  }

  #showTime() {
    find("#progress-time").textContent = `${Math.floor(this.seconds)} s`;
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

export function showCommand(edit, seed) {
  find("#curl").textContent = curlOf(edit, addressOf(EDITS), seed, Boolean(storedKey()));
  const file = find("#mask-file");
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
    getSelection().selectAllChildren(text);
    document.execCommand("copy");
  }
  const label = find("#copy span");
  label.textContent = "Copied";
  say("The command was copied.");
  setTimeout(() => (label.textContent = "Copy"), 2000);
}

export function sayDone(edit, seconds) {
  const count = outputsOf(edit);
  say(`Done in ${Math.round(seconds)} seconds: ${count} ${count === 1 ? "picture" : "pictures"}.`);
}
