// What another τr would do: by the answers of the calibration, and for the runs of the ledger.

import * as api from "/page/api.js";
import { chart, markAt } from "/page/chart.js";
import { choice, fact, field, h, input, newId, number, percent, problem, seconds, short, table } from "/page/dom.js";

const MOST = 200;

export async function view() {
  const [told, stats] = await Promise.all([api.post("/runs/calibrations"), api.post("/runs/stats")]);
  const inForce = told.calibrations.find((one) => one.in_force) ?? null;
  const maps = new Map((inForce?.domains ?? []).map((one) => [one.domain, one]));
  const names = [...new Set([...maps.keys(), ...stats.rows.map((row) => row.domain)])].sort();
  if (!names.length) return [h("p", {}, "There are no runs and no calibrations yet. Ask something first."), howTo("FILE.jsonl")];
  const first = names.find((name) => maps.get(name)?.curve.length) ?? names[0];
  const domain = choice(names.map((name) => [name, name || "(runs without a domain)"]), first);
  const place = h("div", {});
  const open = () => show(domain.value, maps.get(domain.value), inForce).then(
    (parts) => place.replaceChildren(...parts.flat()), (error) => place.replaceChildren(problem(error)));
  domain.addEventListener("change", open);
  await open();
  return [h("div", { class: "row" }, field("Domain", domain)), place];
}

const howTo = (file) => h("p", { class: "quiet" },
  "A calibration needs questions of the domain with known answers: ", h("code", {}, `rttc calibrate ${file} --save`),
  " asks them all, fits the map from scores to P(right) and keeps what each τr would do.");

/** What a τr does by a stored curve: the row of the next lower τr that is kept. */
function atTau(curve, tau) {
  let found = curve[0];
  for (const row of curve) if (row[0] <= tau + 1e-9) found = row;
  return found;
}

async function show(domain, map, inForce) {
  const page = await api.post("/runs/list", { domain, limit: MOST });
  const start = map?.tau_r ?? page.runs[0]?.tau_r ?? 0.5;
  const slider = input({ type: "range", min: "0", max: "1", step: "0.01", value: start });
  const shown = h("output", { class: "num big", htmlFor: slider.id ||= newId() });
  const figures = h("dl", { class: "figures", "aria-live": "polite" });
  const verdicts = h("div", {});
  const tau = () => Number(slider.value);
  const curve = map?.curve ?? [];
  const charts = [];
  if (curve.length) charts.push(curveChart(curve, tau));
  if (map && map.knots.length) charts.push(mapChart(map, inForce));

  const update = () => {
    shown.textContent = tau().toFixed(2);
    const facts = [];
    if (curve.length) {
      const [, accuracy, took, accepted, wrong] = atTau(curve, tau());
      facts.push(["accuracy", percent(accuracy)], ["accepted", percent(accepted)], ["wrong among accepted", accepted ? percent(wrong / accepted) : "–"], ["per question", seconds(took)]);
    }
    figures.replaceChildren(...facts.map(([name, value]) => fact(name, value)));
    verdicts.replaceChildren(...ofLedger(page, tau()));
    for (const one of charts) one.redraw?.();
  };
  slider.addEventListener("input", update);
  update();
  return [
    told(domain, map, inForce),
    h("section", { class: "card", "aria-label": "Threshold" },
      h("div", { class: "slider" }, field("Threshold τr", slider), shown), figures,
      curve.length ? h("p", { class: "quiet" }, `By the ${map.answers} judged answers of the calibration, with the arms ${map.arms.join(" → ")}; each question is judged by a map that was fitted without it.`) : null),
    h("div", { class: "two" }, charts.map((one) => h("section", { class: "card" }, h("h2", {}, one.title), one.element))),
    h("section", { class: "card" }, h("h2", {}, "Your runs at this τr"), verdicts),
  ];
}

function told(domain, map, inForce) {
  if (!map) {
    return h("div", { class: "hint" },
      h("p", {}, inForce
        ? "This domain has no calibration: its rewards are scores, not probabilities, and nobody has measured what a τr does."
        : "Nothing is calibrated here: rewards are scores, not probabilities, and nobody has measured what a τr does."),
      howTo(`${domain || "FILE"}.jsonl`));
  }
  const parts = [`Calibrated ${inForce.saved_at.slice(0, 10)} for ${inForce.aim ?? "no aim"}; proposed τr ${number(map.tau_r, 2)}.`];
  if (!map.own) parts.push("The domain had too few answers for a map of its own, so its rewards are scores.");
  if (!map.curve.length) parts.push("This calibration is of a release that kept no curve: run rttc calibrate --save again to see accuracy and cost by τr.");
  return h("p", { class: "quiet" }, parts.join(" "));
}

