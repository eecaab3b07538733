// The three ways in which pictures come: dropped anywhere, pasted anywhere, chosen.

import { find, mark, show } from "./dom.js";
import { words } from "./language.js";

/** @param {(files: File[]) => void} take */
export function takePictures(take) {
  const offer = (/** @type {FileList} */ files) => take(onlyPictures([...files]));
  takeChosen(offer);
  takePasted(offer);
  takeDropped(offer);
}

/** @param {File[]} files */
function onlyPictures(files) {
  const pictures = files.filter((file) => file.type.startsWith("image/"));
  const other = files.find((file) => !file.type.startsWith("image/"));
  mark("pictures", other ? words("picture-not", { name: other.name }) : "");
  return pictures;
}

/** @param {(files: FileList) => void} offer */
function takeChosen(offer) {
  const input = find("input#files");
  input.addEventListener("change", () => {
    if (input.files) offer(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}

/** @param {(files: FileList) => void} offer */
function takePasted(offer) {
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (!files?.length || isModal()) return;
    event.preventDefault();
    offer(files);
  });
}

/** @param {(files: FileList) => void} offer */
function takeDropped(offer) {
  const veil = find("#drop-here");
  const filesOf = (/** @type {DragEvent} */ { dataTransfer }) =>
    dataTransfer?.types.includes("Files") && !isModal() ? dataTransfer.files : null;
  document.addEventListener("dragover", (event) => {
    if (!filesOf(event)) return;
    event.preventDefault();
    show(veil);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) show(veil, false);
  });
  document.addEventListener("drop", (event) => {
    const files = filesOf(event);
    if (!files) return;
    event.preventDefault();
    show(veil, false);
    offer(files);
  });
}

const isModal = () => Boolean(document.querySelector("dialog[open]"));
