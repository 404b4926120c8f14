// The page: one image, one pane or two.

import { Pane } from "./pane.js";
import { about as askAbout, imageOf } from "./server.js";
import { connect } from "./sources.js";

const byId = (id) => document.getElementById(id);
const panes = [];
let about, shown; // shown: {image, bitmap, name}
let latest = 0; // number of the image that was chosen last

function showError(message) {
  byId("message").textContent = message ? message[0].toUpperCase() + message.slice(1) + "." : "";
  byId("message").hidden = !message;
}

const events = {
  showError,
  point: (...at) => panes.forEach((pane) => pane.point(...at)),
  place(row, column) {
    showError("");
    panes.forEach((pane) => {
      pane.point(row, column);
      pane.attend(row, column);
    });
  },
};

/** Show an image when the server has it; one that was chosen later wins. */
async function show(added, name) {
  const number = ++latest;
  showError("");
  document.body.setAttribute("aria-busy", "true");
  try {
    const image = await added;
    const bitmap = await imageOf(image.image);
    if (number !== latest) return;
    shown = { image, bitmap, name };
    byId("view").hidden = false;
    byId("panes").hidden = false;
    byId("size").textContent = sizeText(image);
    await Promise.all(panes.map((pane) => pane.show(image, bitmap, name)));
  } catch (error) {
    if (number === latest) showError(error.message);
  } finally {
    if (number === latest) document.body.setAttribute("aria-busy", "false");
  }
}

function sizeText({ width, height, own_width, own_height }) {
  const size = `${width} x ${height} pixels`;
  return own_width === width ? size : `${size}, shrunk from ${own_width} x ${own_height}`;
}

function addPane(run) {
  const pane = new Pane(about, run, events);
  pane.setOpacity(byId("opacity").value / 100);
  panes.push(pane);
  byId("panes").append(pane.element);
  return pane;
}

/** The second pane: the other run if there is one, or the same with one loop less. */
function compare(wanted) {
  byId("panes").classList.toggle("two", wanted);
  if (!wanted) {
    panes.splice(1).forEach((pane) => pane.element.remove());
    return;
  }
  const pane = addPane(about.runs.length > 1 ? 1 : 0);
  if (about.runs.length === 1 && pane.loops) pane.chooseLoops(pane.loops - 1);
  if (shown) pane.show(shown.image, shown.bitmap, shown.name);
}

async function start() {
  try {
    about = await askAbout();
  } catch (error) {
    showError(error.message);
    return;
  }
  byId("about").textContent = about.runs.map(({ name, classes, context, loops, mode }) => {
    const count = loops ? `, ${loops} loop${loops === 1 ? "" : "s"}` : "";
    const module = context === "rcca" ? `RCCA${count}` : context;
    return `${name}: ${classes.length} classes, context ${module}${mode && `, tested ${mode}`}`;
  }).join("  |  ");
  addPane(0);
  byId("opacity").addEventListener("input", ({ target }) => {
    byId("opacity-value").textContent = `${target.value} %`;
    panes.forEach((pane) => pane.setOpacity(target.value / 100));
  });
  byId("compare").addEventListener("change", ({ target }) => compare(target.checked));
  if (about.runs.length > 1) {
    byId("compare").checked = true;
    compare(true);
  }
  connect(about, show, showError);
  byId("strip").querySelector("button")?.click();
}

start();
