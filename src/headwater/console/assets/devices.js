// The list of devices, each with its state as it is now.

import { get, metricsOf } from "./api.js";
import { Banner } from "./banner.js";
import { h, perFrame, replace, setText } from "./dom.js";
import { age, dateTime, time, withUnit } from "./format.js";
import { firstDevice } from "./help.js";
import { Live } from "./live.js";

const PAGE = 25;
const VALUES_SHOWN = 3;
const TYPING_MS = 300;
const LOOK_AGAIN_MS = 5_000; // an empty list waits for its first device
const SORTS = [["name", "Name"], ["-last_seen_at", "Last seen"], ["-created_at", "Newest"], ["external_id", "External id"]];
const OPERATOR = /[=<>()"]|\b(and|or|not|in|like|exists)\b/;

/** A plain word is a search in names; everything else is the query language of the API. */
export function filterOf(text) {
  const words = text.trim();
  if (!words || OPERATOR.test(words)) return words;
  const pattern = JSON.stringify(`*${words.replaceAll("*", "")}*`);
  return `name like ${pattern} or external_id like ${pattern}`;
}

export class DevicesView {
  constructor(query) {
    this.text = query.get("q") ?? "";
    this.sort = query.get("sort") ?? "name";
    this.cursors = [undefined]; // of the pages up to this one
    this.rows = new Map();
    this.banner = new Banner();
    this.draw = perFrame(() => this.drawRows());
    this.build();
    this.load();
    this.ticking = setInterval(() => this.drawRows(), 1000);
  }

  build() {
    this.search = h("input", {
      type: "search", id: "q", value: this.text, autocomplete: "off", spellcheck: "false", maxlength: "4000",
      placeholder: 'Search, or ask: labels.site = "north"', "aria-describedby": "q-problem",
    });
    this.search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.searched(), TYPING_MS); });
    this.search.addEventListener("keydown", (event) => { if (event.key === "Enter") this.searched(); });
    this.order = h("select", { id: "sort", onchange: () => { this.sort = this.order.value; this.restart(); } },
      SORTS.map(([value, label]) => h("option", { value, selected: value === this.sort }, label)));
    this.problem = h("p.problem", { id: "q-problem", role: "alert" });
    this.body = h("tbody");
    this.table = h("div.tablewrap", h("table.devices",
      h("thead", h("tr", h("th", { scope: "col" }, "Device"), h("th", { scope: "col" }, "State"),
        h("th", { scope: "col" }, "Last seen"), h("th", { scope: "col" }, "Latest values"), h("th.wide", { scope: "col" }, "Labels"))),
      this.body));
    this.back = h("button", { type: "button", onclick: () => this.page(-1) }, "Previous");
    this.next = h("button", { type: "button", onclick: () => this.page(1) }, "Next");
    this.place = h("span.muted");
    this.pager = h("nav.pager", { "aria-label": "Pages" }, this.back, this.place, this.next);
    this.content = h("div", h("p.loading", "Loading …"));
    this.element = h("div", this.banner.element,
      h("div.bar", h("h1", "Devices"), h("span.grow"),
        h("label.search", { for: "q" }, h("span.sr", "Search"), this.search),
        h("label.inline", { for: "sort" }, "Sort by ", this.order)),
      this.problem, this.content);
  }

  searched() {
    clearTimeout(this.typing);
    if (this.search.value.trim() === this.text) return;
    this.text = this.search.value.trim();
    this.restart();
  }

  restart() {
    const query = new URLSearchParams();
    if (this.text) query.set("q", this.text);
    if (this.sort !== "name") query.set("sort", this.sort);
    history.replaceState(null, "", `#/devices${query.size ? `?${query}` : ""}`);
    this.cursors = [undefined];
    this.load();
  }

  page(step) {
    if (step > 0) this.cursors.push(this.nextCursor);
    else this.cursors.pop();
    this.load();
  }

  async load() {
    this.loading?.abort();
    const { signal } = (this.loading = new AbortController());
    clearTimeout(this.lookingAgain);
    try {
      const page = await get("/devices", { q: filterOf(this.text), sort: this.sort, cursor: this.cursors.at(-1), limit: PAGE }, signal);
      const devices = page.items;
      const latest = devices.length ? await get("/telemetry/latest", { device: devices.map((d) => d.id) }, signal) : { items: [] };
      const units = new Map(await Promise.all(
        [...new Set(devices.map((d) => d.profile_id))].map(async (id) => [id, await metricsOf(id)])));
      if (signal.aborted) return;
      setText(this.problem, "");
      this.nextCursor = page.next_cursor;
      this.show(devices, new Map(latest.items.map((one) => [one.device_id, one.values])), units);
    } catch (error) {
      if (signal.aborted) return;
      setText(this.problem, error.message);
      if (error.status !== 400) this.lookingAgain = setTimeout(() => this.load(), LOOK_AGAIN_MS);
    }
  }

  show(devices, latest, units) {
    this.rows = new Map(devices.map((device) => [device.id, new Row(device, latest.get(device.id) ?? {}, units.get(device.profile_id))]));
    this.live?.close();
    this.live = null;
    if (!devices.length) {
      replace(this.content, this.text || this.cursors.length > 1 ? this.nothingFound() : firstDevice());
      this.banner.state("live");
      this.lookingAgain = setTimeout(() => this.load(), LOOK_AGAIN_MS);
      return;
    }
    replace(this.body, [...this.rows.values()].map((row) => row.element));
    replace(this.content, this.table, this.pager);
    this.back.disabled = this.cursors.length < 2;
    this.next.disabled = !this.nextCursor;
    this.pager.hidden = this.back.disabled && this.next.disabled;
    const first = (this.cursors.length - 1) * PAGE + 1;
    setText(this.place, `${first} to ${first + devices.length - 1}`);
    this.drawRows();
    this.live = new Live({ devices: devices.map((device) => device.id) }, {
      event: (event) => { if (this.rows.get(event.device_id)?.heard(event)) this.draw(); },
      state: (state, problem) => this.banner.state(state, problem),
      missed: (count) => this.banner.missed(count),
    });
  }

  nothingFound() {
    return h("section.empty", h("h2", "No device matches"),
      h("p", "Search for a part of a name, or ask with fields: ", h("code", 'labels.site = "north"'), ", ",
        h("code", "connected = false"), ", ", h("code", 'status in (active, suspended)'), "."),
      h("button", { type: "button", onclick: () => { this.search.value = ""; this.searched(); this.search.focus(); } }, "Show all devices"));
  }

  drawRows() {
    const now = Date.now();
    for (const row of this.rows.values()) row.draw(now);
  }

  close() {
    clearInterval(this.ticking);
    clearTimeout(this.typing);
    clearTimeout(this.lookingAgain);
    this.loading?.abort();
    this.live?.close();
  }
}

