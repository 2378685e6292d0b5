// A reader that takes bytes from a response no faster than it is told to. What it does not
// take stays where it is: first the browser's pipe fills, then the TCP window closes, and
// then the server feels it. Nothing here is simulated.
//
// It reads into a buffer of its own ("byob") where the browser can do that: a plain read()
// takes all that the browser has, up to megabytes, in one gulp.

const PIECE = 65536; // bytes of one read at the most
const STEP = 50; // ms between two reads of a slow reader
const TURN = 12; // ms of reading before the page gets to draw

export class SlowReader {
  #speed = Infinity;
  #credit = 0; // bytes that may be taken now
  #counted = 0; // when the credit was last counted
  #wake = () => {};

  // Bytes a second: 0 does not read at all, Infinity as fast as they come.
  set speed(value) {
    this.#speed = value;
    this.#credit = 0;
    this.#counted = performance.now();
    this.#wake();
  }

  // Calls feed(bytes) until the body ends; rejects as read() does, and when aborted.
  async run(response, feed, signal) {
    const pull = open(response.body);
    signal.addEventListener("abort", () => this.#wake(), { once: true });
    let turn = performance.now();
    for (;;) {
      const size = await this.#helping(signal);
      const piece = await pull(size);
      if (!piece) return;
      this.#credit -= piece.length;
      feed(piece);
      if (performance.now() - turn > TURN) {
        await new Promise((resume) => setTimeout(resume));
        turn = performance.now();
      }
    }
  }

  // How many bytes may be taken now; waits until there is something to take.
  async #helping(signal) {
    for (;;) {
      signal.throwIfAborted();
      const speed = this.#speed;
      if (speed === Infinity) return PIECE;
      const now = performance.now();
      // Timers are late, in a hidden tab by a second: what fell due meanwhile is taken, too.
      this.#credit = Math.min(speed, this.#credit + (speed * (now - this.#counted)) / 1000);
      this.#counted = now;
      const enough = Math.min(PIECE, Math.ceil((speed * STEP) / 1000));
      if (speed && this.#credit >= enough) return enough;
      await this.#pause(speed ? ((enough - this.#credit) / speed) * 1000 : 60_000);
    }
  }

  #pause(ms) {
    return new Promise((resume) => {
      const timer = setTimeout(resume, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resume();
      };
    });
  }
}

// Returns pull(size): a promise of up to `size` bytes, or of null at the end.
function open(body) {
  let reader;
  try {
    reader = body.getReader({ mode: "byob" });
  } catch {
    return openPlain(body.getReader());
  }
  let buffer = new ArrayBuffer(PIECE);
  return async (size) => {
    const { done, value } = await reader.read(new Uint8Array(buffer, 0, size));
    if (done) return null;
    buffer = value.buffer;
    return value;
  };
}

function openPlain(reader) {
  let rest = new Uint8Array();
  return async (size) => {
    if (!rest.length) {
      const { done, value } = await reader.read();
      if (done) return null;
      rest = value;
    }
    const piece = rest.subarray(0, size);
    rest = rest.subarray(size);
    return piece;
  };
}
