// One client: a real connection that reads at the speed it is set to. No part of it is drawn
// here, so that it can live in a worker and be shown by several tabs.
//
//   connecting ─► open ─► cut, paused or lost ─► connecting, with its Last-Event-ID
//                  └────► ended: the server gave it up, and somebody has to say "again"

import { Account } from "./account.js";
import { BUFFER } from "./policies.js";
import { SlowReader } from "./reader.js";
import { EventParser } from "./sse.js";

// Bytes a second, from the slider's left end to its right one.
export const SPEEDS = [0, 64e3, 128e3, 256e3, 512e3, 1e6, 2e6, 4e6, Infinity];
export const FULL_SPEED = SPEEDS.length - 1;

const OWN_PRODUCER = { rate: 200, pad: 12000, stall: 30 }; // of a client that blocks
const RETRY = 1500; // ms until a lost connection is made again
const GIVEN_UP = ["stalled", "slow_consumer"]; // why the server ends a client for good

export class Client {
  name;
  #policy;
  #step = FULL_SPEED;
  #reader;
  #account;
  #abort = null;
  #timer = 0;
  #connections = 0;
  #id = ""; // what it calls itself to the server; another one for each connection
  #phase = "idle";
  #until = 0; // when a cut is over, in ms
  #lastId = null;
  #newest = null; // when the newest event received was made, in the server's time
  #why = ""; // what ended it, or keeps it away
  #server = null; // what the server said of it last
  #comeback = null; // {away, replayed, missed, asked, settled}
  #away = 0; // since when it is cut, in ms; 0 if it isn't

  constructor(name, policy) {
    this.name = name;
    this.#policy = policy;
    this.#account = new Account(policy === "conflate");
  }

  start() {
    if (["connecting", "open"].includes(this.#phase)) return;
    clearTimeout(this.#timer);
    this.#run();
  }

  // Be away for so long; 0 for as long as nobody calls start().
  cut(seconds, phase = "cut") {
    clearTimeout(this.#timer);
    this.#leave(phase);
    this.#until = performance.now() + seconds * 1000;
    if (seconds) this.#timer = setTimeout(() => this.start(), seconds * 1000);
  }

  set speed(step) {
    this.#step = step;
    if (this.#reader) this.#reader.speed = SPEEDS[step];
  }

  get policy() {
    return this.#policy;
  }

  // Become another client: what was counted is counted anew.
  set policy(policy) {
    this.cut(0);
    this.#policy = policy;
    this.#forget();
    this.start();
  }

  // Begin again after the server gave it up: as a client that comes back, with its id.
  again() {
    this.#phase = "idle";
    this.start();
  }

  // Take in what the server says. now: the server's time, in seconds.
  update(picture, now) {
    const found = picture.streams.find(({ client }) => client === this.#id);
    if (found) this.#server = found;
    if (GIVEN_UP.includes(found?.reason) && ["lost", "open"].includes(this.#phase)) {
      clearTimeout(this.#timer);
      this.#leave("ended", found.reason);
    }
    return this.snapshot(picture, now);
  }

  // All that there is to show, as a plain object.
  snapshot(picture, now) {
    const { received, missed, failed } = this.#account;
    const published = Math.max(this.#published(picture), received + missed);
    const live = this.#phase === "open" ? this.#server : null;
    return {
      name: this.name,
      policy: this.#policy,
      step: this.#step,
      phase: this.#phase,
      why: this.#why,
      back: this.#phase === "cut" ? Math.max(0, (this.#until - performance.now()) / 1000) : 0,
      published,
      received,
      missed,
      inFlight: published - received - missed,
      adds: failed === null,
      behind: this.#newest === null ? null : Math.max(0, now - this.#newest),
      queued: live?.buffer.items ?? 0,
      room: BUFFER,
      parked: live?.sending_for ?? 0,
      comeback: this.#comeback?.settled ? this.#comeback : null,
    };
  }

  #published(picture) {
    if (this.#policy !== "block") {
      return this.#account.first === null ? 0 : picture.published - this.#account.first;
    }
    return this.#server ? this.#server.items + this.#server.dropped + this.#server.buffer.items : 0;
  }

  #forget() {
    this.#account = new Account(this.#policy === "conflate");
    this.#lastId = this.#newest = this.#server = this.#comeback = null;
  }

  #leave(phase, why = "") {
    if (this.#phase === "open" || this.#phase === "connecting") this.#away = performance.now();
    this.#phase = phase;
    this.#why = why;
    this.#abort?.abort();
    this.#abort = null;
  }

  async #run() {
    const abort = (this.#abort = new AbortController());
    const { signal } = abort;
    this.#phase = "connecting";
    this.#connections += 1;
    this.#id = `${this.name}-${SESSION}-${this.#connections}`;
    this.#server = null;
    if (this.#policy === "block") this.#forget(); // its producer ended with its connection
    if (this.#lastId !== null) this.#beginComeback();
    const reader = (this.#reader = new SlowReader());
    reader.speed = SPEEDS[this.#step];
    try {
      const headers = this.#lastId === null ? {} : { "Last-Event-ID": this.#lastId };
      const response = await fetch(this.#url(), { signal, headers, cache: "no-store" });
      if (!response.ok) {
        const { error } = await response.json().catch(() => ({}));
        throw new Error(error ?? `the server answered ${response.status}`);
      }
      this.#phase = "open";
      const parser = new EventParser(
        (event) => this.#take(event),
        () => {},
      );
      await reader.run(response, (piece) => parser.feed(piece), signal);
      if (!signal.aborted) this.#lose("the stream ended");
    } catch (error) {
      // A TypeError is how fetch reports that the connection failed.
      if (!signal.aborted) this.#lose(error instanceof TypeError ? "" : error.message);
    }
  }

  #lose(why) {
    this.#leave("lost", why);
    this.#timer = setTimeout(() => this.start(), RETRY);
  }

  #url() {
    const query = { policy: this.#policy, buffer: BUFFER, client: this.#id };
    const own = this.#policy === "block";
    return `/${own ? "flood" : "feed"}?${new URLSearchParams(own ? { ...query, ...OWN_PRODUCER } : query)}`;
  }

  #take({ type, data, id }) {
    if (id) this.#lastId = id;
    if (type === "message") this.#takeEvent(JSON.parse(data));
    else if (type === "gap") this.#takeGap(JSON.parse(data).missed);
    else if (type === "failed") this.#leave("ended", JSON.parse(data).message);
  }

  #takeEvent(event) {
    this.#account.take(event);
    this.#newest = Math.max(this.#newest ?? 0, event.at);
    const back = this.#comeback;
    if (!back || back.settled) return;
    if (event.at < back.asked) back.replayed += 1;
    else back.settled = true;
  }

  #takeGap(missed) {
    if (missed === null) {
      // The server is another one than it was, and numbers anew.
      this.#account = new Account(this.#policy === "conflate");
      this.#comeback = null;
      return;
    }
    this.#account.gap(missed);
    if (this.#comeback && !this.#comeback.settled) this.#comeback.missed += missed;
  }

  #beginComeback() {
    this.#account.comeBack();
    const away = (performance.now() - this.#away) / 1000;
    this.#comeback = { away, replayed: 0, missed: 0, asked: Date.now() / 1000 - Client.offset, settled: false };
  }

  // The browser's clock, less the server's, in seconds.
  static offset = 0;
}

// Several browsers may be here: their clients have different names.
const SESSION = Math.random().toString(36).slice(2, 7);
