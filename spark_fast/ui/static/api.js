// Calls of the server's HTTP API.

/** An answer that is none, or an error. `status` is 0 where there was no answer. */
export class ApiError extends Error {
  constructor(status, message, body = null) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** Sends a request and returns what the answer says. Raises ApiError. */
export async function call(method, path, body, signal) {
  const options = { method, signal, credentials: "same-origin", headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer, content;
  try {
    answer = await fetch(path, options);
    content = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server does not answer");
  }
  let data = null;
  try {
    data = JSON.parse(content);
  } catch {
    throw new ApiError(answer.status, `the server answered ${answer.status} ${answer.statusText}, and no JSON`);
  }
  if (!answer.ok) throw new ApiError(answer.status, messageOf(data, answer.status), data);
  return data;
}

function messageOf(data, status) {
  if (typeof data?.error === "string") return data.error;
  return `the server answered ${status}`;
}

const PATIENCE_SECONDS = 5;

/** The status with which the server answers; 0 if it does not. */
export async function probe() {
  try {
    return (await fetch("/", { method: "GET", cache: "no-store", signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000) })).status;
  } catch {
    return 0;
  }
}

/** The address of what belongs to a run. */
export function of(run, ...parts) {
  return ["/api/runs", run, ...parts].map((part, at) => (at === 0 ? part : encodeURIComponent(part))).join("/");
}
