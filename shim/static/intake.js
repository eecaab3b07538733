// The three ways in which pictures come: dropped anywhere, pasted anywhere, chosen.

import { find, mark, show } from "./dom.js";

/** @param {(files: File[]) => void} take */
export function takePictures(take) {
  const offer = (files) => take(onlyPictures([...files]));
  takeChosen(offer);
  takePasted(offer);
  takeDropped(offer);
}

function onlyPictures(files) {
  const pictures = files.filter((file) => file.type.startsWith("image/"));
  const other = files.find((file) => !file.type.startsWith("image/"));
  mark("pictures", other ? `${other.name} is not a picture.` : "");
  return pictures;
}

function takeChosen(offer) {
  const input = find("#files");
  input.addEventListener("change", () => {
    offer(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
}

function takePasted(offer) {
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length || isModal()) return;
    event.preventDefault();
    offer(event.clipboardData.files);
  });
}

function takeDropped(offer) {
  const veil = find("#drop-here");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") && !isModal();
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    show(veil);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) show(veil, false);
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    show(veil, false);
    offer(event.dataTransfer.files);
  });
}

const isModal = () => Boolean(find("dialog[open]"));
