// The door.

import { h, setText } from "./dom.js";
import { signIn } from "./session.js";

export function signInView(themeButton, mark) {
  const email = h("input", { type: "email", name: "email", id: "email", autocomplete: "username", required: true, spellcheck: "false" });
  const password = h("input", { type: "password", name: "password", id: "password", autocomplete: "current-password", required: true });
  const problem = h("p.problem", { role: "alert" });
  const button = h("button.primary.wide", { type: "submit" }, "Sign in");
  const form = h("form.card", { onsubmit: submit },
    h("div.brandline", mark, h("h1", "Headwater")),
    h("label", { for: "email" }, "E-mail", email),
    h("label", { for: "password" }, "Password", password),
    problem, button,
    h("p.hint", "The first administrator's address and password were shown once by ", h("code", "headwater up"),
      ". Lost? ", h("code", "headwater person password"), " sets a new one."));

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    setText(problem, "");
    try {
      await signIn(email.value.trim(), password.value);
    } catch (error) {
      setText(problem, error.status === 401 ? "That address and password do not belong together." : error.message);
      password.select();
    } finally {
      button.disabled = false;
    }
  }
  return h("div.signin", h("div.corner", themeButton), form);
}
