// Server-sent events by fetch: unlike an EventSource, it sends the token in a header.

import { current, refused } from "./token.js";

/** Seconds within which the answer has to begin. */
const PATIENCE_SECONDS = 10;

/**
 * Listens to the events at a path.
 *
 * opened() is called when the answer has begun; heard() whenever anything has come; event(name, data) for each event;
 * ended(status) when there is no more, with the answer's status, or 0 if there was no answer.
 */
export class Events {
  constructor(path, { opened, heard, event, ended }) {
    this.abort = new AbortController();
    this.take = { opened, heard, event, ended };
    this.#read(path);
  }

  /** Ends the stream. No callback is called any more. */
  close() {
    this.take = null;
    this.abort.abort();
  }

  async #read(path) {
    let status = 0;
    const late = setTimeout(() => this.abort.abort(), PATIENCE_SECONDS * 1000);
    try {
      const sent = current();
      const headers = { Accept: "text/event-stream", Authorization: `Bearer ${sent}` };
      const answer = await fetch(path, { headers, credentials: "omit", cache: "no-store", signal: this.abort.signal });
      clearTimeout(late);
      status = answer.status;
      if (status === 401) refused(sent);
      if (answer.ok) {
        this.take?.opened();
        await this.#follow(answer.body.getReader());
      }
    } catch (error) {
      if (error instanceof SyntaxError) console.error(error); // an event that is no JSON
    } finally {
      clearTimeout(late);
    }
    this.abort.abort();
    this.take?.ended(status);
  }

  async #follow(reader) {
    const decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.take?.heard();
      const searched = Math.max(text.length - 1, 0);
      text += decoder.decode(value, { stream: true });
      let begin = 0;
      for (let end = text.indexOf("\n\n", searched); end >= 0; end = text.indexOf("\n\n", begin)) {
        this.#event(text.slice(begin, end));
        begin = end + 2;
      }
      if (begin) text = text.slice(begin);
    }
  }

  #event(block) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data.push(line.slice(6));
    }
    if (data.length) this.take?.event(name, JSON.parse(data.join("\n")));
  }
}
