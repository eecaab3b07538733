// The page: listens to its controls and runs edits.

import { find, findAll, mark, say, show } from "./dom.js";
import { run } from "./edit.js";
import { Failure } from "./failures.js";
import { applyLimits, isComplete, maskOf, readEdit, showForm } from "./form.js";
import { takePictures } from "./intake.js";
import { MaskEditor } from "./mask.js";
import { Pictures } from "./pictures.js";
import { Results } from "./results.js";
import { readLimits, readModel, storedKey, storeKey } from "./server.js";
import { clearFailure, copyCommand, hideCommand, Progress, sayDone, showCommand, showFailure } from "./stage.js";
import { showThumbnails } from "./thumbnails.js";

const pictures = new Pictures();
const progress = new Progress();
const results = new Results(reuse);
const mask = new MaskEditor();
let limits = null; // as far as the server tells
let running = null; // the AbortController of the edit under way

function render() {
  showForm(pictures, limits);
  showThumbnails(pictures, { masked: Boolean(maskOf(pictures)) });
}

async function take(files) {
  if (!files.length) return;
  await pictures.add(files);
  say(files.length === 1 ? `${files[0].name} was added.` : `${files.length} pictures were added.`);
}

async function reuse(file) {
  await pictures.replace(file);
  say("The result is the input now.");
  find("#prompt").focus();
}

async function paintMask() {
  const picture = pictures.first;
  const painted = await mask.edit(picture);
  if (painted !== undefined) pictures.setMask(picture, painted);
  find("#mask-open").focus();
}

async function start() {
  await pictures.settled;
  if (running || !isComplete(pictures)) return;
  const edit = readEdit(pictures);
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

function begin(edit) {
  clearFailure();
  hideCommand();
  mark("key");
  show(find("#empty"), false);
  showRunning(true);
  results.begin(edit);
  bringIntoView(find("#stage"));
}

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

function fail(error, cancelled) {
  results.dropUnfinished();
  if (cancelled) {
    show(find("#empty"), !find("#results").children.length);
    return say("The edit was cancelled.");
  }
  if (!(error instanceof Failure)) throw error;
  showFailure(error);
  if (error.code === "UNAUTHORIZED") askForKey();
}

function askForKey() {
  show(find("#key-section"));
  mark("key", storedKey() ? "The server does not know this key." : "The server asks for a key.");
  find("#key").focus();
}

/** The focus goes along from the button that cannot be pressed any more to the one that can. */
function showRunning(isRunning) {
  const [run, cancel] = [find("#run"), find("#cancel")];
  const focused = document.activeElement;
  run.disabled = isRunning;
  run.textContent = isRunning ? "Editing …" : "Edit";
  if (isRunning) progress.begin();
  else progress.end();
  if (focused === (isRunning ? run : cancel)) (isRunning ? cancel : run).focus({ preventScroll: true });
}

/** On a phone the stage is below the form. */
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
  find("#key").addEventListener("input", (event) => storeKey(event.target.value.trim()));
  find("#key").addEventListener("change", () => storedKey() && showModel());
  find("#cancel").addEventListener("click", () => running?.abort());
  find("#copy").addEventListener("click", copyCommand);
  find("#mask-open").addEventListener("click", paintMask);
  find("#mask-remove").addEventListener("click", () => {
    pictures.setMask(pictures.first, null);
    find("#mask-open").focus();
  });
}

find("#key").value = storedKey();
listen();
render();
showServer();
