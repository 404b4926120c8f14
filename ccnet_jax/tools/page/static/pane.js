// One network's view of the image: options, overlay, legend, readout, attention.

import { address, askPlanes } from "./server.js";

const SLOW_SECONDS = 4; // seconds, after which the page says why a prediction may take long
const GREY = 0.4; // fraction of the image in a map of attention, as in the program's figures

export class Pane {
  /**
   * about: what the server told at the start.
   * run: number of the network that is shown first.
   * events: {point(row, column), place(row, column), showError(message)} of the page.
   */
  constructor(about, run, events) {
    this.about = about;
    this.events = events;
    this.element = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.element.querySelector(`.${name}`);
    this.opacity = 0.55;
    this.asking = {}; // {path: AbortController} of the questions that wait for an answer
    this.marked = null; // class, or number of the object, that stands out
    this.scale = Uint8Array.from(atob(about.scale), (c) => c.charCodeAt(0));
    this.#connectOptions(run);
    this.#connectStage();
    this.#clearMaps();
    this.#drawScale();
  }

  get run() {
    return this.about.runs[this.number];
  }

  get query() {
    return {
      image: this.image.image,
      run: this.number,
      loops: this.loops,
      scales: this.part("several").checked ? "several" : "one",
    };
  }

  // ------------------------------------------------------------------ options
  #connectOptions(run) {
    const select = this.part("run");
    this.about.runs.forEach(({ name }, number) => select.add(new Option(name, number)));
    this.part("choice-of-run").hidden = this.about.runs.length < 2;
    select.addEventListener("change", () => {
      this.#chooseRun(Number(select.value));
      this.predict();
    });
    this.part("several").addEventListener("change", () => this.predict());
    select.value = run;
    this.#chooseRun(run);
  }

  #chooseRun(number) {
    this.number = number;
    const { name, choices, loops, context, labels_pixels: labelsPixels } = this.run;
    this.element.setAttribute("aria-label", name);
    this.loops = loops;
    this.part("loops").hidden = !choices.length;
    this.part("several-box").hidden = !labelsPixels;
    if (!labelsPixels) this.part("several").checked = false;
    this.part("no-loops").hidden = choices.length > 0;
    const module = context === "none" ? "has no context module" : `has the context module ${context}`;
    this.part("no-loops").textContent = labelsPixels
      ? `This network ${module}: loops and attention are RCCA's.`
      : "This network finds objects: loops, scales and attention are for networks that label pixels.";
    this.part("attention").hidden = !choices.length;
    const group = `loops-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    this.part("segments").replaceChildren(...choices.map((choice) => {
      const [label, input, text] = ["label", "input", "span"].map((tag) => document.createElement(tag));
      Object.assign(input, { type: "radio", name: group, value: choice, checked: choice === loops });
      text.textContent = choice;
      label.title = choice === loops ? `${choice}, as it was trained` : choice === 0 ? "0: without the module" : "";
      label.append(input, text);
      input.addEventListener("change", () => {
        this.loops = choice;
        this.predict();
      });
      return label;
    }));
  }

  /** Choose another number of loops, as for the second pane; it must be one of the run's choices. */
  chooseLoops(loops) {
    this.loops = loops;
    for (const input of this.part("segments").querySelectorAll("input")) {
      input.checked = Number(input.value) === loops;
    }
  }

  setOpacity(fraction) {
    this.opacity = fraction;
    this.part("overlay").style.opacity = fraction;
    if (this.found) this.#link();
  }

  // ------------------------------------------------------------------ image
  /** Show an image {image, height, width}, its ImageBitmap and a name for downloads; then predict. */
  async show(image, bitmap, name) {
    this.image = image;
    this.bitmap = bitmap;
    this.name = name.replace(/\.[^.]*$/, "");
    this.at = null;
    this.part("stage").style.setProperty("--ratio", image.width / image.height);
    this.part("maps").style.setProperty("--ratio", image.width / image.height);
    for (const layer of ["image", "overlay"]) {
      Object.assign(this.part(layer), { width: image.width, height: image.height });
    }
    this.part("image").getContext("2d").drawImage(bitmap, 0, 0);
    for (const cross of this.element.querySelectorAll(".cross")) cross.hidden = true;
    this.#clearFound();
    this.#clearMaps();
    await this.predict();
  }

  #clearFound() {
    this.found = null;
    const overlay = this.part("overlay");
    overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    for (const name of ["legend", "boxes", "readout", "found-title", "seconds"]) this.part(name).replaceChildren();
    for (const name of ["label-link", "overlay-link"]) this.part(name).hidden = true;
  }

  async predict() {
    if (!this.image) return;
    const answer = await this.#ask("predictions", this.query, "predicting");
    if (!answer) return;
    this.found = answer;
    this.marked = null;
    this.#drawOverlay();
    this.#listFound();
    this.#link();
    const { seconds, compiled } = answer.head;
    this.part("seconds").textContent = `predicted in ${seconds} s${compiled ? ", compiling included" : ""}`;
    if (this.pointed) this.point(...this.pointed);
    if (this.at) await this.attend(...this.at);
  }

  /** The planes of an answer; null where another question came in between, or it failed and that was told. */
  async #ask(path, query, doing) {
    this.asking[path]?.abort();
    const asking = (this.asking[path] = new AbortController());
    const start = performance.now();
    const tell = () => {
      const seconds = (performance.now() - start) / 1000;
      const why = seconds > SLOW_SECONDS ? ": the first time at a size takes longer" : "";
      this.#work(`${doing}… ${seconds.toFixed(0)} s${why}`);
    };
    const soon = setTimeout(tell, 150);
    const timer = setInterval(tell, 1000);
    this.element.setAttribute("aria-busy", "true");
    try {
      return await askPlanes(path, query, asking.signal);
    } catch (error) {
      if (error.name === "AbortError") return null;
      this.events.showError(error.message);
      if (path === "predictions") this.#clearFound(); // what is there was found in another way
      return null;
    } finally {
      clearTimeout(soon);
      clearInterval(timer);
      if (this.asking[path] === asking) {
        delete this.asking[path];
        this.#work("");
        this.element.setAttribute("aria-busy", String(Object.keys(this.asking).length > 0));
      }
    }
  }

  #work(text) {
    this.part("working").hidden = !text;
    this.part("working").textContent = text;
  }

  #drawOverlay() {
    const { head, planes: [numbers] } = this.found;
    const canvas = this.part("overlay");
    const context = canvas.getContext("2d");
    const image = context.createImageData(head.width, head.height);
    const pixels = new Uint32Array(image.data.buffer);
    const isLabels = head.kind === "labels";
    const colours = new Uint32Array(256);
    const classes = isLabels ? this.run.classes : head.objects.map((object) => this.run.classes[object.class]);
    classes.slice(0, 255).forEach(({ colour }, i) => {
      const faint = this.marked !== null && this.marked !== i;
      colours[isLabels ? i : i + 1] = packedColour(colour, faint ? 0.12 : 1);
    });
    for (let i = 0; i < numbers.length; i++) pixels[i] = colours[numbers[i]];
    context.putImageData(image, 0, 0);
    canvas.style.opacity = this.opacity;
    this.#drawBoxes();
  }

  #drawBoxes() {
    const { head } = this.found;
    const boxes = (head.objects ?? []).map(({ class: label, score, box: [x0, y0, x1, y1] }, i) => {
      const [box, text] = ["div", "span"].map((tag) => document.createElement(tag));
      const { name, colour } = this.run.classes[label];
      box.className = "box";
      box.classList.toggle("low", y0 / head.height < 0.06);
      box.classList.toggle("faded", this.marked !== null && this.marked !== i);
      Object.assign(box.style, {
        left: `${(100 * x0) / head.width}%`, width: `${(100 * (x1 - x0)) / head.width}%`,
        top: `${(100 * y0) / head.height}%`, height: `${(100 * (y1 - y0)) / head.height}%`, borderColor: colour,
      });
      text.textContent = `${name} ${score.toFixed(2)}`;
      box.append(text);
      return box;
    });
    this.part("boxes").replaceChildren(...boxes.reverse()); // the best one uppermost
  }

  // ------------------------------------------------------------------- legend
  #listFound() {
    const { head } = this.found;
    const isLabels = head.kind === "labels";
    let rows;
    if (isLabels) {
      rows = head.areas.map((fraction, i) => ({ i, fraction, text: areaText(fraction), ...this.run.classes[i] }));
      rows = rows.filter(({ fraction }) => fraction > 0).sort((a, b) => b.fraction - a.fraction);
    } else {
      rows = head.objects.map(({ class: label, score }, i) => {
        return { i, fraction: score, text: score.toFixed(2), ...this.run.classes[label] };
      });
    }
    this.part("found-title").textContent = isLabels
      ? `Classes: ${rows.length} of ${this.run.classes.length}, fraction of the image`
      : rows.length ? `Objects: ${rows.length}, with their scores` : "No object was found";
    this.part("legend").replaceChildren(...rows.map((row) => this.#legendRow(row)));
  }

  #legendRow({ i, name, colour, fraction, text }) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.title = `${name}: let it stand out`;
    const length = document.createElement("span");
    length.className = "length";
    const bar = document.createElement("i");
    bar.style.width = `${100 * fraction}%`;
    length.append(bar);
    const shown = document.createElement("span");
    shown.className = "fraction";
    shown.textContent = text;
    const words = document.createElement("span");
    words.className = "name";
    words.textContent = name;
    button.append(swatch(colour), words, shown, length);
    button.addEventListener("click", () => this.#mark(this.marked === i ? null : i, button));
    item.append(button);
    return item;
  }

  /** Let a class or an object stand out; null for none. */
  #mark(i, button) {
    this.marked = i;
    for (const other of this.part("legend").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(i !== null && other === button));
    }
    this.#drawOverlay();
  }

  #link() {
    const label = this.part("label-link");
    const overlay = this.part("overlay-link");
    label.hidden = !this.run.labels_pixels;
    overlay.hidden = false;
    label.href = address("label.png", this.query);
    label.download = `${this.#resultName()}-label.png`;
    overlay.href = address("overlay.png", { ...this.query, opacity: Math.round(100 * this.opacity) });
    overlay.download = `${this.#resultName()}-overlay.png`;
  }

  /** The image's name, and what tells this result from others of the image: run, loops, scales. */
  #resultName() {
    const parts = [this.name];
    if (this.about.runs.length > 1) parts.push(`run${this.number + 1}`);
    if (this.loops !== null && this.loops !== this.run.loops) parts.push(`loops${this.loops}`);
    if (this.query.scales === "several") parts.push("several-scales");
    return parts.join("-");
  }

  // ------------------------------------------------------------------- pixels
  #connectStage() {
    const stage = this.part("stage");
    const under = (event) => {
      const { left, top, width, height } = stage.getBoundingClientRect();
      const place = (at, side, pixels) => Math.min(Math.max(Math.floor((at / side) * pixels), 0), pixels - 1);
      return [
        place(event.clientY - top, height, this.image.height),
        place(event.clientX - left, width, this.image.width),
      ];
    };
    stage.addEventListener("pointermove", (event) => {
      if (this.image && event.pointerType === "mouse") this.events.point(...under(event));
    });
    stage.addEventListener("click", (event) => {
      if (this.image) this.events.place(...under(event));
    });
    stage.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!this.image || (!step && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    const { height, width } = this.image;
    const [row, column] = this.pointed ?? [height >> 1, width >> 1];
    if (!step) {
      this.events.place(row, column);
      return;
    }
    const far = event.shiftKey ? 10 : 1;
    const within = (value, side) => Math.min(Math.max(value, 0), side - 1);
    this.events.point(within(row + far * step[0], height), within(column + far * step[1], width), true);
  }

  /** Tell what is found at a pixel; with `marked`, as keys do it, show the pixel too. */
  point(row, column, marked = false) {
    this.pointed = [row, column];
    const cross = this.part("cross");
    cross.hidden = !marked;
    this.#set(cross, row, column);
    if (!this.found) return;
    const { head, planes } = this.found;
    const at = row * head.width + column;
    const words = [text(`row ${row}, column ${column}`)];
    if (head.kind === "labels") {
      for (const [number, fraction] of [[planes[0][at], planes[1][at]], [planes[2][at], planes[3][at]]]) {
        if (fraction || words.length === 1) words.push(this.#named(number, percent(fraction / 255, 0), words.length === 1));
      }
    } else {
      const object = head.objects[planes[0][at] - 1];
      words.push(object ? this.#named(object.class, object.score.toFixed(2), true) : text("no object"));
    }
    this.part("readout").replaceChildren(...words);
  }

  #named(number, fraction, strong) {
    const { name, colour } = this.run.classes[number];
    const element = document.createElement(strong ? "b" : "span");
    element.append(swatch(colour), `${name} ${fraction}`);
    return element;
  }

  #set(cross, row, column) {
    cross.style.top = `${(100 * (row + 0.5)) / this.image.height}%`;
    cross.style.left = `${(100 * (column + 0.5)) / this.image.width}%`;
  }

  // ---------------------------------------------------------------- attention
  /** Show what a pixel attends to after each loop. */
  async attend(row, column) {
    this.at = [row, column];
    if (!this.run.choices.length) return;
    const placed = this.part("placed");
    placed.hidden = false;
    this.#set(placed, row, column);
    const hint = this.part("attention-hint");
    if (this.loops === 0) {
      this.#clearMaps();
      hint.textContent = "Without a loop a pixel attends to no other; choose 1 loop or more.";
      return;
    }
    const { image, run, loops } = this.query;
    const answer = await this.#ask("attention", { image, run, loops, row, column }, "attending");
    if (!answer) return;
    hint.textContent = `Row ${row}, column ${column}. Click another pixel to compare.`;
    const maps = answer.planes.map((plane, i) => this.#map(plane, answer.head, i));
    this.part("maps").replaceChildren(...maps);
    this.part("scale").hidden = false;
  }

  #clearMaps() {
    this.part("maps").replaceChildren();
    this.part("scale").hidden = true;
    this.part("attention-hint").textContent = "Click a pixel of the image.";
  }

  #map(plane, { height, width, largest }, i) {
    const figure = document.createElement("figure");
    const frame = document.createElement("div");
    frame.className = "frame";
    const canvas = document.createElement("canvas");
    const zoom = Math.max(1, Math.ceil(480 / this.image.width));
    Object.assign(canvas, { width: zoom * this.image.width, height: zoom * this.image.height });
    const context = canvas.getContext("2d");
    context.drawImage(this.bitmap, 0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "saturation"; // grey under the scale's colours; Safari has no filters here
    context.fillStyle = "#808080";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1 - GREY;
    context.drawImage(this.#coloured(plane, height, width), 0, 0, canvas.width, canvas.height);
    const cross = document.createElement("div");
    cross.className = "cross placed";
    this.#set(cross, ...this.at);
    frame.append(canvas, cross);
    const caption = document.createElement("figcaption");
    caption.textContent = `after ${i + 1} loop${i ? "s" : ""}; largest weight ${percent(largest[i], 1)}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Attention ${caption.textContent}`);
    figure.append(frame, caption);
    return figure;
  }

  /** A canvas of a map's own size, in the colours of the scale. */
  #coloured(plane, height, width) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    plane.forEach((value, i) => {
      image.data.set(this.scale.subarray(3 * value, 3 * value + 3), 4 * i);
      image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  #drawScale() {
    const values = Uint8Array.from({ length: 256 }, (_, i) => i);
    this.part("scale-bar").getContext("2d").drawImage(this.#coloured(values, 1, 256), 0, 0);
  }
}

const text = (words) => Object.assign(document.createElement("span"), { textContent: words });
const areaText = (fraction) => (fraction < 0.0005 ? "< 0.1 %" : percent(fraction, 1));
const percent = (fraction, digits) => `${(100 * fraction).toFixed(digits)} %`;

function swatch(colour) {
  const element = document.createElement("span");
  element.className = "swatch";
  element.style.backgroundColor = colour;
  return element;
}

/** "#rrggbb" as a pixel of ImageData, whose bytes are red, green, blue, alpha on every usual machine. */
function packedColour(colour, alpha) {
  const bytes = Uint8Array.of(...[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)), Math.round(255 * alpha));
  return new Uint32Array(bytes.buffer)[0];
}
