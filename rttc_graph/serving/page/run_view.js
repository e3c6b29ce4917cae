// A run: its way through the graph, its answers side by side, what they rest on, and its ledger.

import { count, fact, h, number, percent, seconds, short, svg, table } from "/page/dom.js";

const NODES = [
  ["prepare", 60, 100], ["retrieve", 190, 100], ["nearest", 340, 26], ["rag_generate", 340, 74],
  ["ttt_adapt", 340, 122], ["panel_round", 340, 170], ["generate", 490, 122], ["reward_judge", 630, 74],
];
const EDGES = [
  ["prepare", "retrieve"], ["retrieve", "nearest"], ["retrieve", "rag_generate"], ["retrieve", "ttt_adapt"],
  ["retrieve", "panel_round"], ["ttt_adapt", "generate"], ["nearest", "reward_judge"],
  ["rag_generate", "reward_judge"], ["generate", "reward_judge"], ["panel_round", "reward_judge"],
];
const PLACES = Object.fromEntries(NODES.map(([name, x, y]) => [name, { x, y }]));
const HALF = 56;

function edge(from, to) {
  const [a, b] = [PLACES[from], PLACES[to]];
  const [x1, x2] = [a.x + HALF, b.x - HALF];
  const bend = (x2 - x1) / 2;
  return svg("path", { class: "edge", d: `M${x1} ${a.y}C${x1 + bend} ${a.y} ${x2 - bend} ${b.y} ${x2} ${b.y}` });
}

/** A picture of the graph and the way through it; `visit(node)` moves it on, `end()` stops it. */
export function way() {
  const boxes = {};
  const times = {};
  const picture = svg("svg", { class: "graph", viewBox: "0 0 690 196", "aria-hidden": "true", focusable: "false" },
    EDGES.map(([from, to]) => edge(from, to)),
    NODES.map(([name, x, y]) => {
      boxes[name] = svg("g", { class: "node", transform: `translate(${x} ${y})` },
        svg("rect", { x: -HALF, y: -16, width: 2 * HALF, height: 32, rx: 6 }),
        svg("text", { y: 4, "text-anchor": "middle" }, name),
        svg("text", { class: "times", x: HALF - 4, y: -19, "text-anchor": "end" }, ""));
      return boxes[name];
    }));
  const steps = h("ol", { class: "steps", "aria-label": "Nodes in the order in which they ran" });
  const settle = () => {
    for (const box of Object.values(boxes)) box.classList.remove("now");
    steps.querySelector(".now")?.classList.remove("now");
  };
  return {
    element: h("div", { class: "way" }, h("div", { class: "picture" }, picture), steps),
    visit(name) {
      settle();
      steps.append(h("li", { class: "now" }, name));
      times[name] = (times[name] ?? 0) + 1;
      if (!boxes[name]) return;
      boxes[name].classList.add("now", "done");
      boxes[name].querySelector(".times").textContent = times[name] > 1 ? `${times[name]}×` : "";
    },
    end: settle,
  };
}

/** The nodes of a ledger, each as often as it ran. */
export function nodesOf(ledger) {
  const found = [];
  ledger.forEach((entry, place) => {
    const before = ledger[place - 1];
    const isNew = before?.node !== entry.node || before.event === "decided";
    if (isNew) found.push(entry.node);
  });
  return found;
}

export function verdict(run) {
  if (run.accepted) return h("span", { class: "tag good" }, "accepted");
  if (run.declined) return h("span", { class: "tag warn" }, "declined");
  return h("span", { class: "tag warn" }, "not accepted");
}

/** Why an answer can be acted on or not, as a sentence. */
export function ruling(run) {
  const worth = run.reward === null ? "" : `${run.calibrated ? "P(right)" : "score"} ${number(run.reward)}`;
  const tau = `τr ${number(run.tau_r, 2)}`;
  if (run.accepted) return `Accepted: ${worth} is at least ${tau}.`;
  const said = run.declined ? "Declined" : "Not accepted";
  if (!worth) return `${said}: the answer could not be judged.`;
  if (run.reward >= run.tau_r) return `${said}: the model says that it does not know, or no sample is near enough.`;
  return `${said}: ${worth} is below ${tau}${run.declined ? "" : "; take the answer for a guess"}.`;
}

const CUT = {
  length: "The answer was cut at its longest: raise max new tokens for more.",
  budget: "The answer was cut when the budget of the run was spent.",
  loop: "The answer was cut, since it repeated itself.",
  step: "The answer was not written to its end: raise budget tokens or budget seconds for more.",
};

/** A note on an answer that is not whole; nothing for one that is. */
export const cut = (run, taken) => (!run.declined && CUT[taken?.finish_reason] ? h("p", { class: "hint cut" }, CUT[taken.finish_reason]) : null);

function meter(reward, tau) {
  if (reward === null || reward === undefined) return h("p", { class: "quiet" }, "not judged");
  return h("div", { class: `meter ${reward >= tau ? "good" : "warn"}`, css: { "--at": reward, "--tau": tau } },
    h("span", { class: "bar" }), h("span", { class: "mark" }),
    h("span", { class: "value" }, `${number(reward)} `, h("span", { class: "quiet" }, `τr ${number(tau, 2)}`)));
}

