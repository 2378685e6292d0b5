// Server-sent events out of pieces of bytes, as EventSource would parse them. EventSource itself
// reads as fast as it can, always; a client that can be slowed down has to parse for itself.

export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #comments;
  #events;

  // events({type, data, id}) and comments(text) are called for each that is complete.
  constructor(events, comments) {
    this.#events = events;
    this.#comments = comments;
  }

  feed(bytes) {
    // A CR at the very end may be half of a CRLF: it stays until the next piece.
    let text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    const held = text.endsWith("\r") ? "\r" : "";
    if (held) text = text.slice(0, -1);
    text = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    let start = 0;
    for (;;) {
      const end = text.indexOf("\n\n", start);
      if (end < 0) break;
      this.#block(text.slice(start, end));
      start = end + 2;
    }
    this.#rest = text.slice(start) + held;
  }

  #block(block) {
    const data = [];
    let type = "message";
    let id = null;
    for (const line of block.split("\n")) {
      if (line.startsWith(":")) {
        this.#comments(line.slice(1).trim());
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
      if (name === "data") data.push(value);
      else if (name === "event") type = value;
      else if (name === "id") id = value;
    }
    if (data.length) this.#events({ type, data: data.join("\n"), id });
  }
}
