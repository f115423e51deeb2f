"use strict";
// Renders /api/v1/openapi.json. No library, nothing from elsewhere: it works where there is no internet.

const el = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null));
  return node;
};

const access = (operation) =>
  ({ permission: operation["x-permission"], member: "any member", person: "people", anyone: "any credential",
     operator: "platform operator", public: "public" })[operation["x-access"]];

const nameOf = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : null);

// A schema in a few lines that read like the JSON it stands for.
function outline(schema, spec, depth = 0, seen = []) {
  const name = nameOf(schema);
  if (name) {
    if (seen.includes(name) || depth > 5) return name;
    return outline(spec.components.schemas[name], spec, depth, [...seen, name]);
  }
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const alternatives = schema.anyOf || schema.oneOf;
  if (alternatives) return alternatives.map((one) => outline(one, spec, depth, seen)).join(" | ");
  if (schema.type === "array" && schema.items) return `[${outline(schema.items, spec, depth, seen)}]`;
  if (schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const members = Object.entries(schema.properties).map(([key, value]) => {
      const optional = (schema.required || []).includes(key) ? "" : "?";
      return `${pad}${key}${optional}: ${outline(value, spec, depth + 1, seen)}`;
    });
    return `{\n${members.join("\n")}\n${"  ".repeat(depth)}}`;
  }
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "any";
  const bounds = [];
  if (schema.format) bounds.push(schema.format);
  if (schema.minimum !== undefined) bounds.push(`>= ${schema.minimum}`);
  if (schema.maximum !== undefined) bounds.push(`<= ${schema.maximum}`);
  if (schema.minLength !== undefined || schema.maxLength !== undefined)
    bounds.push(`${schema.minLength ?? 0}..${schema.maxLength ?? ""} characters`);
  return bounds.length ? `${type} (${bounds.join(", ")})` : type;
}

function parameterTable(operation, spec, inputs) {
  if (!operation.parameters.length) return null;
  return el("table", {}, ...operation.parameters.map((parameter) => {
    const input = (inputs[`${parameter.in} ${parameter.name}`] = el("input", { placeholder: parameter.schema.default ?? "" }));
    return el("tr", {}, el("td", {}, el("code", { textContent: parameter.name + (parameter.required ? " *" : "") })),
      el("td", { textContent: parameter.in }), el("td", { textContent: outline(parameter.schema, spec) }),
      el("td", { textContent: parameter.description || "" }), el("td", {}, input));
  }));
}

async function send(path, method, operation, inputs, body, output) {
  const headers = {};
  const query = new URLSearchParams();
  let url = path;
  for (const parameter of operation.parameters) {
    const value = inputs[`${parameter.in} ${parameter.name}`].value;
    if (value === "") continue;
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (parameter.in === "query") query.append(parameter.name, value);
    else headers[parameter.name] = value;
  }
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = Object.keys(operation.requestBody.content)[0];
  const search = query.toString();
  try {
    const answer = await fetch(url + (search ? `?${search}` : ""), { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
    output.textContent = `${answer.status} ${answer.statusText}\n${shown}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function operationNode(path, method, operation, spec) {
  const details = el("details", { id: operation.operationId },
    el("summary", {}, el("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
      el("span", { className: "path", textContent: path }), el("span", { textContent: operation.summary }),
      el("span", { className: "note", textContent: access(operation) })));
  // Filled when it is opened: a page of all outlines at once would be slow.
  details.addEventListener("toggle", () => {
    if (!details.open || details.dataset.filled) return;
    details.dataset.filled = "yes";
    const inputs = {};
    const content = operation.requestBody ? Object.entries(operation.requestBody.content) : [];
    const body = content.length ? el("textarea", { value: content[0][0] === "application/json" ? "{}" : "" }) : null;
    const output = el("pre", { hidden: true });
    const button = el("button", { type: "button", textContent: "Try" });
    button.addEventListener("click", () => { output.hidden = false; send(path, method, operation, inputs, body, output); });
    details.append(el("div", {}, el("p", { textContent: operation.description }), parameterTable(operation, spec, inputs),
      ...content.flatMap(([type, media]) => [el("h4", { textContent: `Body: ${type}` }), el("pre", { textContent: outline(media.schema, spec) })]),
      ...Object.entries(operation.responses).map(([status, response]) => {
        if (response.$ref) response = spec.components.responses[response.$ref.split("/").pop()];
        const media = Object.entries(response.content || {}).find(([type]) => type !== "application/problem+json");
        return el("div", {}, el("h4", { textContent: `${status} ${response.description}` }),
          media ? el("pre", { textContent: outline(media[1].schema, spec) }) : null);
      }), body, button, output));
  });
  details.dataset.text = `${path} ${operation.operationId} ${operation.summary}`.toLowerCase();
  return details;
}

async function start() {
  const spec = await (await fetch("/api/v1/openapi.json")).json();
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").textContent = spec.info.description;
  const sections = spec.tags.map((tag) => el("section", {}, el("h2", { textContent: tag.name }), el("p", { textContent: tag.description }),
    ...Object.entries(spec.paths).flatMap(([path, item]) => Object.entries(item)
      .filter(([, operation]) => operation.tags.includes(tag.name))
      .map(([method, operation]) => operationNode(path, method, operation, spec)))));
  document.getElementById("operations").replaceChildren(...sections);
  document.getElementById("try").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const node of document.querySelectorAll("details")) node.hidden = !node.dataset.text.includes(wanted);
    for (const section of document.querySelectorAll("section")) section.hidden = !section.querySelector("details:not([hidden])");
  });
  const linked = location.hash && document.getElementById(location.hash.slice(1));
  if (linked) { linked.open = true; linked.scrollIntoView(); }
}

start().catch((error) => { document.getElementById("operations").textContent = String(error); });
