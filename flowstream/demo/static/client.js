// One client: a card on the page and a real connection that reads at the card's speed.
//
// What the server says of the client (buffer, dropped, parked) comes from its statistics; what
// the client says (received, missed) from the bytes that it has read itself. The card puts the
// two side by side, and does the sum that must come out.

import { Chart } from "./chart.js";
import { bytes, count, seconds } from "./format.js";
import { SlowReader } from "./reader.js";
import { EventParser } from "./sse.js";

const KEYS = 8; // keys of the flood's events, in turn

export const POLICIES = {
  block: "The producer waits for room. Nothing is dropped; a slow client slows its own producer, nobody else’s.",
  drop_oldest: "The oldest queued event goes. The client gets the newest run there is.",
  drop_newest: "The arriving event goes. The client gets an old but unbroken run, then a gap.",
  sample_every: "Once the buffer is full, only each tenth event gets in, until it is half empty.",
  sample_interval: "Once the buffer is full, only the newest event of each half second gets in, until it is half empty.",
  conflate: "The newest event of each of eight keys is kept, in the key’s place: at most eight are queued.",
  disconnect: "A full buffer ends the stream. The client may come back when it can keep up.",
};

// Bytes of padding in an event, so that a client that reads slowly is felt within seconds:
// Chromium alone takes in 2 MB ahead of the reader.
const PAD = 12000;

// Bytes a second, from the slider's left end to its right one.
export const SPEEDS = [0, 64e3, 128e3, 256e3, 512e3, 1e6, 2e6, 4e6, Infinity];
export const FULL_SPEED = SPEEDS.length - 1;

const speedText = (speed) =>
  speed === 0 ? "stalled" : speed === Infinity ? "full speed" : `${bytes(speed)}/s`;

export class Client {
  #part = {};
  #card;
  #chart;
  #reader = new SlowReader();
  #abort = new AbortController();
  #options;
  #onchange;
  #connected = true;
  #outcome = null; // how it ended, seen from here
  #server = null; // what the server said of it last

  #received = 0;
  #missed = 0;
  #gaps = 0;
  #heartbeats = 0;
  #opened = false;
  #last = 0;
  #at = null; // when the newest event received was made
  #newest = new Map(); // newest number received, by key
  #sumFailed = null;

