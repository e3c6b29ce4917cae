// A tree that is moved through by keyboard or pointer: rows with one tab stop, as the ARIA practices
// have it, and beside them a pane that tells of the selected node whole. A row is made when it is seen.

import { button, count, h, unseen } from "/page/dom.js";

const OPEN_ROWS = 40; // a new tree opens level by level while it has no more rows than these
const DEEPEST = 12; // further levels are set in as this one

/**
 * A view of nodes; `node` is a node's place in their list and `parent` that of an earlier one, or null.
 * `kind.row(node, more)` returns a row's cells, `more` of them for a closed row, and
 * `kind.told(node, select)` what the pane tells.
 */
export function treeView(kind) {
  const rows = h("div", { class: "tree", role: "tree" });
  const scroll = h("div", { class: "scroll" }, rows);
  const pane = h("div", { class: "pane", role: "region" });
  const open = new Set();
  let made = new Map(); // rows by their nodes' places
  let nodes = [];
  let children = new Map(); // places by their parents'
  let levels = [];
  let hidden = []; // nodes below each one
  let goal; // a place that stands out
  let current;

  const below = (place) => children.get(place) ?? [];
  const visible = (place = null) => below(place).flatMap((one) => [one, ...(open.has(one) ? visible(one) : [])]);

  function arrange() {
    children = new Map();
    levels = [];
    hidden = nodes.map(() => 0);
    for (const { node, parent } of nodes) {
      if (!children.has(parent)) children.set(parent, []);
      children.get(parent).push(node);
      levels[node] = parent === null ? 1 : levels[parent] + 1;
    }
    for (const { node, parent } of nodes.toReversed()) if (parent !== null) hidden[parent] += hidden[node] + 1;
  }

  function rowOf(place) {
    if (!made.has(place)) {
      const same = below(nodes[place].parent);
      made.set(place, h("div", {
        role: "treeitem", class: "branch", css: { "--level": Math.min(levels[place] - 1, DEEPEST) }, "data-node": place,
        "aria-level": levels[place], "aria-setsize": same.length, "aria-posinset": same.indexOf(place) + 1,
        onclick: (event) => {
          if (event.target.closest(".twist")) toggle(place);
          select(place, true);
        },
      },
      h("span", { class: "twist", "aria-hidden": "true" }), kind.row(nodes[place], more(place))));
    }
    return made.get(place);
  }

  const more = (place) => (hidden[place] ? h("span", { class: "more" }, `+${count(hidden[place])}`, unseen(" below")) : null);

  /** Put what can be seen into the list. Rows that stay are not touched, so that the focus stays. */
  function show() {
    const seen = visible();
    const shown = new Set(seen.map(rowOf));
    for (const row of [...rows.children]) if (!shown.has(row)) row.remove();
    let next = rows.firstChild;
    for (const row of shown) {
      if (row === next) next = next.nextSibling;
      else rows.insertBefore(row, next);
    }
    for (const place of seen) {
      const row = rowOf(place);
      if (hidden[place]) row.setAttribute("aria-expanded", open.has(place));
      row.setAttribute("aria-selected", place === current);
      row.tabIndex = place === current ? 0 : -1;
    }
  }

  function reveal(place) {
    for (let at = nodes[place].parent; at !== null; at = nodes[at].parent) open.add(at);
  }

  function select(place, takesFocus) {
    current = place;
    reveal(place);
    show();
    pane.replaceChildren(...[kind.told(nodes[place], (other) => select(other, true))].flat(3).filter(Boolean));
    if (takesFocus) rowOf(place).focus();
  }

  function toggle(place, opens = !open.has(place)) {
    if (opens) open.add(place);
    else open.delete(place);
    show();
  }

  function openSome() {
    let level = below(null);
    let shown = level.length;
    while (level.length) {
      const next = level.flatMap(below);
      shown += next.length;
      if (shown > OPEN_ROWS) break;
      level.forEach((place) => open.add(place));
      level = next;
    }
  }

  function openAll(opens) {
    open.clear();
    if (opens) nodes.forEach(({ node }) => open.add(node));
    let top = current;
    while (!opens && nodes[top].parent !== null) top = nodes[top].parent;
    select(top, false);
  }

  const MOVES = {
    ArrowDown: (seen, at) => seen[at + 1],
    ArrowUp: (seen, at) => seen[at - 1],
    Home: (seen) => seen[0],
    End: (seen) => seen.at(-1),
    ArrowRight: () => (open.has(current) ? below(current)[0] : toggle(current, true)),
    ArrowLeft: () => (open.has(current) && hidden[current] ? toggle(current, false) : nodes[current].parent),
    Enter: () => toggle(current),
    " ": () => toggle(current),
    "*": () => { below(nodes[current].parent).forEach((place) => open.add(place)); show(); },
  };
  rows.addEventListener("keydown", (event) => {
    if (!MOVES[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const seen = visible();
    const to = MOVES[event.key](seen, seen.indexOf(current));
    if (typeof to === "number") select(to, true);
  });

  const toGoal = button("Go to the kept answer", () => select(goal, true));
  return {
    element: h("div", { class: "tree-and-pane" }, scroll, pane),
    buttons: h("div", { class: "actions" }, toGoal, button("Open all", () => openAll(true)), button("Close all", () => openAll(false))),
    /** Show nodes, `end` among them selected at first; a tree that grows keeps what is open and selected. */
    update(found, { label, end, kept }) {
      const hadFocus = rows.contains(document.activeElement);
      const isNew = !nodes.length;
      nodes = found;
      goal = end;
      made = new Map();
      arrange();
      rows.setAttribute("aria-label", label);
      pane.setAttribute("aria-label", `${label}: what is selected`);
      toGoal.hidden = end === undefined;
      if (isNew) openSome();
      kept.forEach(reveal);
      select(isNew ? end ?? 0 : current, hadFocus);
      // Once it has its place on the page:
      if (isNew) requestAnimationFrame(() => { scroll.scrollTop = rowOf(current).offsetTop - scroll.clientHeight / 2; });
    },
  };
}
