// The shell: who is signed in, which view the address names, light or dark.

import { DeviceView } from "./device.js";
import { DevicesView } from "./devices.js";
import { h, replace, svg } from "./dom.js";
import * as auth from "./session.js";
import { signInView } from "./signin.js";

const THEME = "headwater.theme";
const page = h("div.page");
let view = null;

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  view?.recolour?.();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function themeButton() {
  const button = h("button.quiet.icon", { type: "button", title: "Light or dark", "aria-label": "Switch between light and dark" },
    svg("svg", { viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true" },
      svg("circle", { cx: 12, cy: 12, r: 8.5, fill: "none", stroke: "currentColor", "stroke-width": 1.8 }),
      svg("path", { d: "M12 3.5a8.5 8.5 0 0 1 0 17z", fill: "currentColor" })));
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    localStorage.setItem(THEME, theme);
    applyTheme(theme);
  });
  return button;
}

function mark() {
  return svg("svg", { viewBox: "0 0 32 32", width: 26, height: 26, "aria-hidden": "true", class: "mark" },
    svg("rect", { width: 32, height: 32, rx: 8, fill: "var(--brand)" }),
    svg("path", { d: "M5 12c3.7-4 7.3-4 11 0s7.3 4 11 0M5 19.5c3.7-4 7.3-4 11 0s7.3 4 11 0", fill: "none",
      stroke: "#fff", "stroke-width": 3, "stroke-linecap": "round" }));
}

function tenantChoice({ tenant, tenants }) {
  const active = tenants.filter((one) => one.status === "active");
  if (active.length < 2) return h("span.tenant", { title: "Tenant" }, tenant?.name ?? "");
  const select = h("select.tenant", { "aria-label": "Tenant" }, active.map(
    (one) => h("option", { value: one.slug, selected: one.slug === tenant?.slug }, one.name)));
  select.addEventListener("change", async () => {
    await auth.switchTenant(select.value);
    location.hash = "#/devices";
    show();
  });
  return select;
}

function header(session) {
  return h("header.top",
    h("a.home", { href: "#/devices" }, mark(), h("span", "Headwater")),
    h("span.grow"),
    tenantChoice(session),
    h("span.person", { title: session.tenant ? `${session.tenant.role} of ${session.tenant.name}` : "" }, session.person.email),
    themeButton(),
    h("button.quiet", { type: "button", onclick: () => auth.signOut() }, "Sign out"));
}

function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const device = path.match(/^\/devices\/([0-9a-f-]{36})$/);
  return device ? new DeviceView(device[1]) : new DevicesView(new URLSearchParams(query));
}

function show() {
  view?.close();
  view = null;
  const session = auth.session();
  if (!session) {
    replace(page, signInView(themeButton(), mark()));
    page.querySelector("input")?.focus();
    return;
  }
  const main = h("main", { id: "main", tabIndex: -1 });
  replace(page, h("a.skip", { href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to content"),
    header(session), main);
  if (!session.tenant) {
    replace(main, h("section.empty", h("h1", "No tenant yet"),
      h("p", "You are signed in, but you do not work for any active tenant. Ask an administrator to add you, then sign in again.")));
    return;
  }
  view = route();
  replace(main, view.element);
  document.title = "Headwater";
}

async function start() {
  applyTheme(localStorage.getItem(THEME));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.recolour?.());
  document.body.append(page);
  try {
    await auth.restore();
  } catch (error) {
    replace(page, h("section.empty", h("h1", "The server does not answer"), h("p", error.message),
      h("button.primary", { type: "button", onclick: () => location.reload() }, "Try again")));
    return;
  }
  let signedIn = Boolean(auth.session());
  auth.onChange((session) => {
    if (Boolean(session) !== signedIn) {
      signedIn = Boolean(session);
      show();
    }
  });
  addEventListener("hashchange", () => { if (!view?.follows?.(location.hash)) show(); });
  show();
}

start();
