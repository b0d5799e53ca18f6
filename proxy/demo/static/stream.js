// Reads a chat completion's event stream. Knows the wire and nothing of the page.

// Calls `onChunk(chunk)` for each chunk. Resolves with the request's id once the stream has ended; rejects with an
// Error whose message is fit for the visitor.
export async function streamChat(url, body, signal, onChunk) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw new Error(await errorOf(response));
  const id = response.headers.get("x-request-id");
  let ended = false;
  for await (const payload of payloads(response.body)) {
    if (payload === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = JSON.parse(payload);
    if (chunk.error) throw new Error(chunk.error.message || "the stream broke off");
    onChunk(chunk);
  }
  if (!ended) throw new Error("the stream broke off before its end");
  return id;
}

export async function getJson(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(await errorOf(response));
  return response.json();
}

async function* payloads(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return `${response.status}: ${error.message}`;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}