/** One device in the list. */
class Row {
  constructor(device, latest, metrics) {
    this.device = device;
    this.metrics = metrics ?? new Map();
    this.connected = device.presence.connected;
    this.epoch = 0;
    this.seenAt = time(device.presence.last_seen_at);
    this.values = new Map();
    for (const [name, { value, observed_at: at, received_at: received }] of Object.entries(latest)) {
      this.values.set(name, { value, at: time(at) });
      this.seenAt = Math.max(this.seenAt ?? 0, time(received));
    }
    this.dot = h("span.dot");
    this.state = h("span");
    this.seen = h("time");
    this.cells = new Map();
    this.chips = h("div.chips");
    const labels = Object.entries(device.labels).map(([name, text]) => h("span.label", `${name}: ${text}`));
    this.element = h("tr", { "data-device": device.id },
      h("td.device", h("a.name", { href: `#/devices/${device.id}`, title: device.name }, device.name || device.external_id),
        h("span.sub", `${device.external_id} · ${device.profile}`)),
      h("td.state", this.dot, this.state),
      h("td.seen", this.seen),
      h("td.latest", this.chips),
      h("td.wide", h("div.labels", labels)));
    this.element.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !getSelection().toString()) location.hash = `#/devices/${device.id}`;
    });
    this.dirty = true;
  }

  heard(event) {
    this.seenAt = Math.max(this.seenAt ?? 0, time(event.received_at));
    if (event.type === "telemetry") {
      const at = time(event.observed_at);
      for (const [name, value] of Object.entries(event.values)) {
        if ((this.values.get(name)?.at ?? 0) <= at) this.values.set(name, { value, at, fresh: true });
      }
    } else if (event.type === "presence" && event.epoch >= this.epoch) {
      this.epoch = event.epoch;
      this.connected = event.connected;
    }
    this.dirty = true;
    return true;
  }

  draw(now) {
    setText(this.seen, age(this.seenAt, now));
    if (!this.dirty) return;
    this.dirty = false;
    if (this.seenAt) this.seen.title = dateTime(this.seenAt);
    const usable = this.device.status === "registered" || this.device.status === "active";
    this.dot.className = `dot ${usable ? (this.connected ? "on" : "off") : "bad"}`;
    setText(this.state, usable ? (this.connected ? "connected" : this.seenAt ? "not connected" : "never seen") : this.device.status);
    const shown = [...this.values.keys()].sort((a, b) => this.rank(a) - this.rank(b) || a.localeCompare(b)).slice(0, VALUES_SHOWN);
    if (shown.join("\n") !== [...this.cells.keys()].join("\n")) {
      this.cells = new Map(shown.map((name) => [name, h("b")]));
      replace(this.chips, [...this.cells].map(([name, cell]) => h("span.chip", h("span", name), cell)),
        this.values.size > shown.length ? h("span.more", `+${this.values.size - shown.length}`) : null);
    }
    for (const [name, cell] of this.cells) {
      const held = this.values.get(name);
      setText(cell, withUnit(held.value, this.metrics.get(name)?.unit));
      if (held.fresh) {
        held.fresh = false;
        const chip = cell.parentElement;
        chip.classList.remove("flash");
        requestAnimationFrame(() => chip.classList.add("flash"));
      }
    }
  }

  /** In the order of the profile; what it does not declare comes last. */
  rank(name) {
    if (!this.ranks) this.ranks = new Map([...this.metrics.keys()].map((one, place) => [one, place]));
    return this.ranks.get(name) ?? 1000;
  }
}