  // options: id, name, policy, buffer, rate, stall, speed (an index of SPEEDS).
  // onchange() is called when its connection has ended; onremove(client) when it is to go.
  constructor(template, options, onchange, onremove) {
    this.#options = options;
    this.#onchange = onchange;
    this.#card = template.content.firstElementChild.cloneNode(true);
    for (const element of this.#card.querySelectorAll("[data-part]")) {
      this.#part[element.dataset.part] = element;
    }
    const { name, policy, buffer, rate } = options;
    const title = this.#card.querySelector("h3");
    title.id = `title-${options.id}`;
    title.textContent = `${name} · ${policy}`;
    this.#card.setAttribute("aria-labelledby", title.id);
    this.#card.dataset.policy = policy;
    const pace = rate > 0 ? `${count(rate)} events a second` : "as many events as possible";
    this.#part.what.textContent = `${pace}, ${count(buffer)} items of buffer. ${POLICIES[policy]}`;

    const slider = this.#part.speed;
    slider.max = SPEEDS.length - 1;
    slider.value = options.speed;
    slider.id = `speed-${options.id}`;
    this.#card.querySelector("label").htmlFor = slider.id;
    slider.addEventListener("input", () => this.#setSpeed(Number(slider.value)));
    this.#setSpeed(options.speed);

    this.#part.abort.setAttribute("aria-label", `Abort client ${name}`);
    this.#part.abort.addEventListener("click", () => this.#abort.abort());
    this.#part.remove.setAttribute("aria-label", `Remove client ${name}`);
    this.#part.remove.addEventListener("click", () => {
      this.#abort.abort();
      onremove(this);
    });
  }

  get id() {
    return this.#options.id;
  }

  // Whether it takes one of the browser's connections.
  get connected() {
    return this.#connected;
  }

  // Put the card into `parent` and connect.
  start(parent) {
    parent.append(this.#card);
    this.#chart = new Chart(this.#part.chart, { points: 240, interval: 0.25, top: () => 100 });
    this.#run();
  }

  remove() {
    this.#chart.remove();
    this.#card.remove();
  }

  // Take in what the server says of this client (null: nothing), and draw. now: seconds.
  update(server, now) {
    this.#server = server ?? this.#server;
    this.#drawState();
    this.#drawServer(now);
    this.#drawClient();
  }

  async #run() {
    const { id, policy, buffer, rate, stall } = this.#options;
    const query = new URLSearchParams({ policy, buffer, rate, stall, pad: PAD, client: id });
    const { signal } = this.#abort;
    try {
      const response = await fetch(`/flood?${query}`, { signal, cache: "no-store" });
      if (!response.ok) {
        const { error } = await response.json().catch(() => ({}));
        throw new Error(error ?? `the server answered ${response.status}`);
      }
      const parser = new EventParser(
        (event) => this.#take(event),
        () => this.#comment(),
      );
      await this.#reader.run(response, (piece) => parser.feed(piece), signal);
      this.#outcome ??= "the server ended it";
    } catch (error) {
      if (signal.aborted) this.#outcome = "aborted";
      // A TypeError is how fetch reports that the connection failed.
      else this.#outcome = error instanceof TypeError ? "connection lost" : error.message;
    }
    this.#connected = false;
    this.#part.abort.disabled = true;
    this.#part.speed.disabled = true;
    this.#onchange();
  }

  #setSpeed(index) {
    this.#reader.speed = SPEEDS[index];
    const text = speedText(SPEEDS[index]);
    this.#part["speed-text"].value = text;
    this.#part.speed.setAttribute("aria-valuetext", text);
  }

  #comment() {
    // The first comment opens the stream; those after it are heartbeats.
    if (this.#opened) this.#heartbeats += 1;
    this.#opened = true;
  }

  #take({ type, data }) {
    this.#opened = true;
    if (type === "message") this.#takeEvent(JSON.parse(data));
    else if (type === "gap") {
      this.#gaps += 1;
      this.#missed += JSON.parse(data).missed;
    } else if (type === "end" || type === "reconnect") this.#outcome = JSON.parse(data).reason;
    else if (type === "failed") this.#outcome = JSON.parse(data).message;
  }

  #takeEvent({ n, key, at }) {
    this.#received += 1;
    this.#last = Math.max(this.#last, n);
    this.#at = Math.max(this.#at ?? 0, at);
    this.#newest.set(key, n);
    if (!this.#sumHolds()) this.#sumFailed ??= n;
  }

  // How many events there were, up to what was received.
  get #target() {
    if (this.#options.policy !== "conflate") return this.#last;
    // Keys overtake one another: each of them has its own last number.
    let target = 0;
    for (const [key, n] of this.#newest) target += Math.ceil((n - (Number(key) || KEYS)) / KEYS) + 1;
    return target;
  }

  #sumHolds() {
    const sum = this.#received + this.#missed;
    // With fewer places than keys an event may wait behind a gap of another key's.
    if (this.#options.policy === "conflate" && this.#options.buffer < KEYS) return sum <= this.#last;
    return sum === this.#target;
  }

  #drawState() {
    const badge = this.#part.state;
    const reason = this.#server?.reason;
    const parked = this.#server?.sending_for ?? 0;
    let state = "open";
    let text = "open";
    if (reason) [state, text] = ["ended", `closed: ${reason}`];
    else if (!this.#connected) [state, text] = ["ended", this.#outcome];
    else if (!this.#server) [state, text] = ["waiting", "connecting …"];
    else if (parked >= 1) [state, text] = ["parked", `send parked ${seconds(parked)}`];
    if (reason) this.#card.dataset.reason = reason;
    badge.dataset.state = state;
    set(badge, text);
  }

  #drawServer(now) {
    const server = this.#server;
    if (!server) return;
    const { buffer } = server;
    const open = server.state !== "closed";
    const level = Math.min(100, 100 * Math.max(buffer.items / buffer.max_items, buffer.bytes / buffer.max_bytes));
    const part = this.#part;
    set(part["level-text"], `${count(buffer.items)} of ${count(buffer.max_items)} items, ${bytes(buffer.bytes)}`);
    part.meter.setAttribute("aria-valuenow", Math.round(level));
    part.fill.style.width = `${level}%`;
    part.fill.dataset.state = level >= 99 ? "full" : level >= 75 ? "high" : "fine";
    if (open) this.#chart.add(now, level);
    set(part.sent, count(server.items));
    set(part.dropped, count(server.dropped));
    set(part.parked, open ? seconds(server.sending_for) : "–");
    set(part.longest, seconds(server.longest_wait));
  }

  #drawClient() {
    const part = this.#part;
    set(part.received, count(this.#received));
    set(part.missed, count(this.#missed));
    set(part.gaps, count(this.#gaps));
    set(part.heartbeats, count(this.#heartbeats));
    if (this.#at !== null && this.#connected) {
      set(part.behind, seconds(Math.max(0, Date.now() / 1000 - this.#at)));
    }
    if (!this.#received) return;
    const sum = `${count(this.#received)} received + ${count(this.#missed)} missed`;
    const fine = this.#sumFailed === null;
    part.sum.dataset.state = fine ? "good" : "bad";
    if (!fine) set(part.sum, `✗ ${sum}, which does not add up since event ${count(this.#sumFailed)}`);
    else if (this.#options.policy === "conflate") set(part.sum, `✓ ${sum} = all, by key`);
    else set(part.sum, `✓ ${sum} = event no. ${count(this.#received + this.#missed)}`);
  }
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
