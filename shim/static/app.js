// The page: listens to its controls and runs edits.

/** @import { Edit } from "./edit.js" */

import { find, findAll, mark, say, show } from "./dom.js";
import { run } from "./edit.js";
import { Failure } from "./failures.js";
import { applyLimits, isComplete, isFromPrompt, maskOf, readEdit, showForm } from "./form.js";
import { takePictures } from "./intake.js";
import { fillPage, words } from "./language.js";
import { MaskEditor } from "./mask.js";
import { Pictures } from "./pictures.js";
import { Results } from "./results.js";
import { readLimits, readModel, storedKey, storeKey } from "./server.js";
import { clearFailure, copyCommand, hideCommand, Progress, sayDone, showCommand, showFailure } from "./stage.js";
import { showThumbnails } from "./thumbnails.js";

fillPage();
const pictures = new Pictures();
const progress = new Progress();
const results = new Results(reuse);
const mask = new MaskEditor();
/** @type {import("./server.js").Limits | null} */
let limits = null; // as far as the server tells
/** @type {AbortController | null} */
let running = null; // of the edit under way

function render() {
  showForm(pictures, limits);
  if (!running) find("#run").textContent = runWords();
  showThumbnails(pictures, { masked: Boolean(maskOf(pictures)) });
}

function runWords() {
  if (limits?.layers) return words("run-layers");
  return isFromPrompt(pictures, limits) ? words("run-make") : words("run");
}

/** @param {File[]} files */
async function take(files) {
  if (!files.length) return;
  await pictures.add(files);
  const [{ name }] = files;
  say(files.length === 1 ? words("picture-added", { name }) : words("pictures-added", { count: files.length }));
}

/** @param {File} file */
async function reuse(file) {
  await pictures.replace(file);
  say(words("result-reused"));
  find("#prompt").focus();
}

async function paintMask() {
  const picture = pictures.first;
  if (!picture) return;
  const painted = await mask.edit(picture);
  if (painted !== undefined) pictures.setMask(picture, painted);
  find("#mask-open").focus();
}

async function start() {
  await pictures.settled;
  if (running || !isComplete(pictures, limits)) return;
  const edit = readEdit(pictures, limits);
  running = new AbortController();
  begin(edit);
  try {
    await follow(edit, running.signal);
    sayDone(edit, progress.seconds);
  } catch (error) {
    fail(error, running.signal.aborted);
  } finally {
    running = null;
    showRunning(false);
  }
}

/** @param {Edit} edit */
function begin(edit) {
  clearFailure();
  hideCommand();
  mark("key");
  show(find("#empty"), false);
  showRunning(true);
  results.begin(edit);
  bringIntoView(find("#stage"));
}

/**
 * @param {Edit} edit
 * @param {AbortSignal} signal
 */
async function follow(edit, signal) {
  let seed = edit.fields.seed;
  for await (const news of run(edit, signal)) {
    progress.show(news);
    if (news.kind === "partial") results.showPartial(news);
    if (news.kind === "output") {
      const made = results.showOutput(news);
      if (news.index === 0) seed = made;
    }
  }
  showCommand(edit, seed);
}

/**
 * @param {unknown} error
 * @param {boolean} cancelled
 */
function fail(error, cancelled) {
  results.dropUnfinished();
  if (cancelled) {
    show(find("#empty"), !find("#results").children.length);
    return say(words("cancelled"));
  }
  if (!(error instanceof Failure)) throw error;
  showFailure(error);
  if (error.code === "UNAUTHORIZED") askForKey();
}

function askForKey() {
  show(find("#key-section"));
  mark("key", storedKey() ? words("key-unknown") : words("key-asked"));
  find("#key").focus();
}

/**
 * The focus goes along from the button that cannot be pressed any more to the one that can.
 * @param {boolean} isRunning
 */
function showRunning(isRunning) {
  const [run, cancel] = [find("button#run"), find("button#cancel")];
  const focused = document.activeElement;
  run.disabled = isRunning;
  run.textContent = isRunning ? words("running") : runWords();
  if (isRunning) progress.begin();
  else progress.end();
  if (focused === (isRunning ? run : cancel)) (isRunning ? cancel : run).focus({ preventScroll: true });
}

/**
 * On a phone the stage is below the form.
 * @param {HTMLElement} element
 */
function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) element.scrollIntoView();
}

async function showServer() {
  limits = await readLimits();
  if (limits) applyLimits(limits);
  render();
  if (limits && (!limits.needsKey || storedKey())) await showModel();
}

async function showModel() {
  const name = await readModel();
  find("#model").textContent = name;
  show(find("#model"), Boolean(name));
}

function listen() {
  const key = find("input#key");
  pictures.addEventListener("change", render);
  takePictures(take);
  find("#form").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  find("#form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  });
  for (const choice of findAll("input[name=mode], #size")) choice.addEventListener("change", render);
  for (const name of ["prompt", "key"]) find(`#${name}`).addEventListener("input", () => mark(name));
  key.addEventListener("input", () => storeKey(key.value.trim()));
  key.addEventListener("change", () => storedKey() && showModel());
  find("#cancel").addEventListener("click", () => running?.abort());
  find("#copy").addEventListener("click", copyCommand);
  find("#mask-open").addEventListener("click", paintMask);
  find("#mask-remove").addEventListener("click", () => {
    if (pictures.first) pictures.setMask(pictures.first, null);
    find("#mask-open").focus();
  });
}

find("input#key").value = storedKey();
listen();
render();
showServer();
