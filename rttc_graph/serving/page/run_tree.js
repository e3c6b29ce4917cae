// What a search leaves in a run's report: the tree of the steps that it wrote, and the graph of the
// questions that a question was split into.

import { button, count, fact, h, number, unseen } from "/page/dom.js";
import { treeView } from "/page/tree.js";

const tag = (text, kind = "") => h("span", { class: `tag ${kind}` }, text);

const ENDED = { length: "cut at its longest", budget: "cut by the budget", loop: "cut in a loop" };

const STEPS = {
  key: "steps",
  title: "Tree of steps",
  what: "steps",
  worth: "P",
  judged: "judged_steps",
  unjudgedBy: "judge steps",
  name: (node) => `Step ${node.node}`,
  /** The steps of the kept answer, the last of them first. */
  kept(nodes, place) {
    const found = [];
    for (let at = place === null ? null : nodes.find((node) => node.answer === place); at; at = nodes[at.parent]) found.push(at.node);
    return found;
  },
  unjudged: (node, word) => word,
  text: (node) => h("span", { class: "said" }, node.step.trim() || h("span", { class: "quiet" }, "(end)")),
  tags: (node) => [
    node.look ? tag("look ahead") : null,
    node.answer === null ? null : tag(`answer ${node.answer}`),
    ENDED[node.finish_reason] ? tag(ENDED[node.finish_reason], "warn") : null,
  ],
  facts: (node) => [fact("round", node.round + 1), fact("ended by", node.finish_reason)],
  told(node, nodes) {
    const before = [];
    for (let at = nodes[node.parent]; at; at = nodes[at.parent]) before.unshift(at.step);
    return [
      h("h4", {}, node.answer === null ? "The answer up to here" : `Answer ${node.answer}`),
      h("p", { class: "text" }, h("span", { class: "quiet" }, before), h("mark", {}, node.step || "(end)")),
    ];
  },
};

/** What became of a question, where that is not just that it was answered. */
function state({ status, parts, known = [] }) {
  if (status !== "joined") return status === "answered" ? null : status;
  return parts.some((part) => known.includes(part)) ? "from its parts" : "split in vain";
}

const THOUGHTS = {
  key: "thoughts",
  title: "Graph of thoughts",
  what: "questions",
  worth: "reward",
  judged: "judged_thoughts",
  unjudgedBy: "judge draws",
  name: (node) => `Question ${node.node}`,
  /** The run's own question, and those whose answers led to the kept one. */
  kept(nodes, place) {
    const found = new Set(place === null ? [] : [0]);
    for (const one of found) for (const known of nodes[one].known ?? []) found.add(known);
    return [...found];
  },
  text: (node) => [
    h("span", { class: "said" }, h("span", { class: "quiet" }, `${node.node}. `), node.question),
    node.answer ? h("span", { class: "said answered" }, unseen("Answer: "), h("span", { "aria-hidden": "true" }, "→ "), node.answer) : null,
  ],
  unjudged: (node, word) => (node.answer ? word : "no answer"),
  tags: (node) => [state(node) ? tag(state(node)) : null, node.needs.length ? tag(`needs ${node.needs.join(", ")}`) : null],
  facts: (node) => [fact("level", node.depth), fact("round", node.round + 1)],
  told(node, nodes, select) {
    const links = (name, places) => (places.length ? [h("h4", {}, name), h("ul", { class: "plain" }, places.map((place) => h("li", {},
      button(`${place}. ${nodes[place].question}`, () => select(place), { class: "link" }))))] : []);
    return [
      h("h4", {}, "Question"), h("p", { class: "text" }, node.question),
      h("h4", {}, "Answer"), h("p", { class: "text" }, node.answer || "(none)"),
      node.why ? h("p", { class: "quiet" }, node.why) : null,
      links("Needs", node.needs), links("Split into", node.parts), links("Answers in its prompt", node.known ?? []),
    ];
  },
};

const KINDS = [STEPS, THOUGHTS];

