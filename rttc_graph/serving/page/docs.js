// Every route, from the server's own OpenAPI file.

import * as api from "/page/api.js";
import { h } from "/page/dom.js";

export async function view() {
  const told = await api.get("/openapi.json");
  const groups = new Map();
  for (const [path, item] of Object.entries(told.paths)) {
    for (const [method, route] of Object.entries(item)) {
      const tag = route.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), { path, method, route }]);
    }
  }
  return [
    h("p", {}, "Every route of this server. Programs read the same from ", h("a", { href: "/openapi.json" }, "/openapi.json"), "."),
    [...groups].map(([tag, routes]) => [h("h2", {}, tag), h("ul", { class: "routes" }, routes.map((one) => shown(one, told)))]),
  ].flat(3);
}

function shown({ path, method, route }, told) {
  const body = route.requestBody?.content?.["application/json"]?.schema;
  const answer = route.responses?.["200"]?.content?.["application/json"]?.schema;
  return h("li", {}, h("details", {},
    h("summary", {}, h("b", { class: "mono" }, method.toUpperCase()), " ", h("code", {}, path), " ", h("span", { class: "quiet" }, (route.description ?? route.summary ?? "").split("\n")[0])),
    h("div", { class: "two" },
      h("section", {}, h("h3", {}, "Takes"), body ? fields(resolved(body, told)) : h("p", { class: "quiet" }, "nothing")),
      h("section", {}, h("h3", {}, "Returns"), answer ? fields(resolved(answer, told)) : h("p", { class: "quiet" }, Object.keys(route.responses?.["200"]?.content ?? {}).join(", ") || "nothing"))),
    route.security ? h("p", { class: "quiet" }, "Needs a key, where the server has keys.") : null));
}

const resolved = (schema, told) => (schema.$ref ? told.components.schemas[schema.$ref.split("/").pop()] ?? {} : schema);

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function fields(schema) {
  if (!schema.properties) return h("p", { class: "mono" }, kind(schema));
  const needed = new Set(schema.required ?? []);
  return h("dl", { class: "fields" }, Object.entries(schema.properties).map(([name, one]) => h("div", {},
    h("dt", {}, h("code", {}, name), ` ${kind(one)}`, needed.has(name) ? ", needed" : "", one.default !== undefined && one.default !== null ? `, default ${JSON.stringify(one.default)}` : ""),
    one.description ? h("dd", { class: "quiet" }, one.description) : null)));
}
