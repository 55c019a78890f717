// The server's API as this page uses it. Addresses are relative, so that a proxy may put it anywhere.

const KEY = "vlmserve-key";

export function readKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function writeKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

// An error as the server words it: `param` is the field of the request that is at fault.
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

async function send(path, { body, signal } = {}) {
  const headers = {};
  const key = readKey();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (response.ok) return response;
  throw await readError(response);
}

async function readError(response) {
  const { status } = response;
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { status, code: error.code, param: error.param });
  } catch {
    return new ApiError(`The server answered with HTTP ${status}.`, { status });
  }
}

export async function listModels() {
  const response = await send("v1/models");
  return (await response.json()).data;
}

export async function measure(body, signal) {
  const response = await send("v1/chat/completions/budget?frames=thumbnails", { body, signal });
  return response.json();
}

// Yields each chunk of a streamed answer.
export async function* ask(body, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", { body: streamed, signal });
  for await (const line of lines(response.body)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, chunk.error);
    yield chunk;
  }
  throw new ApiError("The answer broke off: the connection was closed.");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const whole = (rest + value).split("\n");
      rest = whole.pop();
      yield* whole;
    }
  } finally {
    reader.releaseLock();
  }
  if (rest) yield rest;
}
