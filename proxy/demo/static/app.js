// The playground: examples, the form, and the two streams. Opens with an example that is halted and corrected.

import { Pane, element } from "/static/pane.js";
import { showInterventions } from "/static/pair.js";
import { getJson, streamChat } from "/static/stream.js";

const byId = (id) => document.getElementById(id);
const KINDS = {
  harmful: "Harmful aim, inert content",
  look_alike: "Benign look-alikes",
  arithmetic: "Arithmetic",
  multi_turn: "Several turns",
};

const MISSED = "The cue classifier missed this one: no cue was found, so nothing was cut and nothing recorded.";

const announcer = byId("announcer");
const announce = (text) => {
  announcer.textContent = text;
};
const panes = {
  unsteered: new Pane(byId("unsteered")),
  steered: new Pane(byId("steered"), { announce }),
};
let about = null;
let earlier = []; // turns before the prompt in the box
let running = null;

function chooseExample(example) {
  earlier = example.messages.slice(0, -1);
  byId("prompt").value = example.messages.at(-1).content;
  byId("seed").value = example.seed;
  showTurns();
  for (const chip of byId("examples").querySelectorAll("button")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.id === String(example.id)));
  }
}

function showTurns() {
  const list = byId("turns");
  list.replaceChildren(
    ...earlier.map(({ role, content }) => {
      const item = element("li", role);
      item.append(element("span", "role", role), document.createTextNode(content));
      return item;
    }),
  );
  list.hidden = earlier.length === 0;
}

function showExamples(examples) {
  const groups = Object.entries(KINDS).map(([kind, title]) => {
    const group = element("div", `kind ${kind}`);
    group.append(element("span", "kind-title", title));
    for (const example of examples.filter((item) => item.kind === kind)) {
      const chip = element("button", "chip", example.title);
      chip.type = "button";
      chip.dataset.id = example.id;
      chip.addEventListener("click", () => {
        chooseExample(example);
        send();
      });
      group.append(chip);
    }
    return group;
  });
  byId("examples").replaceChildren(...groups);
}

function showCalls() {
  const base = `${location.origin}/v1`;
  byId("call-python").textContent = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}", api_key="unused")`,
    "reply = client.chat.completions.create(",
    `    model="${about.model}",`,
    '    messages=[{"role": "user", "content": "How can I bake a cake for a school fair?"}],',
    ")",
    "print(reply.choices[0].message.content)",
  ].join("\n");
  byId("call-curl").textContent = [
    `curl -N ${base}/chat/completions -H 'content-type: application/json' -d '{`,
    `  "model": "${about.model}", "stream": true, "steer": {"show_interventions": true},`,
    '  "messages": [{"role": "user", "content": "How can I bake a cake for a school fair?"}]}\'',
  ].join("\n");
}

function requestBody() {
  return {
    model: about.model,
    messages: [...earlier, { role: "user", content: byId("prompt").value }],
    seed: Number(byId("seed").value),
    temperature: about.temperature,
    max_tokens: about.max_tokens,
    stream: true,
  };
}

async function runPane(pane, url, body, signal) {
  pane.begin(Number(byId("pace").value));
  let requestId = null;
  try {
    requestId = await streamChat(url, body, signal, (chunk) => pane.take(chunk));
    pane.end();
  } catch (error) {
    pane.end(signal.aborted ? "Stopped." : `No answer: ${error.message}`);
  }
  return requestId;
}

async function send() {
  if (!about || !byId("form").reportValidity()) return;
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const body = requestBody();
  byId("stop").hidden = false;
  byId("interventions").replaceChildren();
  byId("evidence-empty").hidden = false;
  announce("Sent. Both streams are running.");
  const steered = { ...body, steer: { show_interventions: true } };
  const [, requestId] = await Promise.all([
    runPane(panes.unsteered, "/unsteered/v1/chat/completions", body, mine.signal),
    runPane(panes.steered, "/v1/chat/completions", steered, mine.signal),
  ]);
  const evidence = requestId ? await evidenceOf(requestId) : null;
  await Promise.all([panes.unsteered.finished, panes.steered.finished]);
  if (running !== mine) return; // a newer request has taken over the page
  running = null;
  byId("stop").hidden = true;
  if (evidence) showEvidence(evidence);
}

async function evidenceOf(requestId) {
  try {
    return await getJson(`/demo/records?request_id=${encodeURIComponent(requestId)}`);
  } catch (error) {
    return { interventions: [], error: error.message };
  }
}

function showEvidence({ interventions, error }) {
  const empty = byId("evidence-empty");
  empty.hidden = interventions.length > 0;
  empty.textContent = error ?? (panes.steered.isHarmful ? MISSED : "No cue was found, so nothing was cut and nothing recorded.");
  showInterventions(byId("interventions"), interventions);
  const gaps = interventions.map(({ record }) => record.halt_to_resume_ms).filter((gap) => gap !== null);
  if (gaps.length) panes.steered.counter("gap", `${gaps.map((gap) => Math.round(gap)).join(", ")} ms`);
  announce(
    interventions.length
      ? `Done. ${interventions.length} interventions were recorded; record and pair are below.`
      : "Done. There was no intervention.",
  );
}

function wire() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    }
  });
  byId("prompt").addEventListener("input", () => {
    for (const chip of byId("examples").querySelectorAll("button")) chip.setAttribute("aria-pressed", "false");
    earlier = []; // a prompt of one's own begins a conversation of its own
    showTurns();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("reseed").addEventListener("click", () => {
    byId("seed").value = Math.floor(Math.random() * 100000);
    send();
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) byId("pace").value = "0";
}

async function open() {
  wire();
  try {
    about = await getJson("/demo/examples");
  } catch (error) {
    byId("evidence-empty").textContent = `The demo does not answer: ${error.message}`;
    return;
  }
  showExamples(about.examples);
  showCalls();
  const wanted = new URLSearchParams(location.search).get("example");
  chooseExample(about.examples.find((example) => String(example.id) === wanted) ?? about.examples[0]);
  send();
}

open();
