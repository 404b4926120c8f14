// Where images come from: a file, the clipboard, the webcam, the run's own.

import { addOwn, addImage, address } from "./server.js";

const TYPES = { PNG: "image/png", JPEG: "image/jpeg", WebP: "image/webp", BMP: "image/bmp" };
const byId = (id) => document.getElementById(id);

/**
 * Connect all sources.
 * about: what the server told at the start.
 * show(promise of {image, ...}, name): what to do with an image that was chosen.
 * showError(message): tell the user.
 */
export function connect(about, show, showError) {
  const send = (file, name) => {
    pressOwn(null);
    if (file.size > about.limits.megabytes * 1e6) {
      showError(`the file has more than ${about.limits.megabytes} MB, which this page does not take; ` +
        "shrink the image, or start the program with a larger --megabytes");
      return;
    }
    show(addImage(file), name);
  };
  files(about, send);
  webcam(send, showError);
  own(about, show);
}

function files(about, send) {
  const input = byId("file");
  input.accept = about.kinds.map((kind) => TYPES[kind]).join(",");
  input.addEventListener("change", () => {
    if (input.files.length) send(input.files[0], input.files[0].name);
    input.value = ""; // the same file may be chosen again
  });
  const first = (list) => [...(list ?? [])][0];
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const file = first(event.dataTransfer.files);
    if (file) send(file, file.name);
  });
  window.addEventListener("paste", (event) => {
    const file = first(event.clipboardData.files);
    if (file) send(file, file.name);
  });
  if (matchMedia("(pointer: coarse)").matches) byId("hint").hidden = true; // nobody drops or pastes there
}

function webcam(send, showError) {
  const [start, box, video] = [byId("webcam"), byId("camera"), byId("video")];
  const stop = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    box.hidden = true;
    start.hidden = false;
  };
  start.addEventListener("click", async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("browsers allow it at 127.0.0.1 and under https only");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      await video.play();
      box.hidden = false;
      start.hidden = true;
    } catch (error) {
      showError(`the webcam cannot be used: ${error.message}`);
    }
  });
  byId("stop").addEventListener("click", stop);
  byId("take").addEventListener("click", () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.convertToBlob({ type: "image/png" }).then((blob) => send(blob, "webcam.png"));
  });
}

function own(about, show) {
  byId("own").hidden = !about.own.length;
  byId("own-missing").hidden = about.own.length > 0;
  byId("own-missing").textContent = about.own_missing ? `The run's own images are not at hand: ${about.own_missing}.` : "";
  about.own.forEach((name, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-pressed", "false");
    const image = document.createElement("img");
    image.src = address("own", { index });
    image.alt = name;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", () => {
      pressOwn(button);
      show(addOwn(index), name);
    });
    byId("strip").append(button);
  });
}

/** Mark the button of the run's own image that is shown; null for none. */
function pressOwn(pressed) {
  for (const button of byId("strip").children) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
}
