// A small chart on a canvas: one metric over a range that ends now. Crisp on every screen, quiet when nothing changes.
//
// History comes as buckets with their average, lowest and highest; live points are added behind it. Pointer and arrow keys
// move a reading line, which all charts of a page share.

import { h, setText } from "./dom.js";
import { clock, hours, number } from "./format.js";

const HEIGHT = 132;
const PAD = { left: 46, right: 10, top: 10, bottom: 22 };
const LIVE_MAX = 4_000; // of one metric: a device that sends four values a second fills fifteen minutes
const MINUTE = 60_000;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440].map((minutes) => minutes * MINUTE);

/** About `count` round numbers that cover low to high. */
export function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * size >= raw) * size;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => (first + place) * step);
}

/** Full minutes, quarters, hours ... of the local clock between two times. */
export function timeTicks(from, to, count) {
  const step = STEPS.find((one) => (to - from) / one <= count) ?? STEPS.at(-1);
  const offset = new Date(from).getTimezoneOffset() * MINUTE;
  const first = Math.ceil((from - offset) / step) * step + offset;
  const found = [];
  for (let at = first; at <= to; at += step) found.push(at);
  return found;
}

export class Chart {
  /** flag: the metric is true or false. hover(at or null): the reader points at a time. */
  constructor({ name, unit, flag, range, hover }) {
    this.flag = flag;
    this.unit = unit;
    this.range = range;
    this.history = [];
    this.added = [];
    this.hoverAt = null;
    this.now = Date.now();
    this.name = name;
    this.readout = h("output.readout");
    this.canvas = h("canvas", { tabIndex: 0, role: "img" });
    this.context = this.canvas.getContext("2d");
    this.element = h("figure.chart", { "data-metric": name }, h("figcaption", h("span.metric", { title: name }, name), this.readout), this.canvas);
    this.canvas.addEventListener("pointermove", (event) => hover(this.timeAt(event.offsetX)));
    this.canvas.addEventListener("pointerleave", () => hover(null));
    this.canvas.addEventListener("blur", () => hover(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event, hover));
    this.sizes = new ResizeObserver(([entry]) => this.resize(entry));
    this.observe();
    this.recolour();
  }

  setRange(range) {
    this.range = range;
    this.history = [];
  }

  /** Buckets in the order of time. Live points that they cover already are dropped. */
  setHistory(points) {
    this.history = points;
    const covered = points.at(-1)?.at ?? 0;
    this.added = this.added.filter((point) => point.at > covered);
    this.stale = true;
  }

  add(at, value) {
    const points = this.added;
    let place = points.length;
    while (place > 0 && points[place - 1].at > at) place -= 1; // late data finds its place
    points.splice(place, 0, { at, value, low: value, high: value });
    if (points.length > LIVE_MAX) points.shift();
    this.stale = true;
  }

  setHover(at) {
    this.hoverAt = at;
    this.stale = true;
    this.draw(this.now);
  }

  key(event, hover) {
    const points = this.visible();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hover(null);
    if (!step || !points.length) return;
    event.preventDefault();
    const here = this.hoverAt === null ? (step > 0 ? -1 : points.length) : points.indexOf(nearest(points, this.hoverAt));
    hover(points[Math.min(points.length - 1, Math.max(0, here + step))].at);
  }

  timeAt(x) {
    const width = this.width - PAD.left - PAD.right;
    return this.now - this.range.span * (1 - Math.min(1, Math.max(0, (x - PAD.left) / width)));
  }

  observe() {
    try {
      this.sizes.observe(this.canvas, { box: "device-pixel-content-box" });
    } catch {
      this.sizes.observe(this.canvas); // a browser that does not know the size in its own pixels
    }
  }

