// The knowledge base: look, search, add, correct, delete.

import * as api from "/page/api.js";
import { busy, button, choice, confirmed, count, dialog, field, h, input, newId, note, number, problem, short, table } from "/page/dom.js";

const PAGE = 50;
const kept = { domain: "", text: "", by: "meaning" };

export async function view() {
  const writes = api.may("kb:write");
  const domain = choice([], "");
  let stats = [];
  let total = 0;

  async function measure() {
    stats = (await api.post("/kb/stats")).domains;
    total = stats.reduce((sum, one) => sum + one.samples, 0);
    const names = [["", `all (${count(total)})`], ...stats.map((one) => [one.domain, `${one.domain} (${count(one.samples)})`])];
    domain.replaceChildren(...names.map(([value, text]) => h("option", { value, selected: value === kept.domain }, text)));
  }

  const text = input({ type: "search", value: kept.text, maxlength: "100000" });
  const by = choice([["meaning", "meaning"], ["words", "these very words"]], kept.by);
  const body = h("tbody", {});
  const found = h("div", {});
  const more = button("More", () => busy(more, () => fill(more.dataset.after)), { hidden: true });

  async function fill(after) {
    Object.assign(kept, { domain: domain.value, text: text.value.trim(), by: by.value });
    const where = kept.domain ? { domain: kept.domain } : {};
    const near = kept.text && kept.by === "meaning";
    const page = near
      ? { ...(await api.post("/kb/search", { ...where, text: kept.text, k: PAGE })), next: null }
      : await api.post("/kb/list", { ...where, ...(kept.text ? { contains: kept.text } : {}), ...(after ? { after } : {}), limit: PAGE });
    if (!after) body.replaceChildren();
    body.append(...page.samples.map((one) => row(one, near)));
    more.hidden = page.next === null;
    more.dataset.after = page.next ?? "";
    if (!body.children.length) {
      found.replaceChildren(h("p", { class: "quiet" }, total ? "No sample is like this." : "The knowledge base is empty: add a sample here, or many with rttc kb ingest FILE."));
      return;
    }
    const said = near ? `The ${body.children.length} nearest samples` : `${body.children.length}${page.next ? " or more" : ""} samples`;
    found.replaceChildren(table(said, [near ? "similarity" : "", "question", "answer", "domain", ...(writes ? ["change"] : [])].filter((name, n) => near || n), [], { class: "samples stack" }));
    found.querySelector("tbody").replaceWith(body);
  }

  const row = (one, near) => {
    const name = short(one.question, 60);
    const line = h("tr", {},
      near ? h("td", { class: "num" }, number(one.similarity)) : null,
      h("th", { scope: "row", class: "text" }, short(one.question, 400), one.external_id ? h("small", { class: "quiet mono" }, ` ${one.external_id}`) : null),
      h("td", { class: "text" }, short(one.answer, 400)),
      h("td", {}, one.domain),
      writes ? h("td", { class: "actions" },
        button("Correct", () => correct(one, line, near), { "aria-label": `Correct ${name}` }),
        button("Delete", () => remove(one, line), { class: "danger", "aria-label": `Delete ${name}` })) : null);
    return line;
  };

  async function correct(one, line, near) {
    const question = h("textarea", { rows: "3", required: true, maxlength: "100000" });
    const answer = h("textarea", { rows: "4", required: true, maxlength: "100000" });
    question.value = one.question;
    answer.value = one.answer;
    const done = await dialog("Correct a sample", [field("Question", question), field("Answer", answer)], "Save", async () => {
      const reply = await api.post("/kb/correct", { id: one.id, question: question.value, answer: answer.value });
      return { ...one, id: reply.id, question: question.value, answer: answer.value };
    });
    if (!done) return;
    const shown = row(done, near);
    line.replaceWith(shown);
    shown.querySelector("button").focus();
    note("The sample is corrected.");
  }

  async function remove(one, line) {
    const sure = await confirmed("Delete this sample?", `“${short(one.question)}” with the answer “${short(one.answer)}” will be gone.`, "Delete");
    if (!sure) return;
    try {
      await api.post("/kb/delete", { ids: [one.id], domain: one.domain });
    } catch (error) {
      note(error.message, "bad");
      return;
    }
    line.remove();
    text.focus();
    note("The sample is deleted.");
    await measure();
  }

  async function add() {
    const names = newId("domains");
    const into = input({ list: names, required: true, maxlength: "200", value: kept.domain });
    const question = h("textarea", { rows: "3", required: true, maxlength: "100000" });
    const answer = h("textarea", { rows: "4", required: true, maxlength: "100000" });
    const done = await dialog("Add a sample", [
      h("datalist", { id: names }, stats.map((one) => h("option", { value: one.domain }))),
      field("Domain", into), field("Question", question), field("Answer", answer),
    ], "Add", () => api.post("/kb/ingest", { samples: [{ question: question.value, answer: answer.value, domain: into.value.trim() }] }));
    if (!done) return;
    note(done.samples ? "The sample is stored." : "This sample was there before.");
    api.forgetDomains();
    await measure();
    await fill();
  }

  await measure();
  await fill();
  return [
    h("form", { class: "card filters", onsubmit: (event) => { event.preventDefault(); fill().catch((error) => found.replaceChildren(problem(error))); } },
      h("div", { class: "row" }, field("Search", text), field("By", by), field("Domain", domain)),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Show"), writes ? button("Add a sample", add) : null)),
    found, more,
  ];
}
