// The page: which story is shown, by the part of the address after #.

import * as api from "/page/api.js";
import { h, problem } from "/page/dom.js";

const STORIES = [
  { name: "ask", title: "Ask", scope: "ask", place: "/v1/chat/completions" },
  { name: "runs", title: "Runs", scope: "runs:read", place: "/runs/list" },
  { name: "threshold", title: "Threshold", scope: "runs:read", place: "/runs/list" },
  { name: "samples", title: "Knowledge base", scope: "kb:read", place: "/kb/search" },
  { name: "stats", title: "Statistics", scope: "runs:read", place: "/runs/list" },
  { name: "docs", title: "API" },
  { name: "key", title: "Key" },
];

const main = document.getElementById("main");
let leave = null;
let turn = 0;

const isOpen = (story) => !story.scope || (api.may(story.scope) && api.has(story.place));

function showNav(current) {
  const items = STORIES.filter(isOpen).map((story) => h("li", {},
    h("a", { href: `#/${story.name}`, "aria-current": story.name === current ? "page" : null }, story.title)));
  document.getElementById("nav").replaceChildren(...items);
  const who = api.session.isKnown ? `tenant ${api.savedTenant() || api.session.tenant}` : "no key";
  document.getElementById("who").textContent = who;
  document.getElementById("version").textContent = `rttc-graph ${api.session.version}`;
}

async function show() {
  const mine = (turn += 1);
  const [wanted, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (wanted === "main") return;
  const open = STORIES.filter(isOpen);
  const story = open.find((one) => one.name === wanted) ?? (api.session.isKnown ? open[0] : open.at(-1));
  leave?.();
  leave = null;
  showNav(story.name);
  document.title = `${story.title} · rttc-graph`;
  const title = h("h1", { tabindex: "-1" }, story.title);
  try {
    const { view } = await import(`/page/${story.name}.js`);
    const made = await view(rest, (onLeave) => { leave = onLeave; });
    if (mine === turn) main.replaceChildren(title, ...[made].flat());
  } catch (error) {
    if (mine !== turn) return;
    main.replaceChildren(title, problem(error));
    if (error.status === 401) location.hash = "#/key";
  }
  if (mine === turn && mine > 1) title.focus({ preventScroll: true });
  if (mine === turn) main.dataset.story = story.name;
}

async function start() {
  try {
    await api.hello();
    await show();
  } catch (error) {
    main.replaceChildren(h("h1", {}, "rttc-graph"), problem(error));
  }
}

addEventListener("hashchange", show);
addEventListener("rttc-key", start);
start();
