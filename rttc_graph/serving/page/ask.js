// Ask a question, and watch the run.

import * as api from "/page/api.js";
import { button, choice, field, h, input, newId, note, number, problem, seconds } from "/page/dom.js";
import { candidates, cut, figures, panel, ruling, sources, takenOf, timeline, verdict, way } from "/page/run_view.js";
import { growingTrees, searchTrees } from "/page/run_tree.js";
import { rating } from "/page/rating.js";

const SHOWN = ["budget_seconds", "max_new_tokens", "k", "temperature", "search_n"];
let defaults = null;
let again = null;
let kept = null; // the form with its result: a question goes on while another story is shown

addEventListener("rttc-key", () => { kept?.stop(); kept = null; });

/** Fill the form with a run's question and settings the next time that it is shown. */
export function askAgain(run) {
  again = run;
  if (location.hash === "#/ask") dispatchEvent(new Event("hashchange"));
  location.hash = "#/ask";
}

async function settings() {
  defaults ??= api.get("/rttc/config_schema").then((schema) => schema.$defs.Configurable.properties);
  try {
    return await defaults;
  } catch (error) {
    defaults = null;
    throw error;
  }
}

export async function view() {
  if (kept && !again) return kept.nodes;
  const [known, domains] = await Promise.all([settings(), api.domainNames()]);
  const given = again;
  again = null;
  const list = newId("domains");
  const question = h("textarea", { rows: "3", required: true, maxlength: "100000", placeholder: "What would you like to know?" });
  question.value = given?.query ?? "";
  const domain = input({ list, value: given?.domain ?? "", placeholder: "all", maxlength: "200" });
  const policy = choice(known.policy.enum, given?.policy ?? known.policy.default);
  const tau = input({ type: "number", min: "0", max: "1", step: "any", required: true, value: given?.tau_r ?? known.tau_r.default });
  const declines = h("input", { type: "checkbox", checked: known.below.default === "decline" });
  const numbers = Object.fromEntries(SHOWN.map((name) => [name, input({
    type: "number", step: "any", min: known[name].minimum ?? known[name].exclusiveMinimum, max: known[name].maximum, placeholder: known[name].default,
  })]));
  const result = h("div", { class: "result" });
  const submit = h("button", { type: "submit", class: "main" }, "Ask");
  const stop = button("Stop", () => running?.abort(), { hidden: true });
  let running = null;

  const form = h("form", {
    class: "card ask",
    onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); },
    onsubmit: async (event) => {
      event.preventDefault();
      const asked = {
        policy: policy.value, tau_r: Number(tau.value), below: declines.checked ? "decline" : "answer",
        ...(domain.value.trim() ? { domain: domain.value.trim() } : {}),
      };
      for (const [name, control] of Object.entries(numbers)) if (control.value) asked[name] = Number(control.value);
      running?.abort();
      const mine = running = new AbortController();
      stop.hidden = false;
      submit.disabled = true;
      try {
        await run(question.value, asked, result, mine.signal, given);
      } finally {
        if (running === mine) {
          stop.hidden = true;
          submit.disabled = false;
        }
        if (!form.isConnected && !mine.signal.aborted) note("Your question is answered: see Ask.");
      }
    },
  },
  h("datalist", { id: list }, domains.map((value) => h("option", { value }))),
  field("Question", question),
  h("div", { class: "row" }, field("Domain", domain), field("Policy", policy), field("τr", tau)),
  h("details", {}, h("summary", {}, "More settings"),
    h("div", { class: "row" }, SHOWN.map((name) => field(name.replaceAll("_", " "), numbers[name], known[name].description))),
    h("p", {}, h("label", { class: "check" }, declines, " Decline rather than answer below τr"))),
  h("div", { class: "actions" }, submit, stop, h("span", { class: "quiet" }, "Ctrl + Enter")));
  kept?.stop();
  const nodes = [given ? h("p", {}, `Asking again what run ${given.run_id} was asked.`) : null, form, result].filter(Boolean);
  kept = { nodes, stop: () => running?.abort() };
  return nodes;
}