function curveChart(curve, tau) {
  const data = [0, 1, 3, 2].map((column) => curve.map((row) => row[column]));
  const percents = (_, ticks) => ticks.map((tick) => `${Math.round(100 * tick)} %`);
  const made = chart({
    label: `Accuracy, share of accepted answers and seconds by threshold: accuracy from ${percent(Math.min(...data[1]))} to ${percent(Math.max(...data[1]))}`,
    data,
    scales: { x: { time: false, range: [0, 1] }, share: { range: [0, 1] }, s: { range: (_, __, most) => [0, most * 1.1 || 1] } },
    series: [
      { label: "accuracy", scale: "share", colour: "--c1" },
      { label: "accepted", scale: "share", colour: "--c2", dash: [4, 4] },
      { label: "seconds", scale: "s", colour: "--c3" },
    ],
    y: { scale: "share", values: percents }, right: { scale: "s", values: (_, ticks) => ticks.map((tick) => `${tick} s`) },
    hooks: { draw: [markAt(tau)] },
  });
  return { title: "Accuracy and cost by τr", ...made };
}

const logit = (score) => Math.log(Math.min(Math.max(score, 1e-6), 1 - 1e-6) / (1 - Math.min(Math.max(score, 1e-6), 1 - 1e-6)));

function mapped(map, score) {
  if (map.method === "platt") return 1 / (1 + Math.exp(-(map.knots[0][0] * logit(score) + map.knots[0][1])));
  const after = map.knots.findIndex((knot) => knot[0] >= score);
  if (after === 0) return map.knots[0][1];
  if (after === -1) return map.knots[map.knots.length - 1][1];
  const [[x0, y0], [x1, y1]] = [map.knots[after - 1], map.knots[after]];
  return y0 + ((y1 - y0) * (score - x0)) / (x1 - x0);
}

function mapChart(map, inForce) {
  const scores = Array.from({ length: 101 }, (_, step) => step / 100);
  const made = chart({
    label: `Map from the raw score of ${inForce.reward_model} to the probability that an answer is right`,
    data: [scores, scores.map((score) => mapped(map, score))],
    scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1] } },
    series: [{ label: `P(right) by raw score (${map.method})`, colour: "--c1" }],
  });
  return { title: "From score to P(right)", element: made.element };
}

const reaching = (run, tau) => run.tried.find((tried) => tried.reward !== null && tried.reward >= tau);

/** What would become of a run: the first judged answer that reaches τr, as far as is known. */
function fate(run, tau) {
  const reaches = reaching(run, tau);
  if (reaches) return { is: "accepted", arm: reaches.arm, seconds: reaches.seconds, same: reaches.arm === run.arm };
  const stopped = run.accepted && tau > run.tau_r;
  return { is: stopped ? "would try more" : "not accepted", arm: run.arm, seconds: run.seconds, same: true };
}

function ofLedger(page, tau) {
  const { runs } = page;
  if (!runs.length) return [h("p", { class: "quiet" }, "No runs of this domain yet.")];
  const fates = runs.map((run) => fate(run, tau));
  const accepted = fates.filter((one) => one.is === "accepted");
  const more = fates.filter((one) => one.is === "would try more").length;
  const rated = runs.filter((run, n) => fates[n].is === "accepted" && fates[n].same && run.rated !== "none");
  const right = rated.filter((run) => run.rated === "right").length;
  const sure = runs.filter((run, n) => fates[n].is === "accepted" && run.calibrated);
  const expected = sure.length ? sure.reduce((sum, run) => sum + reaching(run, tau).reward, 0) / sure.length : null;
  const cost = fates.reduce((sum, one) => sum + one.seconds, 0) / runs.length;
  const said = [
    `Of the last ${runs.length} runs ${accepted.length} would be accepted, ${runs.length - accepted.length - more} would not`,
    more ? `, and ${more} would go on to dearer arms, so their cost is not known` : "",
    `. Up to there they took ${seconds(cost)} on average.`,
    expected === null ? "" : ` Their rewards promise ${percent(expected)} right answers.`,
    rated.length ? ` People have rated ${rated.length} of them: ${right} right.` : "",
  ].join("");
  const rows = runs.map((run, n) => h("tr", {},
    h("th", { scope: "row", class: "text" }, h("a", { href: `#/runs/${encodeURIComponent(run.run_id)}` }, short(run.query, 90))),
    h("td", {}, h("span", { class: `tag ${fates[n].is === "accepted" ? "good" : "warn"}` }, fates[n].is)),
    h("td", {}, fates[n].arm),
    h("td", { class: "num" }, run.tried.map((tried) => `${tried.arm} ${number(tried.reward)}`).join(", ")),
    h("td", {}, run.rated === "none" ? "–" : run.rated)));
  return [h("p", {}, said), table("Runs, newest first", ["question", "at this τr", "arm", "rewards", "rated"], rows, { class: "stack" })];
}
