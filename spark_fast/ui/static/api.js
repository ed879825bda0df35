// Calls of the server's HTTP API.

import { current, refused } from "./token.js";

/** Called when this page has no token, or one that the server refuses. */
export const REMEDY = "open the address that spark-fast ui printed";

/** An error that the server answered, or no answer; then `status` is 0. */
export class ApiError extends Error {
  constructor(status, message, body = null) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** Sends a request, and returns the content of the answer. Raises ApiError. */
export async function call(method, path, body, signal) {
  const token = current();
  if (token === null) throw new ApiError(401, REMEDY);
  const options = { method, signal, credentials: "omit", headers: { Authorization: `Bearer ${token}` } };
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
  if (answer.status === 401) refused(token);
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

/** The path of a part of a run in the API. */
export function of(run, ...parts) {
  return ["/api/runs", run, ...parts].map((part, at) => (at === 0 ? part : encodeURIComponent(part))).join("/");
}
