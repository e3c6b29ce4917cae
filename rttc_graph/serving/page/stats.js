// What the runs add up to, by day and arm.

import * as api from "/page/api.js";
import { COLOURS, chart } from "/page/chart.js";
import { choice, count, fact, field, h, number, percent, problem, table } from "/page/dom.js";

const DAY = 86400;
let days = "30";

export async function view() {
  const span = choice([["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["", "all days"]], days);
  const place = h("div", {});
  const open = async () => {
    days = span.value;
    try {
      place.replaceChildren(...show((await api.post("/runs/stats", days ? { days: Number(days) } : {})).rows));
    } catch (error) {
      place.replaceChildren(problem(error));
    }
  };
  span.addEventListener("change", open);
  await open();
  return [h("div", { class: "row" }, field("The last", span)), place];
}

const sum = (rows, name) => rows.reduce((all, row) => all + row[name], 0);
const dayOf = (text) => Date.parse(`${text}T00:00:00Z`) / 1000;

function figuresOf(rows) {
  const runs = sum(rows, "runs");
  return {
    runs, accepted: sum(rows, "accepted") / runs, seconds: sum(rows, "seconds") / runs, tokens: sum(rows, "tokens") / runs,
    hits: sum(rows, "samples_hits"), adapters: sum(rows, "adapter_hits"), saved: sum(rows, "seconds_saved"),
  };
}

function show(rows) {
  if (!rows.length) return [h("p", { class: "quiet" }, "No runs in these days.")];
  const arms = [...new Set(rows.map((row) => row.arm))].sort((a, b) => sum(rows.filter((row) => row.arm === b), "runs") - sum(rows.filter((row) => row.arm === a), "runs"));
  const all = figuresOf(rows);
  const times = [];
  const today = Math.floor(Date.now() / 1000 / DAY) * DAY;
  const last = Math.max(today, ...rows.map((row) => dayOf(row.day)));
  const first = Math.min(days ? last - (Number(days) - 1) * DAY : today, ...rows.map((row) => dayOf(row.day)));
  for (let day = first; day <= last; day += DAY) times.push(day);
  const byDay = times.map((time) => rows.filter((row) => dayOf(row.day) === time));
  return [
    h("dl", { class: "figures" }, [
      ["runs", count(all.runs)], ["accepted", percent(all.accepted)], ["seconds a run", number(all.seconds, 2)],
      ["tokens a run", count(Math.round(all.tokens))], ["cache hits", `${all.hits} samples, ${all.adapters} adapters`], ["training saved", `${number(all.saved, 1)} s`],
    ].map(([name, value]) => fact(name, value))),
    h("section", { class: "card" }, h("h2", {}, "Runs a day, by the arm that answered"), stacked(times, byDay, arms)),
    h("div", { class: "two" },
      h("section", { class: "card" }, h("h2", {}, "Accepted"), line(times, byDay, "accepted", "--c1", (_, ticks) => ticks.map((tick) => `${Math.round(100 * tick)} %`), [0, 1])),
      h("section", { class: "card" }, h("h2", {}, "Seconds a run"), line(times, byDay, "seconds", "--c3", (_, ticks) => ticks.map((tick) => `${tick} s`)))),
    perArm(rows, arms, all),
    perDomain(rows),
  ];
}

const inDays = (times) => ({ time: true, range: () => [times[0] - DAY / 2, times[times.length - 1] + DAY / 2] });
const dates = (_, ticks) => ticks.map((tick) => new Date(1000 * tick).toISOString().slice(5, 10));

function stacked(times, byDay, arms) {
  const tops = arms.map((_, place) => byDay.map((rows) => sum(rows.filter((row) => arms.indexOf(row.arm) <= place), "runs")));
  const bars = uPlot.paths.bars({ size: [0.6, 40] });
  return chart({
    label: `Runs of each day by arm: ${arms.map((arm) => arm).join(", ")}`,
    data: [times, ...tops.toReversed()],
    scales: { x: inDays(times), y: { range: (_, __, most) => [0, most * 1.05 || 1] } },
    series: arms.map((arm, n) => ({ label: arm, colour: COLOURS[n % COLOURS.length], filled: true, paths: bars, points: { show: false }, width: 0 })).toReversed(),
    x: { values: dates, incrs: [1, 2, 7, 14, 28, 91, 364].map((step) => step * DAY) },
  }).element;
}

function line(times, byDay, name, colour, values, range) {
  return chart({
    label: `${name} by day`,
    data: [times, byDay.map((rows) => (rows.length ? figuresOf(rows)[name] : null))],
    scales: { x: inDays(times), y: { range: range ?? ((_, __, most) => [0, most * 1.1 || 1]) } },
    series: [{ label: name, colour, spanGaps: true, points: { show: true, size: 6 } }],
    x: { values: dates, incrs: [1, 2, 7, 14, 28, 91, 364].map((step) => step * DAY) }, y: { values }, height: 200,
  }).element;
}

const COLUMNS = ["runs", "share", "accepted", "seconds", "tokens"];
const cells = (found, whole) => [
  count(found.runs), percent(found.runs / whole), percent(found.accepted), number(found.seconds, 2), count(Math.round(found.tokens)),
].map((value) => h("td", { class: "num" }, value));

const perArm = (rows, arms, all) => table("By arm", ["arm", ...COLUMNS],
  arms.map((arm) => h("tr", {}, h("th", { scope: "row" }, arm), cells(figuresOf(rows.filter((row) => row.arm === arm)), all.runs))));

function perDomain(rows) {
  const names = [...new Set(rows.map((row) => row.domain))].sort();
  const whole = sum(rows, "runs");
  return table("By domain", ["domain", ...COLUMNS],
    names.map((name) => h("tr", {}, h("th", { scope: "row" }, name || "(none)"), cells(figuresOf(rows.filter((row) => row.domain === name)), whole))));
}
