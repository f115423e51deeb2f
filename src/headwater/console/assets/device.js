// One device: its metrics as small multiples that go on live, its latest values, and what happened to its connection.

import { get, metricsOf } from "./api.js";
import { Banner } from "./banner.js";
import { Chart } from "./chart.js";
import { h, perFrame, replace, setText } from "./dom.js";
import { age, dateTime, time, unitOf, value } from "./format.js";
import { firstTelemetry } from "./help.js";
import { Live } from "./live.js";

const MINUTE = 60_000;
// An interval gives some 200 points: more than a small chart has room for tells nothing more.
const RANGES = [
  { name: "15m", label: "15 min", span: 15 * MINUTE, interval: "5s", gap: 90_000 },
  { name: "1h", label: "1 h", span: 60 * MINUTE, interval: "15s", gap: 150_000 },
  { name: "24h", label: "24 h", span: 24 * 60 * MINUTE, interval: "5m", gap: 30 * MINUTE },
];
const HAPPENINGS_MAX = 20; // the story of today, without scrolling; the rest is in the API
const HAPPENINGS_MS = 10_000;
// What is a trouble, and what only a change.
const TROUBLES = ["connection.refused_before_authentication", "authentication.failed", "topic.denied", "message.rejected"];
const REFRESH_MS = 60_000; // so that the long ranges do not fill with single points

export class DeviceView {
  constructor(id) {
    this.id = id;
    this.range = RANGES.find((range) => range.name === localStorage.getItem("headwater.range")) ?? RANGES[0];
    this.values = new Map();
    this.charts = new Map();
    this.epoch = 0;
    this.banner = new Banner();
    this.draw = perFrame(() => this.drawNow());
    this.element = h("div", h("p.loading", "Loading …"));
    this.open();
  }

  async open() {
    try {
      this.device = await get(`/devices/${this.id}`);
      const latest = await get(`/devices/${this.id}/latest`);
      this.metrics = await metricsOf(this.device.profile_id);
      if (this.closed) return;
      this.connected = this.device.presence.connected;
      this.seenAt = time(this.device.presence.last_seen_at);
      this.stale = this.device.presence.data_at !== null && !this.device.presence.data_fresh;
      for (const [name, held] of Object.entries(latest.values)) this.keep(name, held.value, time(held.observed_at), time(held.received_at));
      this.build();
      await Promise.all([this.loadSeries(), this.loadHappenings()]);
    } catch (error) {
      if (!this.closed) this.failed(error);
      return;
    }
    if (this.closed) return;
    this.live = new Live({ devices: [this.id] }, {
      event: (event) => this.heard(event),
      state: (state, problem) => this.banner.state(state, problem),
      missed: (count) => this.banner.missed(count),
    });
    this.ticking = setInterval(() => this.draw(), 1000);
    this.refreshing = setInterval(() => this.loadSeries().catch(() => null), REFRESH_MS);
    this.asking = setInterval(() => this.loadHappenings().catch(() => null), HAPPENINGS_MS);
  }

  failed(error) {
    replace(this.element, h("section.empty", h("h1", error.status === 404 ? "No such device" : "This did not work"),
      h("p", error.message), h("p", h("a", { href: "#/devices" }, "Back to all devices"))));
  }

  build() {
    const device = this.device;
    document.title = `${device.name || device.external_id} · Headwater`;
    this.dot = h("span.dot");
    this.state = h("span");
    this.seen = h("time.muted");
    this.ranges = h("div.segments", { role: "radiogroup", "aria-label": "Range" }, RANGES.map((range) => {
      const input = h("input", { type: "radio", name: "range", value: range.name, checked: range === this.range });
      input.addEventListener("change", () => this.choose(range));
      return h("label", input, h("span", range.label));
    }));
    this.grid = h("div.multiples");
    this.rows = new Map();
    this.body = h("tbody");
    this.table = h("div.tablewrap", h("table.values",
      h("thead", h("tr", h("th", { scope: "col" }, "Metric"), h("th.right", { scope: "col" }, "Value"),
        h("th", { scope: "col" }, "Unit"), h("th", { scope: "col" }, "Observed"))),
      this.body));
    this.nothing = firstTelemetry(device);
    this.fresh = h("span.muted");
    this.happenings = h("ol.timeline", { "aria-labelledby": "connection" });
    const labels = Object.entries(device.labels).map(([name, text]) => h("span.label", `${name}: ${text}`));
    replace(this.element, this.banner.element,
      h("nav.crumbs", { "aria-label": "Where you are" }, h("a", { href: "#/devices" }, "Devices"), h("span", { "aria-hidden": "true" }, "/"),
        h("span", device.name || device.external_id)),
      h("div.bar",
        h("div", h("h1", device.name || device.external_id),
          h("p.sub", h("span.state", this.dot, this.state), this.seen, this.fresh, h("span", `${device.external_id} · ${device.profile}`)),
          labels.length ? h("div.labels", labels) : null),
        h("span.grow"), this.ranges),
      this.nothing, this.grid, h("h2", { id: "latest" }, "Latest values"), this.table,
      h("h2", { id: "connection" }, "Connection"), this.happenings,
      h("p.hint.ids", "Device id ", h("code", device.id)));
    this.drawNow();
  }

  async choose(range) {
    this.range = range;
    localStorage.setItem("headwater.range", range.name);
    for (const chart of this.charts.values()) chart.setRange(range);
    await this.loadSeries().catch((error) => this.banner.state("ended", { detail: error.message }));
  }