async function run(question, asked, result, signal, before) {
  const started = performance.now();
  const path = way();
  const status = h("p", { class: "status", role: "status", "aria-live": "polite" }, "Starting…");
  const clock = h("span", { class: "num quiet", "aria-hidden": "true" });
  const answers = h("div", {});
  const grown = panel();
  const trees = growingTrees();
  const training = h("progress", { hidden: true, max: "1", "aria-label": "Training" });
  const ledger = [];
  const line = h("div", {});
  let tokens = 0;
  const tick = setInterval(() => { clock.textContent = `${seconds((performance.now() - started) / 1000)}, ${tokens} tokens`; }, 100);
  result.replaceChildren(h("section", { class: "card run", "aria-label": "The run" },
    h("div", { class: "line" }, status, clock), path.element, training), grown.element, trees.element, answers, line);
  result.setAttribute("aria-busy", "true");

  const onEvent = (event) => {
    if (event.event === "node") {
      path.visit(event.node);
      training.hidden = true;
      status.textContent = WORDS[event.node] ?? event.node;
    } else if (event.event === "candidates") {
      answers.replaceChildren(h("h2", {}, "Answers"), candidates(event.candidates, asked.tau_r, null));
      tokens = event.candidates.reduce((sum, one) => sum + one.prompt_tokens + one.completion_tokens + one.trained_tokens, 0);
    } else if (event.event === "panel") {
      grown.grow(event);
      trees.grow(event);
      tokens = Math.max(tokens, event.tokens);
    } else if (event.event === "ttt_step") {
      training.hidden = false;
      training.value = event.step / event.steps;
      status.textContent = `Training step ${event.step} of ${event.steps}, loss ${number(event.loss)}`;
    } else if (event.event === "ledger") {
      ledger.push(event.entry);
      line.replaceChildren(h("h2", {}, "Ledger"), timeline(ledger));
    }
  };
  try {
    const done = await api.ask(question, asked, onEvent, signal);
    path.end();
    status.textContent = `${done.arm} answered after ${seconds(done.seconds)}. ${ruling(done)}`;
    result.replaceChildren(...finished(question, asked, done, path.element, status, grown.element, before));
  } catch (error) {
    path.end();
    const stopped = error.name === "AbortError";
    status.textContent = stopped ? "Stopped." : "The run failed.";
    if (!stopped) result.firstChild.append(problem(error));
    if (error.status === 401) note("The key is no longer valid.", "bad");
  } finally {
    clearInterval(tick);
    result.removeAttribute("aria-busy");
  }
}

const WORDS = {
  prepare: "Preparing…",
  retrieve: "Looking for similar samples…",
  nearest: "Asking the nearest samples…",
  rag_generate: "Answering with samples in the prompt…",
  generate: "Answering…",
  ttt_adapt: "Getting an adapter…",
  panel_round: "Drawing answers…",
  reward_judge: "Judging…",
};

function finished(question, asked, done, path, status, grown, before) {
  const run = { ...done, query: question, domain: asked.domain ?? null, policy: asked.policy };
  return [
    h("section", { class: "card run", "aria-label": "The run" },
      h("div", { class: "line" }, status, verdict(done)),
      h("p", { class: "text big", id: "answer" }, done.answer), cut(done, takenOf(done)),
      figures(done), path,
      h("div", { class: "actions" },
        button("Ask again", () => askAgain(run)),
        before && api.may("runs:read") && api.has("/runs/list")
          ? h("a", { class: "button", href: `#/runs/compare/${before.run_id}/${done.run_id}` }, "Compare with the run before") : null,
        h("span", { class: "quiet mono" }, `run ${done.run_id}`))),
    grown,
    h("h2", {}, "Answers"), candidates(done.candidates, done.tau_r, takenOf(done)),
    ...searchTrees(done),
    h("h2", {}, "Sources"), sources(done.sources),
    rating(done.run_id, null),
    h("h2", {}, "Ledger"), timeline(done.ledger),
  ].filter(Boolean);
}