  /** The canvas gets exactly the pixels that it covers on the screen: text and lines stay sharp at every zoom. */
  resize(entry) {
    const exact = entry.devicePixelContentBoxSize?.[0];
    const { width, height } = entry.contentRect;
    this.canvas.width = pixels(exact?.inlineSize, width);
    this.canvas.height = pixels(exact?.blockSize, height);
    this.ratio = this.canvas.width / width || 1;
    this.width = width;
    this.height = height || HEIGHT;
    this.stale = true;
    this.draw(Date.now());
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(["chart", "band", "grid", "muted", "ink", "surface"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.stale = true;
    this.draw(Date.now());
  }

  visible() {
    const from = this.now - this.range.span;
    const points = this.added.length ? [...this.history, ...this.added] : this.history;
    const first = points.findIndex((point) => point.at >= from);
    return first < 0 ? [] : points.slice(first);
  }

  /** Redraws where something changed, or the range has moved on by a pixel. */
  draw(now) {
    if (!this.width) return;
    const moved = ((now - (this.drawnAt ?? 0)) / this.range.span) * this.width;
    if (!this.stale && moved < 1) return;
    this.stale = false;
    this.drawnAt = this.now = now;
    const points = this.visible();
    this.say(points);
    this.paint(points);
  }

  say(points) {
    const read = this.hoverAt === null ? points.at(-1) : nearest(points, this.hoverAt);
    const shown = !read ? "–" : this.flag ? (read.value >= 0.5 ? "true" : "false") : `${number(read.value)}${this.unit ? ` ${this.unit}` : ""}`;
    const spread = read && this.hoverAt !== null && !this.flag && read.low !== read.high ? `  (${number(read.low)} to ${number(read.high)})` : "";
    this.readout.classList.toggle("reading", this.hoverAt !== null && Boolean(read));
    setText(this.readout, this.hoverAt === null || !read ? shown : `${clock(read.at)}  ${shown}${spread}`);
    this.canvas.setAttribute("aria-label", `${this.name} over the last ${this.range.label}, now ${shown}. Arrow keys read single values.`);
  }

  scale(points) {
    if (this.flag) return { low: -0.15, high: 1.15 };
    let low = Infinity;
    let high = -Infinity;
    for (const point of points) {
      if (point.low < low) low = point.low;
      if (point.high > high) high = point.high;
    }
    if (low > high) return { low: 0, high: 1 };
    const room = (high - low) * 0.1 || Math.abs(high) * 0.05 || 1;
    return { low: low - room, high: high + room };
  }

  paint(points) {
    const { context: c, width, height, colours, ratio } = this;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const { low, high } = this.scale(points);
    const from = this.now - this.range.span;
    const bottom = height - PAD.bottom;
    const x = (at) => PAD.left + ((at - from) / this.range.span) * (width - PAD.left - PAD.right);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - PAD.top);
    this.paintGrid({ x, y, low, high, from, bottom });
    c.save();
    c.beginPath();
    c.rect(PAD.left, 0, width - PAD.left - PAD.right + 3, bottom + 1);
    c.clip();
    for (const run of runs(points, this.range.gap)) this.paintRun(run, x, y);
    c.restore();
    if (!points.length) {
      c.fillStyle = colours.muted;
      c.textAlign = "center";
      c.fillText(`nothing in the last ${this.range.label}`, (PAD.left + width - PAD.right) / 2, (PAD.top + bottom) / 2);
    }
    const read = this.hoverAt === null ? null : nearest(points, this.hoverAt);
    if (read) this.paintReading(x(read.at), y(read.value), bottom);
  }

  paintGrid({ x, y, low, high, from, bottom }) {
    const { context: c, width, colours } = this;
    c.font = "11px system-ui, sans-serif";
    c.lineWidth = 1;
    c.strokeStyle = colours.grid;
    c.fillStyle = colours.muted;
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const tick of this.flag ? [0, 1] : ticks(low, high, 3)) {
      const at = Math.round(y(tick)) + 0.5;
      line(c, PAD.left, at, width - PAD.right, at);
      c.fillText(this.flag ? (tick ? "true" : "false") : number(tick), PAD.left - 7, at);
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const tick of timeTicks(from, this.now, Math.max(2, Math.floor(width / 90)))) {
      const at = Math.round(x(tick)) + 0.5;
      line(c, at, bottom, at, bottom + 4);
      if (at > PAD.left + 12 && at < width - PAD.right - 8) c.fillText(hours(tick), at, bottom + 7);
    }
  }

  paintRun(run, x, y) {
    const { context: c, colours } = this;
    if (!this.flag && run.length > 1) {
      c.beginPath();
      for (const point of run) c.lineTo(x(point.at), y(point.high));
      for (const point of [...run].reverse()) c.lineTo(x(point.at), y(point.low));
      c.fillStyle = colours.band;
      c.fill();
    }
    c.beginPath();
    let before = null;
    for (const point of run) {
      if (this.flag && before) c.lineTo(x(point.at), y(before.value));
      c.lineTo(x(point.at), y(point.value));
      before = point;
    }
    c.strokeStyle = colours.chart;
    c.lineWidth = 1.6;
    c.lineJoin = "round";
    c.stroke();
    if (run.length === 1) disc(c, x(run[0].at), y(run[0].value), 2, colours.chart);
  }

  paintReading(x, y, bottom) {
    const { context: c, colours } = this;
    c.strokeStyle = colours.muted;
    c.lineWidth = 1;
    line(c, Math.round(x) + 0.5, PAD.top, Math.round(x) + 0.5, bottom);
    disc(c, x, y, 5, colours.surface);
    disc(c, x, y, 3.5, colours.chart);
  }

  close() {
    this.sizes.disconnect();
  }
}

/** Stretches without a gap: a line across hours without data would be an invention. */
function* runs(points, gap) {
  let run = [];
  for (const point of points) {
    if (run.length && point.at - run.at(-1).at > gap) {
      yield run;
      run = [];
    }
    run.push(point);
  }
  if (run.length) yield run;
}

/** The browser's own count, where it agrees with the ratio up to rounding (an emulated screen does not). */
function pixels(exact, size) {
  const computed = Math.round(size * devicePixelRatio);
  return Math.abs((exact ?? Infinity) - computed) <= 1 ? exact : computed;
}

function nearest(points, at) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].at < at) low = middle + 1;
    else high = middle;
  }
  const before = points[low - 1];
  return before && at - before.at < points[low].at - at ? before : points[low];
}

function line(context, fromX, fromY, toX, toY) {
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX, toY);
  context.stroke();
}

function disc(context, x, y, radius, colour) {
  context.beginPath();
  context.arc(x, y, radius, 0, Math.PI * 2);
  context.fillStyle = colour;
  context.fill();
}