  async loadSeries() {
    const range = this.range;
    const from = new Date(Date.now() - range.span).toISOString();
    const answer = await get(`/devices/${this.id}/telemetry`, { from, interval: range.interval, aggregate: ["avg", "min", "max"] });
    if (this.closed || range !== this.range) return;
    for (const series of answer.series) {
      if (!["float", "integer", "boolean"].includes(series.type)) continue;
      const flag = series.type === "boolean";
      const read = flag ? ({ avg }) => [avg, avg, avg].map(Math.round) : ({ avg, min, max }) => [avg, min, max];
      this.chartOf(series.metric, flag).setHistory(series.points.map((point) => {
        const [value, low, high] = read(point);
        return { at: time(point.at), value, low, high };
      }));
    }
    this.draw();
  }

  async loadHappenings() {
    const { items } = await get(`/devices/${this.id}/timeline`, { limit: HAPPENINGS_MAX });
    if (this.closed) return;
    const newest = items.map((one) => one.id).join();
    if (newest === this.told) return;
    this.told = newest;
    replace(this.happenings, items.length ? items.map((one) => this.happening(one))
      : h("li.muted", "Nothing yet. Each attempt to connect is told here, with the reason where it fails."));
  }

  happening(one) {
    const kind = TROUBLES.includes(one.event) ? "bad" : one.event === "connected" ? "on" : "off";
    const claimed = one.identified_by ? h("span.muted", ` as this device, by its ${one.identified_by.replace("_", " ")}`) : null;
    const title = [one.event, one.code, one.client_id && `client id ${one.client_id}`].filter(Boolean).join(" · ");
    return h("li", { title }, h(`span.dot.${kind}`), h("time.muted", { datetime: one.at }, dateTime(time(one.at))),
      h("span", one.summary, claimed));
  }

  /** The chart of a metric, made when its first number comes. */
  chartOf(name, flag) {
    let chart = this.charts.get(name);
    if (!chart) {
      const unit = unitOf(this.metrics.get(name)?.unit);
      chart = new Chart({ name, unit, flag, range: this.range, hover: (at) => this.hover(at) });
      this.charts.set(name, chart);
      const order = [...this.charts.keys()].sort((a, b) => this.rank(a) - this.rank(b) || a.localeCompare(b));
      replace(this.grid, order.map((one) => this.charts.get(one).element));
    }
    return chart;
  }

  rank(name) {
    this.ranks ??= new Map([...this.metrics.keys()].map((one, place) => [one, place]));
    return this.ranks.get(name) ?? 1000;
  }

  hover(at) {
    for (const chart of this.charts.values()) chart.setHover(at);
  }

  heard(event) {
    this.seenAt = Math.max(this.seenAt ?? 0, time(event.received_at));
    if (event.type === "presence" && event.epoch >= this.epoch) {
      this.epoch = event.epoch;
      this.connected = event.connected;
      setTimeout(() => this.closed || this.loadHappenings().catch(() => null), 1000); // the timeline is written a moment later
    } else if (event.type === "telemetry") {
      this.stale = false;
      const at = time(event.observed_at);
      for (const [name, raw] of Object.entries(event.values)) {
        this.keep(name, raw, at, time(event.received_at), true);
        if (typeof raw === "number" || typeof raw === "boolean") this.chartOf(name, typeof raw === "boolean").add(at, Number(raw));
      }
    }
    this.draw();
  }

  keep(name, raw, at, receivedAt, fresh = false) {
    this.seenAt = Math.max(this.seenAt ?? 0, receivedAt);
    if ((this.values.get(name)?.at ?? 0) <= at) this.values.set(name, { raw, at, fresh });
  }

  drawNow() {
    if (!this.body) return;
    const now = Date.now();
    const usable = this.device.status === "registered" || this.device.status === "active";
    this.dot.className = `dot ${usable ? (this.connected ? "on" : "off") : "bad"}`;
    setText(this.state, usable ? (this.connected ? "connected" : this.seenAt ? "not connected" : "never seen") : this.device.status);
    setText(this.seen, this.seenAt ? `last seen ${age(this.seenAt, now)}` : "");
    setText(this.fresh, this.stale ? "its data is old" : "");
    this.nothing.hidden = this.values.size > 0 || this.charts.size > 0;
    this.table.hidden = this.values.size === 0;
    this.table.previousElementSibling.hidden = this.values.size === 0;
    this.drawTable(now);
    for (const chart of this.charts.values()) chart.draw(now);
  }

  drawTable(now) {
    if (this.rows.size !== this.values.size) {
      const names = [...this.values.keys()].sort((a, b) => this.rank(a) - this.rank(b) || a.localeCompare(b));
      this.rows = new Map(names.map((name) => [name, this.rows.get(name) ?? this.row(name)]));
      replace(this.body, [...this.rows.values()].map((row) => row.element));
    }
    for (const [name, row] of this.rows) {
      const held = this.values.get(name);
      setText(row.value, value(held.raw));
      setText(row.age, age(held.at, now));
      if (held.fresh) {
        held.fresh = false;
        row.age.title = dateTime(held.at);
        row.element.classList.remove("flash");
        requestAnimationFrame(() => row.element.classList.add("flash"));
      }
    }
  }

  row(name) {
    const shown = h("td.right.value");
    const old = h("td.muted");
    const element = h("tr", { "data-metric": name }, h("th", { scope: "row", title: this.metrics.get(name)?.description ?? "" }, name), shown,
      h("td.muted", unitOf(this.metrics.get(name)?.unit)), old);
    return { element, value: shown, age: old };
  }

  recolour() {
    for (const chart of this.charts.values()) chart.recolour();
  }

  close() {
    this.closed = true;
    clearInterval(this.ticking);
    clearInterval(this.refreshing);
    clearInterval(this.asking);
    this.live?.close();
    for (const chart of this.charts.values()) chart.close();
  }
}