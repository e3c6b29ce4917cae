// The key of this tab, and what it opens.

import * as api from "/page/api.js";
import { button, field, h, input } from "/page/dom.js";

const MEANINGS = {
  ask: "ask questions and rate answers",
  "runs:read": "read finished runs, statistics and calibrations",
  "kb:read": "search and browse the knowledge base",
  "kb:write": "add, correct and delete samples",
};

const changed = () => dispatchEvent(new Event("rttc-key"));

export function view() {
  const { session } = api;
  const isOpenServer = session.isKnown && session.anyTenant;
  const key = input({ type: "password", value: api.savedKey(), spellcheck: "false", placeholder: "rttc_…" });
  const form = h("form", {
    class: "card narrow",
    onsubmit: (event) => {
      event.preventDefault();
      api.saveKey(key.value.trim());
      api.forgetDomains();
      changed();
    },
  },
  field("API key", key, "Made by rttc keys add. It is kept in this tab only and sent to this server only."),
  h("div", { class: "actions" },
    h("button", { type: "submit", class: "main" }, "Use this key"),
    button("Forget it", () => { api.saveKey(""); api.forgetDomains(); changed(); })));
  const parts = [];
  if (!session.isKnown) {
    const wrong = api.savedKey() ? "The server does not know this key, or it was revoked." : "This server needs an API key.";
    parts.push(h("p", { class: "problem", role: "alert" }, wrong));
  } else if (isOpenServer) {
    parts.push(h("p", {}, "This server has no keys: everybody on this machine may do everything."));
  }
  parts.push(form);
  if (isOpenServer) {
    const tenant = input({ value: api.savedTenant(), placeholder: session.tenant, maxlength: 200 });
    parts.push(h("form", {
      class: "card narrow",
      onsubmit: (event) => {
        event.preventDefault();
        api.saveTenant(tenant.value.trim());
        api.forgetDomains();
        changed();
      },
    }, field("Tenant", tenant, "Whose samples and runs this page works with; empty for the server's own."),
    h("div", { class: "actions" }, h("button", { type: "submit" }, "Work as this tenant"))));
  }
  if (session.isKnown) {
    parts.push(h("section", { class: "card narrow" },
      h("h2", {}, "What is open"),
      h("ul", { class: "plain" }, Object.entries(MEANINGS).map(([scope, text]) => h("li", {},
        h("span", { class: `tag ${api.may(scope) ? "good" : ""}` }, api.may(scope) ? "open" : "closed"),
        ` ${scope}: ${text}`)))));
  }
  return parts;
}
