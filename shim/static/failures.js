// Why an edit failed, in words: from both shapes of the server's answers, from its stream, and from the network.

import { words, wordsIfAny } from "./language.js";

export class Failure extends Error {
  /** @param {{title: string, message?: string, code?: string, trace?: string}} told */
  constructor({ title, message = "", code = "", trace = "" }) {
    super(message);
    this.title = title;
    this.code = code;
    this.trace = trace;
  }
}

/**
 * A refusal: an answer that is not 2xx.
 * @param {Response} response
 */
export async function refusalOf(response) {
  const { code, title, message } = readError(await bodyOf(response));
  const parts = [message, retryWords(response.headers.get("retry-after"))];
  const id = response.headers.get("x-request-id");
  return new Failure({
    title: title || words("failure-answered", { status: `${response.status} ${response.statusText}`.trim() }),
    message: parts.filter(Boolean).join(" "),
    code,
    trace: id ? words("failure-request", { id }) : "",
  });
}

/**
 * The `error` event of a stream.
 * @param {unknown} data
 */
export function failureOf(data) {
  const { code, title, message } = readError(data);
  return new Failure({ title: title || words("failure"), message, code });
}

/**
 * What fetch or its body threw.
 * @param {boolean} begun
 */
export function brokenOff(begun) {
  return begun
    ? new Failure({ title: words("failure-begun"), message: words("failure-begun-hint") })
    : new Failure({ title: words("failure-unreachable"), message: words("failure-unreachable-hint") });
}

/**
 * Classic answers are {error: CODE, message}, OpenAI's {error: {code, message, param}}. The page advises in its own
 * language; the server's message stands behind that, as it alone has the numbers.
 * @param {any} body
 */
function readError(body) {
  const error = body?.error;
  const { code = "", message, param } = typeof error === "string" ? classicError(body) : (error ?? {});
  const advice = wordsIfAny(`refused.${param}`);
  const refused = advice && message ? words("refused-reason", { advice, reason: message }) : message;
  return { code, title: wordsIfAny(`failure.${code}`), message: wordsIfAny(`advice.${code}`) || refused };
}

/**
 * Its message begins with the field's name.
 * @param {{error: string, message: string}} body
 */
function classicError({ error, message }) {
  return { code: error, message, param: /^\w+/.exec(message ?? "")?.[0] };
}

/** @param {Response} response */
async function bodyOf(response) {
  try {
    return await response.json();
  } catch {
    return null; // a proxy's own page
  }
}

/** @param {string | null} seconds */
function retryWords(seconds) {
  if (!seconds || !/^\d+$/.test(seconds)) return "";
  return seconds === "1" ? words("failure-retry-one") : words("failure-retry-several", { seconds });
}
