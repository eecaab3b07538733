// Why an edit failed, in words: from both shapes of the server's answers, from its stream, and from the network.

const TITLES = {
  INVALID_INPUT: "The server does not take this edit",
  UNAUTHORIZED: "The API key is missing or wrong",
  NOT_FOUND: "There is no image editing at this address",
  METHOD_NOT_ALLOWED: "There is no image editing at this address",
  PAYLOAD_TOO_LARGE: "The pictures are too large",
  QUEUE_FULL: "The server is busy",
  GENERATION_ERROR: "The model failed on this edit",
  INTERNAL_ERROR: "The server failed",
  MODEL_NOT_READY: "The model is not ready yet",
  GENERATION_TIMEOUT: "The edit took too long",
};

const ADVICE = {
  UNAUTHORIZED: "Enter the key that the server was started with.",
  QUEUE_FULL: "It holds as many edits as it can.",
  GENERATION_TIMEOUT: "Fewer steps or a smaller size take less time.",
};

export class Failure extends Error {
  /** @param {{title: string, message?: string, code?: string, trace?: string}} words */
  constructor({ title, message = "", code = "", trace = "" }) {
    super(message);
    this.title = title;
    this.code = code;
    this.trace = trace;
  }
}

/** A refusal: an answer that is not 2xx. */
export async function refusalOf(response) {
  const { code, message } = readError(await bodyOf(response));
  const title = TITLES[code] ?? `The server answered ${response.status} ${response.statusText}`.trim();
  const parts = [ADVICE[code] ?? message, retryWords(response.headers.get("retry-after"))];
  const id = response.headers.get("x-request-id");
  return new Failure({ title, message: parts.filter(Boolean).join(" "), code, trace: id ? `Request ${id}` : "" });
}

/** The `error` event of a stream. */
export function failureOf(data) {
  const { code, message } = readError(data);
  return new Failure({ title: TITLES[code] ?? "The edit failed", message: ADVICE[code] ?? message, code });
}

/** What fetch or its body threw. */
export function brokenOff(begun) {
  return begun
    ? new Failure({ title: "The connection broke off", message: "The server went away before the edit was done." })
    : new Failure({ title: "The server cannot be reached", message: "Is it running, and is this device online?" });
}

/** Classic answers are {error: CODE, message}, OpenAI's {error: {code, message}}. */
function readError(body) {
  const { error, message } = body ?? {};
  return typeof error === "string" ? { code: error, message } : { code: error?.code ?? "", message: error?.message };
}

async function bodyOf(response) {
  try {
    return await response.json();
  } catch {
    return null; // a proxy's own page
  }
}

function retryWords(seconds) {
  if (!/^\d+$/.test(seconds ?? "")) return "";
  return `Try again in ${seconds} ${seconds === "1" ? "second" : "seconds"}.`;
}
