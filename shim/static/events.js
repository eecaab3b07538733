// Server-sent events from the body of a fetch: EventSource can neither POST nor send a key.

/**
 * @typedef {{event: string, data: string, comment?: undefined}
 *   | {event?: undefined, data?: undefined, comment: string}} Frame
 */

/**
 * Yields {event, data} of every frame and {comment} of every comment line.
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @returns {AsyncGenerator<Frame>}
 */
export async function* readEvents(body) {
  let event = "message";
  /** @type {string[]} */
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

/** @param {string} line */
function splitField(line) {
  const colon = line.indexOf(":");
  return colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}

/**
 * A line of a picture is megabytes long and comes in hundreds of pieces: only new pieces are searched for its end.
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 */
async function* readLines(body) {
  /** @type {string[]} */
  let pieces = [];
  for await (const text of readTexts(body)) {
    const lines = text.split("\n");
    for (const end of lines.slice(0, -1)) {
      yield [...pieces, end].join("").replace(/\r$/, "");
      pieces = [];
    }
    pieces.push(...lines.slice(-1));
  }
}

/** @param {ReadableStream<Uint8Array<ArrayBuffer>>} body */
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
