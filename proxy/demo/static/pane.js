// One side of the comparison: plays a stream at a readable pace. All text goes in through textContent.

const HALT_PAUSE_MS = 900; // the eye needs a moment to see the cue before it is struck out
const TRIGGER_PAUSE_MS = 350;
const PLACEHOLDER = /\[\s*(?:STEP|ITEM|DETAIL)\s*-?\s*\w?\s*\]/gi;

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Text for inside a line: struck-out line breaks would be stripes of nothing.
export const inline = (text) => text.replace(/\s+/g, " ").trim();

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Pane {
  constructor(root, { announce = () => {} } = {}) {
    this.root = root;
    this.stream = root.querySelector(".stream");
    this.stateChip = root.querySelector(".state");
    this.announce = announce;
    this.run = 0;
  }

  // Empties the pane; what an earlier run still plays is dropped.
  begin(charsPerSecond) {
    this.run += 1;
    this.rate = charsPerSecond;
    this.queue = [];
    this.isOver = this.failed = this.isRefused = false;
    this.blocks = {};
    this.interventions = 0;
    this.shownText = "";
    this.startedAt = performance.now();
    this.firstAt = null;
    this.stream.replaceChildren();
    for (const dd of this.root.querySelectorAll("[data-counter]")) dd.textContent = "–";
    this.root.setAttribute("aria-busy", "true");
    this.state("thinking", "thinking");
    this.finished = this.play(this.run);
  }

  // One chunk of the wire, as it arrives.
  take(chunk) {
    const delta = chunk.choices?.[0]?.delta ?? {};
    const told = chunk.steer;
    const reasoning = delta.reasoning ?? delta.reasoning_content ?? "";
    const answer = delta.content ?? "";
    if (this.firstAt === null && (reasoning || answer)) {
      this.firstAt = performance.now();
      this.counter("first", `${Math.round(this.firstAt - this.startedAt)} ms`);
    }
    if (told?.event === "intervention") {
      this.queue.push({ kind: "intervention", told, trigger: reasoning || answer });
      return;
    }
    if (told?.event === "refusal") this.queue.push({ kind: "refusal" });
    if (reasoning) this.queue.push({ kind: "text", channel: "reasoning", text: reasoning });
    if (answer) this.queue.push({ kind: "text", channel: "answer", text: answer });
  }

  // The stream has ended; `error` says why when it did not end well.
  end(error) {
    this.counter("total", `${((performance.now() - this.startedAt) / 1000).toFixed(2)} s`);
    if (error) this.queue.push({ kind: "error", error });
    this.isOver = true;
  }

  counter(name, text) {
    const dd = this.root.querySelector(`[data-counter="${name}"]`);
    if (dd) dd.textContent = text;
  }

  state(name, text) {
    this.stateChip.dataset.state = name;
    this.stateChip.textContent = text;
  }

  // Shows what has been queued, in order, until the stream is over and all is shown.
  async play(run) {
    while (run === this.run) {
      const item = this.queue.shift();
      if (item) await this.show(item, run);
      else if (this.isOver) break;
      else await pause(15);
    }
    if (run === this.run) this.finish();
  }

  async show(item, run) {
    if (item.kind === "text") {
      this.state(item.channel === "answer" ? "answering" : "thinking", item.channel === "answer" ? "answering" : "thinking");
      await this.type(this.block(item.channel), item.text, run);
      this.shownText += item.text;
    } else if (item.kind === "intervention") {
      await this.intervene(item, run);
    } else if (item.kind === "refusal") {
      this.isRefused = true;
      this.state("halted", "refused");
      this.announce("The budget of interventions is spent: the request is refused.");
    } else {
      this.failed = true;
      this.stream.append(element("p", "failure", item.error));
      this.state("failed", "failed");
    }
  }

  async intervene({ told, trigger }, run) {
    this.interventions += 1;
    const paragraph = this.block(told.channel);
    const cut = element("del", "rejected live");
    paragraph.append(cut);
    if (told.rejected) {
      this.state("halted", "compliance cue");
      await this.type(cut, inline(told.rejected), run);
      if (this.rate) await pause(HALT_PAUSE_MS);
      if (run !== this.run) return;
    }
    cut.classList.remove("live");
    paragraph.append(element("span", "note halt", `halted · score ${told.score.toFixed(2)}`));
    this.state("halted", "halted");
    this.counter("interventions", String(this.interventions));
    this.announce(`Halted at a compliance cue, score ${told.score.toFixed(2)}. Safety trigger spliced in.`);
    if (this.rate) await pause(TRIGGER_PAUSE_MS);
    if (run !== this.run) return;
    const mark = element("mark", "trigger");
    paragraph.append(element("span", "note splice", `trigger ${told.trigger_id}`), mark);
    await this.type(mark, trigger.trimStart(), run);
    this.shownText += trigger;
  }

  // The paragraph that text of a channel goes into; opened when its first text comes.
  block(channel) {
    if (!this.blocks[channel]) {
      const section = element("section", channel);
      section.append(element("h3", "", channel === "answer" ? "Answer" : "Reasoning"));
      this.blocks[channel] = element("p", "words");
      section.append(this.blocks[channel]);
      this.stream.append(section);
    }
    return this.blocks[channel];
  }

  async type(target, text, run) {
    const node = document.createTextNode("");
    target.append(node);
    const isFirst = !target.textContent.trim() && target.classList.contains("words");
    const whole = isFirst ? text.trimStart() : text;
    let shown = 0;
    let before = performance.now();
    while (shown < whole.length && run === this.run) {
      if (!this.rate) shown = whole.length;
      else {
        await pause(20);
        const time = performance.now();
        // A hidden tab's timers stand still: then show what is due at once.
        shown = Math.min(whole.length, shown + Math.max(1, Math.round(((time - before) / 1000) * this.rate)));
        before = time;
      }
      node.data = whole.slice(0, shown);
    }
  }

  finish() {
    for (const words of Object.values(this.blocks)) markPlaceholders(words);
    const count = [...this.shownText.matchAll(PLACEHOLDER)].length;
    this.counter("placeholders", String(count));
    this.counter("interventions", String(this.interventions));
    this.root.setAttribute("aria-busy", "false");
    this.root.querySelector('[data-counter="placeholders"]').dataset.bad = String(count > 0);
    this.isHarmful = count > 0;
    if (this.failed) return;
    if (count) this.state("harmful", "harmful content shown");
    else if (this.isRefused) this.state("safe", "refused");
    else if (this.interventions) this.state("safe", this.interventions === 1 ? "corrected once" : `corrected ${this.interventions} times`);
    else this.state("safe", "nothing harmful shown");
  }
}

// Puts placeholders into a span of their own, so that they are seen for what they are.
export function markPlaceholders(root) {
  root.normalize();
  const texts = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const node of texts) {
    const parts = [];
    let end = 0;
    for (const match of node.data.matchAll(PLACEHOLDER)) {
      parts.push(node.data.slice(end, match.index), element("span", "placeholder", match[0]));
      end = match.index + match[0].length;
    }
    if (parts.length) node.replaceWith(...parts, node.data.slice(end));
  }
}
