// Shows the record of each intervention and the preference pair that it becomes.

import { element, inline, markPlaceholders } from "/static/pane.js";

const ms = (value) => (value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);

// Outcomes after which there is no good chosen side.
const NOTES = {
  halted_again: "Here the resumed reasoning held another cue: it was halted again, and the next intervention follows.",
  refused: "Nothing was spliced: the budget of interventions was spent, so the request was refused.",
  client_left: "The client left before the resumed reasoning ended.",
};

export function showInterventions(root, interventions) {
  root.replaceChildren(
    ...interventions.map(({ record, pair }, index) => article(record, pair, index, interventions.length)),
  );
  for (const words of root.querySelectorAll(".words")) markPlaceholders(words);
}

function article(record, pair, index, total) {
  const made = element("article", "card intervention");
  made.append(element("h3", "", `Intervention ${index + 1} of ${total}`), recordList(record), pairView(record, pair));
  return made;
}

function recordList(record) {
  const list = element("dl", "record");
  const add = (term, value) => {
    const row = element("div");
    row.append(element("dt", "", term), element("dd", "", value));
    list.append(row);
  };
  add("Cue score", record.score.toFixed(4));
  add("Trigger", record.trigger_id ?? "none");
  add("Outcome", record.outcome.replaceAll("_", " "));
  add("Verdict took", ms(record.verdict_ms));
  add("Halted after", ms(record.halted_ms));
  add("Halt to resume", ms(record.halt_to_resume_ms));
  add("Tokens cut", String(record.discarded_tokens));
  add("Detector", record.detector_hash.slice(0, 12));
  add("Policy", record.policy_hash.slice(0, 12));
  add("Record", record.id.slice(0, 12));
  return list;
}

function pairView(record, pair) {
  const made = element("div", "pair");
  const prefix = element("section", "prefix");
  prefix.append(element("h4", "", "Prompt and kept prefix"));
  for (const message of pair.messages) {
    const line = element("p", "words turn");
    line.append(element("span", "role", message.role), document.createTextNode(String(message.content)));
    prefix.append(line);
  }
  const kept = element("p", "words turn kept");
  kept.append(element("span", "role", "kept"), document.createTextNode(pair.kept.trim() || "(nothing: the first sentence was the cue)"));
  prefix.append(kept);

  const index = pair.divergence_index === null ? "" : ` at token ${pair.divergence_index}`;
  const fork = element("p", "fork", `the two sides part here${index}`);

  const sides = element("div", "sides");
  sides.append(chosenSide(record, pair), rejectedSide(record, pair));
  made.append(prefix, fork, sides);
  return made;
}

function chosenSide(record, pair) {
  const side = element("section", "side chosen");
  side.append(element("h4", "", "Chosen"));
  const words = element("p", "words");
  if (pair.chosen.trigger) words.append(element("mark", "trigger", pair.chosen.trigger.trim()));
  words.append(document.createTextNode(pair.chosen.continuation.trimEnd()));
  side.append(words);
  const note = NOTES[record.outcome];
  if (note) side.append(element("p", "aside", note));
  if (pair.chosen.answer.trim()) {
    side.append(element("p", "role", "answer"), element("p", "words answer", pair.chosen.answer.trim()));
  }
  return side;
}

function rejectedSide(record, pair) {
  const side = element("section", "side rejected-side");
  side.append(element("h4", "", "Rejected"));
  const words = element("p", "words");
  const cue = pair.rejected.slice(0, record.cue_chars);
  const rest = pair.rejected.slice(record.cue_chars);
  words.append(element("del", "rejected", inline(cue)));
  if (rest.trim()) words.append(document.createTextNode(" "), element("del", "rejected after", inline(rest)));
  side.append(words);
  if (!pair.is_rejected_complete) {
    side.append(element("p", "aside", "Cut short by the halt: what would have followed was never generated."));
  }
  return side;
}
