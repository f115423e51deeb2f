// What the page knows about its live connection, said where it is seen and heard.

import { h, replace } from "./dom.js";

export class Banner {
  constructor() {
    this.element = h("div.banner", { role: "status", "aria-live": "polite", hidden: true });
    this.missedCount = 0;
    this.missedUnknown = false;
    this.status = "connecting";
    this.show();
  }

  state(status, problem) {
    this.status = status;
    this.problem = problem;
    this.show();
  }

  missed(count) {
    if (count === null) this.missedUnknown = true;
    else this.missedCount += count;
    this.show();
  }

  show() {
    const parts = [];
    if (this.status === "lost") {
      parts.push(h("span.spinner", { "aria-hidden": "true" }), h("span", "Live connection lost, reconnecting …"));
    } else if (this.status === "ended") {
      parts.push(h("span", `Live view ended: ${this.problem?.detail ?? "the server closed it."}`));
    } else if (this.missedCount || this.missedUnknown) {
      const count = this.missedUnknown ? (this.missedCount ? `more than ${this.missedCount}` : "some") : this.missedCount;
      parts.push(
        h("span", `You missed ${count} live ${this.missedCount === 1 && !this.missedUnknown ? "event" : "events"}. `
          + "They are stored; reload to see them."),
        h("button.quiet", { type: "button", onclick: () => location.reload() }, "Reload"),
        h("button.quiet", { type: "button", onclick: () => this.forget() }, "Dismiss"),
      );
    }
    this.element.classList.toggle("warn", this.status === "lost" || this.status === "ended");
    this.element.hidden = parts.length === 0;
    replace(this.element, parts);
    document.documentElement.dataset.live = this.status;
  }

  forget() {
    this.missedCount = 0;
    this.missedUnknown = false;
    this.show();
  }
}
