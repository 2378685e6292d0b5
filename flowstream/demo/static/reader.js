// A reader that takes bytes from a response no faster than it is told to. What it does not
// take stays where it is: first the browser's pipe fills, then the TCP window closes, and
// then the server feels it. Nothing here is simulated.

const TURN = 12; // ms of reading before the page gets to draw
const STEP = 50; // ms between two helpings of a slow reader

export class SlowReader {
  #speed = Infinity;
  #wake = () => {};

  // Bytes a second: 0 does not read at all, Infinity as fast as they come.
  set speed(value) {
    this.#speed = value;
    this.#wake();
  }

  get speed() {
    return this.#speed;
  }

  // Calls feed(bytes) until the body ends; rejects as reader.read() does.
  async run(response, feed, signal) {
    const reader = response.body.getReader();
    signal.addEventListener("abort", () => this.#wake(), { once: true });
    let turn = performance.now();
    for (;;) {
      while (this.#speed === 0) {
        signal.throwIfAborted();
        await this.#changed(1e9);
      }
      const { done, value } = await reader.read();
      if (done) return;
      for (let at = 0; at < value.length; ) {
        const size = await this.#helping(value.length - at);
        signal.throwIfAborted();
        if (size) feed(value.subarray(at, at + size));
        at += size;
      }
      if (performance.now() - turn > TURN) {
        await new Promise((resume) => setTimeout(resume));
        turn = performance.now();
      }
    }
  }

  // How many of `offered` bytes may be taken, after the wait that they cost.
  async #helping(offered) {
    if (this.#speed === Infinity) return offered;
    const before = performance.now();
    const speed = this.#speed;
    const wanted = Math.min(offered, Math.max(1, Math.round((speed * STEP) / 1000)));
    await this.#changed(speed ? (wanted / speed) * 1000 : 1e9);
    // Timers are late, and very late in a hidden tab: what was due meanwhile is taken, too.
    const due = Math.round(((performance.now() - before) / 1000) * speed);
    return this.#speed === Infinity ? offered : Math.min(offered, due);
  }

  #changed(ms) {
    return new Promise((resume) => {
      const timer = setTimeout(resume, Math.min(ms, 2 ** 31 - 1));
      this.#wake = () => {
        clearTimeout(timer);
        resume();
      };
    });
  }
}
