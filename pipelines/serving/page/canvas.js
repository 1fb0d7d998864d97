// The photo, and over it the masks: the answer tinted, proposals outlined, the one that is pointed at filled.

import {area, sample} from "./rle.js";

const TALLEST = .72; // share of the window's height
const LARGEST = 8; // times the photo's own pixels
const GRID = 512; // cells of the longer side, to find what is under the pointer

export const STYLES = {
  answer: {colour: "prediction", fill: .45, line: 1},
  chosen: {colour: "target", fill: .5, line: 1},
  pointed: {colour: "proposal", fill: .3, line: 1},
  proposal: {colour: "proposal", fill: 0, line: .55},
};

const colourOf = name =>
  getComputedStyle(document.documentElement).getPropertyValue("--" + name).split(",").map(Number);

// A mask on a canvas of its own, no larger than it is: {canvas, left, top}; null where no pixel of it shows.
function layer(mask, {colour, fill, line}, rows, columns) {
  const {left, top, width, height, inside} = sample(mask, rows, columns);
  if (!width || !height) return null;
  const rgb = colourOf(colour), thick = Math.max(1, Math.round(Math.max(rows, columns) / 260));
  const pixels = new ImageData(width, height), packed = new DataView(pixels.data.buffer);
  const [lined, filled] = [line, fill].map(share =>
    (rgb[0] << 24 | rgb[1] << 16 | rgb[2] << 8 | Math.round(255 * share)) >>> 0);
  const outside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || !inside[y * width + x];
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    if (!inside[y * width + x]) continue;
    let edge = false;
    for (let d = 1; d <= thick && !edge; d++)
      edge = outside(x - d, y) || outside(x + d, y) || outside(x, y - d) || outside(x, y + d);
    packed.setUint32(4 * (y * width + x), edge ? lined : filled);
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return {canvas, left, top};
}

function paint(context, masks, style, rows, columns, drawn = new Map()) {
  for (const mask of masks) {
    if (!drawn.has(mask)) drawn.set(mask, layer(mask, style, rows, columns));
    const made = drawn.get(mask);
    if (made) context.drawImage(made.canvas, made.left, made.top);
  }
}

function paintPhoto(context, bitmap, columns, rows) {
  context.fillStyle = "white"; // what the service lays under a transparent picture
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, columns, rows);
}

export class PhotoView {
  #drawn = {}; // layers that were painted, by style
  #photo = null;
  #layers = [];
  #proposals = [];
  #grid = null;

  constructor(frame, photo, masks) {
    this.frame = frame;
    this.canvases = {photo, masks};
    new ResizeObserver(() => this.#fit()).observe(frame);
    addEventListener("resize", () => this.#fit());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#fit(true));
  }

  show(photo) {
    this.#photo = photo;
    this.#proposals = [];
    this.#grid = null;
    this.#layers = [];
    this.#fit(true);
  }

  // layers: [[style's name, masks], ...], the lowest first
  draw(layers) {
    this.#layers = layers;
    const {masks} = this.canvases, context = masks.getContext("2d");
    context.clearRect(0, 0, masks.width, masks.height);
    for (const [name, shown] of layers)
      paint(context, shown, STYLES[name], masks.height, masks.width, this.#drawn[name] ??= new Map());
  }

  // what `under` looks at: masks in the order of their indices
  set proposals(masks) {
    if (masks === this.#proposals) return;
    this.#proposals = masks;
    this.#grid = null;
  }

  // index of the smallest proposal at a point of the window; -1 for none
  under(clientX, clientY) {
    const place = this.canvases.masks.getBoundingClientRect();
    const x = (clientX - place.left) / place.width, y = (clientY - place.top) / place.height;
    if (!this.#photo || x < 0 || y < 0 || x >= 1 || y >= 1) return -1;
    this.#grid ??= this.#index();
    const {rows, columns, cells} = this.#grid;
    return cells[Math.floor(y * rows) * columns + Math.floor(x * columns)];
  }

  #index() {
    const {width, height} = this.#photo, scale = Math.min(1, GRID / Math.max(width, height));
    const rows = Math.max(1, Math.round(height * scale)), columns = Math.max(1, Math.round(width * scale));
    const cells = new Int16Array(rows * columns).fill(-1);
    const order = this.#proposals.map((mask, index) => ({mask, index, size: area(mask)}));
    for (const {mask, index} of order.sort((a, b) => b.size - a.size)) {
      const part = sample(mask, rows, columns);
      part.inside.forEach((on, i) => {
        if (on) cells[(part.top + Math.floor(i / part.width)) * columns + part.left + i % part.width] = index;
      });
    }
    return {rows, columns, cells};
  }

  // as large as the frame and the window allow, in the screen's own pixels
  #fit(anew = false) {
    if (!this.#photo || !this.frame.clientWidth) return;
    const {bitmap, width, height} = this.#photo;
    const scale = Math.min(this.frame.clientWidth / width, Math.max(240, innerHeight * TALLEST) / height, LARGEST);
    const sharp = Math.min(2, devicePixelRatio || 1);
    const columns = Math.max(1, Math.round(width * scale * sharp)), rows = Math.max(1, Math.round(height * scale * sharp));
    const {photo, masks} = this.canvases;
    if (!anew && masks.width === columns && masks.height === rows) return;
    for (const canvas of [photo, masks]) {
      Object.assign(canvas, {width: columns, height: rows});
      canvas.style.width = `${columns / sharp}px`;
      canvas.style.height = `${rows / sharp}px`;
    }
    paintPhoto(photo.getContext("2d"), bitmap, columns, rows);
    this.#drawn = {};
    this.draw(this.#layers);
  }
}

// black and white, in the photo's own resolution
export function maskPicture({width, height}, masks) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (const mask of masks) {
    const part = sample(mask, height, width);
    part.inside.forEach((on, i) => {
      const at = 4 * ((part.top + Math.floor(i / part.width)) * width + part.left + i % part.width);
      if (on) pixels.data.fill(255, at, at + 4);
    });
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

export function overlayPicture({bitmap, width, height}, layers) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  paintPhoto(context, bitmap, width, height);
  for (const [name, masks] of layers) paint(context, masks, STYLES[name], height, width);
  return canvas;
}
