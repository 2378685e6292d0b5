// The hub: three clients and the server's own statistics, on four connections, for any number of
// tabs. A browser opens six connections to one host, in all of its tabs together; a hub for each
// tab would leave the second one waiting. So it lives in a worker that the tabs share.
//
//   tab ─► hub:  {do: "show", visible} {do: "bye"} {do: "speed" | "policy" | "cut" | "again", ...}
//   hub ─► tab:  {state, history?}, four times a second while the tab can be seen
//
// When no tab can be seen it lets go of its connections, and says so when one is seen again.

import { Client, FULL_SPEED, SPEEDS } from "./client.js";

const POINTS = 240; // of the curves: a minute
const RETRY = 2000; // ms until a feed that was refused for good is asked for again
const SLOWED = { client: 1, after: 3000, step: SPEEDS.indexOf(512e3) }; // what the demo does by itself

export class Hub {
  #tabs = new Map(); // {port: visible}
  #clients = [new Client("A", "drop_oldest"), new Client("B", "drop_oldest"), new Client("C", "conflate")];
  #patience;
  #hiding = 0; // timer: when nobody has looked for long enough
  #slowing = 0; // timer: when the demo slows a client
  #untouched = true; // whether nobody has set that client's speed
  #held = false; // whether somebody has pressed Pause
  #running = false;
  #resting = false; // whether it stopped because nobody looked
  #feed = null;
  #connected = false;
  #history = []; // [{time, memory, owed, behind: [seconds]}]

  // patience: ms without a visible tab after which it lets go.
  constructor(patience) {
    this.#patience = patience;
  }

  join(port) {
    port.onmessage = ({ data }) => this.#obey(port, data);
  }

  #obey(port, { do: what, client, ...rest }) {
    const one = this.#clients[client];
    if (what === "show") this.#show(port, rest.visible);
    else if (what === "bye") this.#show(port, null);
    else if (what === "pause") this.#hold(rest.paused);
    else if (what === "cut") one.cut(rest.seconds);
    else if (what === "again") one.again();
    else if (what === "policy") one.policy = rest.policy;
    else if (what === "speed") {
      if (client === SLOWED.client) this.#untouched = false;
      one.speed = rest.step;
    }
  }

  #show(port, visible) {
    if (visible === null) this.#tabs.delete(port);
    else this.#tabs.set(port, visible);
    if (visible) port.postMessage({ history: this.#history, state: this.#state(null) });
    clearTimeout(this.#hiding);
    if ([...this.#tabs.values()].some(Boolean)) this.#go();
    else this.#hiding = setTimeout(() => this.#rest(true), this.#patience);
  }

  #hold(paused) {
    this.#held = paused;
    if (paused) this.#rest(false);
    else this.#go();
    this.#tell(this.#state(null));
  }

  #go() {
    if (this.#running || this.#held) return;
    this.#running = true;
    this.#listen();
    for (const client of this.#clients) client.start();
    if (this.#untouched && !this.#slowing) {
      this.#slowing = setTimeout(() => {
        if (this.#untouched) this.#clients[SLOWED.client].speed = SLOWED.step;
      }, SLOWED.after);
    }
  }

  #rest(unseen) {
    if (!this.#running) return;
    this.#running = false;
    this.#resting = unseen;
    this.#feed.close();
    this.#connected = false;
    for (const client of this.#clients) client.cut(0, "paused");
  }

  #listen() {
    const feed = (this.#feed = new EventSource("/streams"));
    feed.onopen = () => (this.#connected = true);
    feed.onmessage = ({ data }) => this.#take(JSON.parse(data));
    feed.onerror = () => {
      this.#connected = false;
      this.#tell(this.#state(null));
      if (feed.readyState === EventSource.CLOSED) {
        setTimeout(() => {
          if (this.#feed === feed && this.#running) this.#listen();
        }, RETRY);
      }
    };
  }

  #take(picture) {
    if (!this.#running) return;
    Client.offset = Math.min(Date.now() / 1000 - picture.time, this.#offset ?? Infinity);
    this.#offset = Client.offset;
    const now = Date.now() / 1000 - this.#offset;
    const clients = this.#clients.map((client) => client.update(picture, now));
    const owed = picture.streams.reduce((sum, stream) => sum + stream.owed, 0);
    const point = { time: now, memory: picture.memory, owed, behind: clients.map(({ behind }) => behind) };
    this.#history.push(point);
    if (this.#history.length > POINTS) this.#history.shift();
    this.#tell({ ...this.#state(clients), picture, point });
  }

  #offset = null;

  #state(clients) {
    const reason = this.#held ? "held" : this.#resting && !this.#running ? "unseen" : null;
    return { connected: this.#connected, paused: reason, clients };
  }

  #tell(state) {
    for (const [port, visible] of this.#tabs) if (visible) port.postMessage({ state });
  }
}

// Return a port to the hub that all tabs of this browser share, or to one of this tab's own where
// the browser has no shared workers (Chrome on Android): there only one tab can be seen at a time.
export function connect() {
  if (globalThis.SharedWorker) {
    const { port } = new SharedWorker("/worker.js", { type: "module", name: "flowstream demo" });
    return port;
  }
  const { port1, port2 } = new MessageChannel();
  new Hub(0).join(port1);
  return port2;
}

export { FULL_SPEED };
