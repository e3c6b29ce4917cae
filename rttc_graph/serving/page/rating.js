// What a person says of an answer.

import * as api from "/page/api.js";
import { busy, button, field, h, note } from "/page/dom.js";

const BECAME = {
  none: "Thank you.",
  pending: "Thank you. The right answer waits for approval (rttc rate approves it).",
  stored: "Thank you. The right answer is a sample now.",
  rejected: "Thank you. The right answer was turned down.",
};

/** Buttons for a run; `given` is what was said of it before. */
export function rating(runId, given) {
  if (!api.may("ask") || !api.has("/v1/feedback")) return null;
  const state = h("p", { class: "quiet" }, given ? `Rated ${given.rating}${given.answer ? `; right is: ${given.answer}` : ""}.` : "");
  const answer = h("textarea", { rows: "2", maxlength: "100000" });
  answer.value = given?.answer ?? "";
  const send = async (said, event) => {
    const body = { run_id: runId, rating: said };
    if (said === "wrong" && answer.value.trim()) body.answer = answer.value.trim();
    const done = await busy(event.currentTarget, () => api.post("/v1/feedback", body));
    if (!done) return;
    state.textContent = `Rated ${done.rating}.`;
    note(BECAME[done.correction]);
  };
  return h("section", { class: "rating card" },
    h("h3", {}, "Is it right?"), state,
    h("div", { class: "actions" }, button("Right", (event) => send("right", event)), button("Wrong", (event) => send("wrong", event))),
    field("The right answer, if it is wrong", answer));
}