/** All answers of a run side by side. */
export function candidates(found, tau, taken) {
  return h("ul", { class: "cards" }, found.map((one) => h("li", { class: `card answer ${one === taken ? "taken" : ""}` },
    h("h3", {}, one.arm, " ", one === taken ? h("span", { class: "tag" }, "taken") : null),
    meter(one.reward, tau),
    h("p", { class: "text", tabindex: "0" }, one.answer || "(empty)"),
    h("dl", { class: "facts" },
      fact("seconds", number(one.seconds, 2)),
      fact("prompt tokens", count(one.prompt_tokens)),
      fact("answer tokens", count(one.completion_tokens)),
      one.trained_tokens ? fact("trained tokens", count(one.trained_tokens)) : null,
      fact("ended by", one.finish_reason)))));
}

/** The candidate that was taken: the best-judged one of the arm that answered. */
export function takenOf(run) {
  const same = run.candidates.filter((one) => one.arm === run.arm);
  return same.reduce((best, one) => (best && (best.reward ?? -1) >= (one.reward ?? -1) ? best : one), null);
}

export function sources(found) {
  if (!found.length) return h("p", { class: "quiet" }, "No samples: the answer is the model's own.");
  return table("Samples that the answers rest on, nearest first", ["similarity", "question", "answer", "domain", "used by"],
    found.map((one) => h("tr", { class: one.taken ? "taken" : "" },
      h("td", { class: "num", "data-of": "similarity" }, number(one.similarity)),
      h("th", { scope: "row", class: "text" }, short(one.question, 300)),
      h("td", { class: "text" }, short(one.answer, 300)),
      h("td", {}, one.domain),
      h("td", {}, one.arms.join(", "), " ", one.taken ? h("span", { class: "tag" }, "taken") : null))), { class: "stack" });
}

// Seconds of these are of work; those of other entries are in them already.
const WORK = new Set(["recalled", "retrieved", "trained", "reused", "answered", "judged", "stopped"]);

function words(entry) {
  const { detail } = entry;
  if (detail.reason) return detail.reason;
  if (detail.error) return detail.error;
  if (entry.event === "judged") return detail.arms.map((arm, n) => `${arm} ${number(detail.rewards[n])}`).join(", ");
  if (entry.event === "answered") return `${detail.arm}: ${detail.prompt_tokens} + ${detail.completion_tokens} tokens`;
  if (entry.event === "recalled") return `samples ${detail.samples}, adapter ${detail.adapter}`;
  const told = Object.entries(detail).filter(([name, value]) => typeof value !== "object" && !name.endsWith("key"));
  return told.slice(0, 3).map(([name, value]) => `${name} ${Number.isFinite(value) && !Number.isInteger(value) ? number(value) : value}`).join(", ");
}

/** The ledger as a time line. */
export function timeline(ledger) {
  let at = 0;
  const placed = ledger.map((entry) => {
    const took = WORK.has(entry.event) ? entry.seconds : 0;
    at += took;
    return { entry, from: at - took, took };
  });
  const whole = Math.max(at, 0.001);
  return h("ol", { class: "timeline" }, placed.map(({ entry, from, took }) => h("li", { class: entry.event === "failed" ? "failed" : "" },
    h("details", {},
      h("summary", {},
        h("span", { class: "at num" }, seconds(from)),
        h("span", { class: "what" }, h("b", {}, entry.event), ` ${entry.node}`),
        h("span", { class: "why" }, words(entry)),
        h("span", { class: "span", css: { "--from": from / whole, "--took": took / whole } }, h("i", {})),
        h("span", { class: "took num" }, took ? seconds(took) : "")),
      h("pre", {}, JSON.stringify(entry.detail, null, 2))))));
}

export function figures(run) {
  const kind = run.calibrated ? "P(right)" : "score";
  return h("dl", { class: "figures" },
    fact("arm", run.arm), fact(kind, number(run.reward)), fact("τr", number(run.tau_r, 2)),
    fact("seconds", number(run.seconds, 2)),
    fact("tokens", count(run.tokens ?? run.candidates.reduce((sum, one) => sum + one.prompt_tokens + one.completion_tokens + one.trained_tokens, 0))),
    run.cache ? fact("cache", `samples ${run.cache.samples}, adapter ${run.cache.adapter}`) : null);
}

/** A panel as it grows: answers with their votes. */
export function panel() {
  const head = h("p", { class: "quiet" });
  const votes = h("ol", { class: "votes" });
  const rewards = [];
  const element = h("section", { class: "card", hidden: true }, h("h2", {}, "Panel"), head, votes);
  return {
    element,
    grow(event) {
      element.hidden = false;
      rewards.push(...event.rewards);
      const judged = rewards.filter((one) => one !== null);
      const mean = judged.length ? `, mean reward ${number(judged.reduce((a, b) => a + b, 0) / judged.length)}` : "";
      const from = Object.entries(event.draws).map(([name, times]) => `${times} from ${name}`).join(", ");
      head.textContent = `${event.arm}, round ${event.round}: ${event.drawn} of at most ${event.size} answers (${from}${mean}), ${count(event.tokens)} tokens`;
      votes.replaceChildren(...Object.entries(event.votes).map(([answer, times]) => h("li", { class: answer === event.leader ? "leads" : "" },
        h("span", { class: "text" }, short(answer)),
        h("span", { class: "share", css: { "--at": times / event.drawn } }, h("i", {})),
        h("span", { class: "num" }, `${times} (${percent(times / event.drawn)})`))));
    },
  };
}