/** A tree of one kind with its figures; `update` draws what a report or an event has of it. */
function drawing(kind) {
  const head = h("p", { class: "quiet" });
  let nodes = [];
  let kept = [];
  let unjudged = "not judged";

  const mark = (place) => {
    if (place === kept[0]) return [h("b", { "aria-hidden": "true" }, "✓ "), unseen("Kept: ")];
    return kept.includes(place) ? [h("b", { "aria-hidden": "true" }, "✓ "), unseen("On the way to the kept answer: ")] : null;
  };
  const view = treeView({
    row: (node, more) => [
      h("span", { class: `what ${kept.includes(node.node) ? "kept" : ""}` }, mark(node.node), kind.text(node)),
      h("span", { class: "tags" }, node.node === kept[0] ? tag("kept", "good") : null, kind.tags(node), more),
      node.p === null ? h("span", { class: "num quiet" }, kind.unjudged(node, unjudged))
        : h("span", { class: "num worth" }, h("span", { class: "share", css: { "--at": node.p } }, h("i", {})), `${kind.worth} ${number(node.p, 2)}`),
      h("span", { class: "num quiet" }, `${count(node.tokens)} tokens`),
      h("span", { class: "quiet" }, node.proposer ?? "–"),
    ],
    told: (node, select) => [
      h("h3", {}, kind.name(node), node.node === kept[0] ? tag("kept", "good") : null),
      kept.indexOf(node.node) > 0 ? h("p", { class: "quiet" }, "✓ on the way to the kept answer") : null,
      h("dl", { class: "facts" },
        fact(kind.worth, node.p === null ? kind.unjudged(node, unjudged) : number(node.p)), fact("tokens", count(node.tokens)),
        node.proposer ? fact("from", node.proposer) : null, kind.facts(node)),
      kind.told(node, nodes, select),
    ],
  });
  return {
    nodes: [h("h2", {}, kind.title), h("section", { class: "card search-tree" }, h("div", { class: "line" }, head, view.buttons), view.element)],
    update(found, { arm, place, hasJudge, run = "" }) {
      nodes = found;
      kept = kind.kept(nodes, place);
      unjudged = hasJudge || nodes.some((node) => node.p !== null) ? "judge abstained" : "not judged";
      const tokens = nodes.reduce((sum, node) => sum + node.tokens, 0);
      head.textContent = `${arm}: ${count(nodes.length)} ${kind.what}, ${count(tokens)} tokens`;
      view.update(nodes, { label: `${kind.title}, ${arm}${run && `, ${run} run`}`, end: kept[0], kept });
    },
  };
}

/** The trees of a finished run, each below its heading; `run` is its name beside another one. */
export function searchTrees({ ledger }, run) {
  const failed = (kind) => ledger.some(({ event, detail }) => event === "failed" && detail.what === kind.unjudgedBy);
  return ledger.filter(({ event }) => event === "stopped").flatMap(({ detail }) => KINDS.filter(({ key }) => detail[key]?.length).flatMap((kind) => {
    const drawn = drawing(kind);
    const hasJudge = !failed(kind) && ledger.some(({ event }) => event === kind.judged);
    drawn.update(detail[kind.key], { arm: detail.arm, place: detail.kept ?? null, hasJudge, run });
    return drawn.nodes;
  }));
}

/** The trees of a run that goes on; `grow(event)` is given each round of a panel. */
export function growingTrees() {
  const element = h("div", {});
  const drawn = new Map();
  return {
    element,
    grow(event) {
      for (const kind of KINDS) {
        if (!event[kind.key]?.length) continue;
        const name = `${kind.key} ${event.arm}`;
        if (!drawn.has(name)) {
          drawn.set(name, { ...drawing(kind), found: [] });
          element.append(...drawn.get(name).nodes);
        }
        const one = drawn.get(name);
        for (const node of event[kind.key]) one.found[node.node] = node;
        one.update(one.found, { arm: event.arm, place: event.kept ?? null, hasJudge: false });
      }
    },
  };
}
