// Finished runs: a list, one of them, and two side by side.

import * as api from "/page/api.js";
import { askAgain } from "/page/ask.js";
import { button, busy, choice, count, field, h, input, moment, newId, number, problem, short, table } from "/page/dom.js";
import { candidates, cut, figures, nodesOf, ruling, sources, timeline, verdict, way } from "/page/run_view.js";
import { searchTrees } from "/page/run_tree.js";
import { rating } from "/page/rating.js";

const kept = { domain: "", arm: "", accepted: "", rated: "", first_day: "", last_day: "", contains: "" };
const seen = new Set();

export async function view([what, first, second]) {
  if (what === "compare" && first && second) return compare(first, second);
  if (what) return one(what);
  return list();
}

async function list() {
  const domains = await api.domainNames();
  const names = newId("domains");
  const chosen = new Set();
  const controls = {
    domain: input({ list: names, value: kept.domain, placeholder: "any" }),
    arm: input({ value: kept.arm, placeholder: "any", list: "arms" }),
    accepted: choice([["", "any"], ["true", "accepted"], ["false", "not accepted"]], kept.accepted),
    rated: choice([["", "any"], ["right", "right"], ["wrong", "wrong"], ["none", "not rated"]], kept.rated),
    first_day: input({ type: "date", value: kept.first_day }),
    last_day: input({ type: "date", value: kept.last_day }),
    contains: input({ type: "search", value: kept.contains }),
  };
  const compareLink = button("Compare", () => { location.hash = `#/runs/compare/${[...chosen].join("/")}`; }, { disabled: true });
  const found = h("div", {});
  const armsSeen = h("datalist", { id: "arms" });
  const body = h("tbody", {});
  const more = button("More", () => busy(more, () => fill(more.dataset.after)), { hidden: true });

  const row = (run) => {
    const box = h("input", {
      type: "checkbox", "aria-label": `Compare run ${run.run_id}`,
      onchange: (event) => {
        if (event.target.checked) chosen.add(run.run_id);
        else chosen.delete(run.run_id);
        compareLink.disabled = chosen.size !== 2;
      },
    });
    return h("tr", {},
      h("td", {}, box),
      h("th", { scope: "row", class: "text" }, h("a", { href: `#/runs/${encodeURIComponent(run.run_id)}` }, short(run.query))),
      h("td", { class: "text" }, short(run.answer, 90)),
      h("td", {}, run.domain ?? "–"), h("td", {}, run.arm),
      h("td", { class: "num", "data-of": "reward" }, number(run.reward)), h("td", {}, verdict(run)),
      h("td", {}, run.rated === "none" ? "–" : run.rated),
      h("td", { class: "num", "data-of": "seconds" }, number(run.seconds, 2)), h("td", { class: "num" }, moment(run.created_at)));
  };

  async function fill(after) {
    const which = { limit: 50 };
    for (const [name, control] of Object.entries(controls)) {
      kept[name] = control.value;
      if (control.value) which[name] = name === "accepted" ? control.value === "true" : control.value;
    }
    if (after) which.after = after;
    const page = await api.post("/runs/list", which);
    if (!after) {
      chosen.clear();
      compareLink.disabled = true;
      body.replaceChildren();
    }
    body.append(...page.runs.map(row));
    for (const { arm } of page.runs) seen.add(arm);
    armsSeen.replaceChildren(...[...seen].sort().map((value) => h("option", { value })));
    more.hidden = page.next === null;
    more.dataset.after = page.next ?? "";
    const shown = body.children.length;
    found.replaceChildren(shown
      ? table(`${shown}${page.next ? " or more" : ""} runs, newest first; times in UTC`,
        ["compare", "question", "answer", "domain", "arm", "reward", "verdict", "rated", "seconds", "when"], [], { class: "runs stack" })
      : h("p", { class: "quiet" }, "No run is like this. Ask something, or ask for less here."));
    found.querySelector("tbody")?.replaceWith(body);
  }

  const form = h("form", { class: "card filters", onsubmit: (event) => { event.preventDefault(); fill().catch((error) => found.replaceChildren(problem(error))); } },
    h("datalist", { id: names }, domains.map((value) => h("option", { value }))),
    armsSeen,
    h("div", { class: "row" },
      field("Text", controls.contains), field("Domain", controls.domain), field("Arm", controls.arm),
      field("Accepted", controls.accepted), field("Rated", controls.rated),
      field("From", controls.first_day), field("To", controls.last_day)),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Show"), compareLink,
      h("span", { class: "quiet" }, "Tick two runs to compare them.")));
  await fill();
  return [form, found, more];
}

