// Elements without a framework. Text is always text: nothing here takes markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("button.primary", {onclick}, "Save"); a child may be a string, a node, a list of these, or null. */
export function h(selector, ...rest) {
  const [tag, ...classes] = selector.split(".");
  return fill(document.createElement(tag || "div"), classes, rest);
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function fill(element, classes, rest) {
  if (classes.length) element.classList.add(...classes);
  const hasOptions = rest.length && rest[0] !== null && typeof rest[0] === "object"
    && !(rest[0] instanceof Node) && !Array.isArray(rest[0]);
  if (hasOptions) {
    for (const [name, value] of Object.entries(rest.shift())) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name in element && !name.includes("-") && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...rest.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child));
}

/** Change the text only where it differs: a page that ticks every second must not repaint every second. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A code block with a button that copies it. */
export function snippet(text) {
  const copy = h("button.quiet.copy", { type: "button", onclick: async () => {
    await navigator.clipboard?.writeText(text);
    setText(copy, "Copied");
    setTimeout(() => setText(copy, "Copy"), 1500);
  } }, "Copy");
  return h("div.snippet", h("pre", { tabIndex: 0 }, h("code", text)), navigator.clipboard ? copy : null);
}

/** One call at the end of the frame, however often it is asked for. */
export function perFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; work(); });
  };
}
