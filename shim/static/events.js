// Server-sent events from the body of a fetch: EventSource can neither POST nor send a key.

/** Yields {event, data} of every frame and {comment} of every comment line. */
export async function* readEvents(body) {
  let event = "message";
  let data = [];
  for await (const line of readLines(body)) {
    if (line === "") {
      if (data.length) yield { event, data: data.join("\n") };
      event = "message";
      data = [];
    } else if (line.startsWith(":")) {
      yield { comment: line.slice(1).trim() };
    } else {
      const [name, value] = splitField(line);
      if (name === "event") event = value;
      if (name === "data") data.push(value);
    }
  }
}

function splitField(line) {
  const colon = line.indexOf(":");
  return colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}

/** A line of a picture is megabytes long and comes in hundreds of pieces: only new pieces are searched for its end. */
async function* readLines(body) {
  let pieces = [];
  for await (const text of readTexts(body)) {
    const lines = text.split("\n");
    for (const end of lines.slice(0, -1)) {
      yield [...pieces, end].join("").replace(/\r$/, "");
      pieces = [];
    }
    pieces.push(lines.at(-1));
  }
}

async function* readTexts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
