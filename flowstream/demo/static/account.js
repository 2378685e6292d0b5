// The account of one client: what it received and what it was told that it missed.
//
// Events are numbered one by one, so the sum can be checked at each of them, from the client's
// own numbers alone: received and missed make up the number of the event at hand.

export const KEYS = 8; // keys of the events, in turn

export class Account {
  received = 0;
  missed = 0;
  gaps = 0;
  first = null; // the number before the first event; null before there is one
  failed = null; // the number of the event at which the sum did not come out
  #byKey;
  #last = 0;
  #newest = new Map(); // newest number received, by key
  #open = new Set(); // keys that nothing was received of since the client came back

  // byKey: whether keys overtake one another, as under Conflate.
  constructor(byKey) {
    this.#byKey = byKey;
  }

  take({ n, key }) {
    // What is missed before the first event was older: of its own key, where keys are conflated.
    this.first ??= n - 1 - this.missed * (this.#byKey ? KEYS : 1);
    this.received += 1;
    this.#last = Math.max(this.#last, n);
    this.#newest.set(Number(key), n);
    this.#open.delete(Number(key));
    if (!this.#adds(this.received + this.missed)) this.failed ??= n;
  }

  gap(missed) {
    this.gaps += 1;
    this.missed += missed;
  }

  // Begin another connection. A gap at its start is of all keys, and each learns of it later.
  comeBack() {
    if (this.#byKey) this.#open = new Set(this.#newest.keys());
  }

  #adds(sum) {
    if (!this.#open.size) return sum === this.#expected;
    return sum >= this.#expected && sum <= this.#last - this.first;
  }

  get #expected() {
    if (!this.#byKey) return this.#last - this.first;
    let sum = 0;
    for (const [key, n] of this.#newest) sum += upTo(n, key) - upTo(this.first, key);
    return sum;
  }
}

// How many of the events 1 … n have that key.
const upTo = (n, key) => Math.floor((n + KEYS - (key || KEYS)) / KEYS);