const read = (runId) => api.post("/runs/show", { run_id: runId });

function retraced(run) {
  const path = way();
  for (const name of nodesOf(run.ledger)) path.visit(name);
  path.end();
  return path.element;
}

async function one(runId) {
  const run = await read(runId);
  const judged = run.tried.map((tried) => `${tried.arm} ${number(tried.reward)}`).join(", ");
  return [
    h("p", {}, h("a", { href: "#/runs" }, "← All runs")),
    h("section", { class: "card run", "aria-label": "The run" },
      h("div", { class: "line" }, h("h2", { class: "text" }, run.query), verdict(run)),
      h("p", { class: "text big" }, run.answer), cut(run, run.candidate),
      h("p", { class: "ruling" }, ruling(run)),
      figures(run),
      h("p", { class: "quiet" }, `${moment(run.created_at)} UTC, domain ${run.domain ?? "none"}, policy ${run.policy}; judged: ${judged || "nothing"}`),
      retraced(run),
      h("div", { class: "actions" },
        api.may("ask") && api.has("/v1/chat/completions") ? button("Ask again", () => askAgain(run), { class: "main" }) : null,
        h("span", { class: "quiet mono" }, `run ${run.run_id}`))),
    run.candidate ? [h("h2", {}, "Answer that was taken"), candidates([run.candidate], run.tau_r, run.candidate)] : [],
    ...searchTrees(run),
    h("h2", {}, "Sources"), sources(run.sources),
    rating(run.run_id, run.rating) ?? [],
    h("h2", {}, "Ledger"), timeline(run.ledger),
  ].flat();
}

async function compare(first, second) {
  const runs = await Promise.all([read(first), read(second)]);
  const rows = [
    ["question", (run) => run.query], ["answer", (run) => run.answer], ["verdict", (run) => verdict(run)],
    ["arm", (run) => run.arm], ["reward", (run) => number(run.reward)], ["τr", (run) => number(run.tau_r, 2)],
    ["policy", (run) => run.policy], ["domain", (run) => run.domain ?? "–"],
    ["seconds", (run) => number(run.seconds, 2)], ["tokens", (run) => count(run.tokens)],
    ["judged", (run) => run.tried.map((tried) => `${tried.arm} ${number(tried.reward)}`).join(", ")],
    ["samples", (run) => String(run.sources.length)], ["rated", (run) => run.rated], ["when (UTC)", (run) => moment(run.created_at)],
  ];
  const text = (shown) => (typeof shown === "string" ? shown : shown.textContent);
  return [
    h("p", {}, h("a", { href: "#/runs" }, "← All runs")),
    table("Two runs; what differs is marked", ["what", "first", "second"], rows.map(([name, show]) => {
      const cells = runs.map(show);
      const differs = text(cells[0]) !== text(cells[1]);
      return h("tr", { class: differs ? "differs" : "" }, h("th", { scope: "row" }, name), cells.map((cell) => h("td", { class: "text" }, cell)));
    })),
    h("div", { class: "two" }, runs.map((run, place) => h("section", { class: "card", "aria-label": `Run ${place + 1}` },
      h("h2", {}, place ? "Second" : "First"),
      retraced(run),
      api.may("ask") && api.has("/v1/chat/completions") ? button("Ask again", () => askAgain(run)) : null,
      searchTrees(run, place ? "second" : "first"),
      timeline(run.ledger)))),
  ];
}
