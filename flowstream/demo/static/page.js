// The page: who takes a connection, and what the server says four times a second.

import { Chart } from "./chart.js";
import { Client, FULL_SPEED, POLICIES, SPEEDS } from "./client.js";
import { age, bytes, count, seconds } from "./format.js";

const CONNECTIONS = 6; // to one host over HTTP/1.1, in every browser
const RETRY = 2000; // ms until a feed that was refused is asked for again

const $ = (id) => document.getElementById(id);
const started = performance.now();
const now = () => (performance.now() - started) / 1000;
// Several pages may be open: their clients have different names.
const session = Math.random().toString(36).slice(2, 7);

// Clients

const clients = new Set();
let made = 0;

function addClient({ policy, buffer, rate, stall, speed }) {
  const name = made < 26 ? String.fromCharCode(65 + made) : `Z${made - 25}`;
  made += 1;
  const options = { id: `${session}-${name}`, name, policy, buffer, rate, stall, speed };
  const client = new Client($("card"), options, showConnections, (gone) => {
    clients.delete(gone);
    gone.remove();
    showConnections();
    $("start-button").focus();
  });
  clients.add(client);
  client.start($("cards"));
  showConnections();
}

function describePolicy() {
  $("policy-note").textContent = POLICIES[$("policy").value];
}

for (const policy of Object.keys(POLICIES)) $("policy").add(new Option(policy));
$("policy").value = "drop_oldest";
$("policy").addEventListener("change", describePolicy);
describePolicy();

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  addClient({
    policy: $("policy").value,
    buffer: Number($("buffer").value),
    rate: Number($("rate").value),
    stall: Number($("stall").value),
    speed: FULL_SPEED,
  });
});

// Connections: the browser would make a seventh wait without a word.

function showConnections() {
  let used = 1; // /streams
  if (machine.open) used += 1;
  if (asking) used += 1;
  for (const client of clients) if (client.connected) used += 1;
  const free = Math.max(0, CONNECTIONS - used);
  $("connections-text").textContent = `${used} of ${CONNECTIONS} connections in use`;
  const dots = $("connections");
  dots.replaceChildren();
  for (let index = 0; index < CONNECTIONS; index += 1) {
    const dot = document.createElement("i");
    dot.dataset.state = index < used ? "used" : "free";
    dots.append(dot);
  }
  $("free-text").textContent = free
    ? `${free} ${free === 1 ? "is" : "are"} free.`
    : "none is free: abort a client or stop the feed of the machine first.";
  $("start-button").disabled = free === 0;
  $("tokens-button").disabled = free === 0 && !asking;
  $("system-toggle").disabled = free === 0 && !machine.open;
}

// A feed: an EventSource that is made anew when the server refused it for good.

class Feed {
  #path;
  #take;
  #state;
  #source = null;
  #timer = 0;

  constructor(path, take, state) {
    this.#path = path;
    this.#take = take;
    this.#state = state;
  }

  get open() {
    return this.#source !== null;
  }

  start() {
    this.#source = new EventSource(this.#path);
    this.#source.onopen = () => this.#state("open");
    this.#source.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.#source.onerror = () => {
      this.#state("lost");
      if (this.#source.readyState === EventSource.CLOSED) {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.start(), RETRY);
      }
    };
  }

  stop() {
    clearTimeout(this.#timer);
    this.#source.close();
    this.#source = null;
  }
}

// What the server says of its streams

const memoryChart = new Chart($("memory-chart"), {
  points: 480,
  interval: 0.25,
  top: (max) => Math.max(20e6, Math.ceil((max * 1.3) / 20e6) * 20e6),
  label: (value) => (value ? bytes(value) : "0"),
});
const rows = new Map();
let before = { time: 0, bytes: new Map() };

function showStreams({ memory, cursors, streams }) {
  const time = now();
  // Those at work come first, and the first of a name counts.
  const mine = new Map([...streams].reverse().map((stream) => [stream.client, stream]));
  for (const client of clients) client.update(mine.get(client.id) ?? null, time);

  $("memory").textContent = bytes(memory);
  if (memory !== null) memoryChart.add(time, memory);
  const open = streams.filter(({ state }) => state !== "closed");
  $("open-streams").textContent = count(open.length);
  $("buffered").textContent = bytes(open.reduce((sum, { buffer }) => sum + buffer.bytes, 0));
  $("cursors").textContent = `${cursors.open} (of ${count(cursors.opened)} opened so far)`;

  const sent = new Map(streams.map(({ number, bytes }) => [number, bytes]));
  let fresh = 0;
  for (const [number, total] of sent) fresh += Math.max(0, total - (before.bytes.get(number) ?? total));
  if (time > before.time) $("throughput").textContent = bytes(Math.round(fresh / (time - before.time)));
  before = { time, bytes: sent };
  showTable(streams);
}

function showTable(streams) {
  const seen = new Set();
  for (const stream of streams) {
    const { number, client, path, policy, state, reason, buffer } = stream;
    seen.add(number);
    let row = rows.get(number);
    if (!row) {
      row = document.createElement("tr");
      for (let index = 0; index < 10; index += 1) {
        const cell = document.createElement("td");
        if (index > 3) cell.className = "number";
        row.append(cell);
      }
      rows.set(number, row);
    }
    row.dataset.state = state;
    const texts = [
      client,
      path,
      policy,
      reason ?? state,
      `${count(buffer.items)} / ${count(buffer.max_items)}`,
      count(stream.items),
      bytes(stream.bytes),
      count(stream.dropped),
      state === "closed" ? "" : seconds(stream.sending_for),
      age(stream.duration),
    ];
    texts.forEach((text, index) => {
      if (row.cells[index].textContent !== text) row.cells[index].textContent = text;
    });
  }
  for (const [number, row] of rows) {
    if (!seen.has(number)) {
      row.remove();
      rows.delete(number);
    }
  }
  // Put into order, moving as little as possible: a moved row loses its selection.
  streams.forEach(({ number }, index) => {
    const row = rows.get(number);
    if ($("all").rows[index] !== row) $("all").insertBefore(row, $("all").rows[index] ?? null);
  });
}

function showServer(state) {
  const badge = $("server-state");
  badge.dataset.state = state === "open" ? "open" : "ended";
  badge.textContent = state === "open" ? "connected" : "server not reached, trying again …";
  if (state !== "open") for (const client of clients) client.update(null, now());
}

// This machine

const percent = { points: 120, interval: 1, top: () => 100, label: (value) => `${value} %` };
const cpuChart = new Chart($("cpu-chart"), percent);
const machineChart = new Chart($("machine-chart"), percent);

function showMachine({ cpu, cpus, memory_used: used, memory_total: total, load }) {
  $("cpu").textContent = cpu === null ? "–" : `${cpu.toFixed(0)} % of ${cpus}`;
  if (cpu !== null) cpuChart.add(now(), cpu);
  $("machine-memory").textContent = total === null ? "unknown" : `${bytes(used)} of ${bytes(total)}`;
  if (total !== null) machineChart.add(now(), (100 * used) / total);
  $("load").textContent = load === null ? "unknown" : load.map((value) => value.toFixed(2)).join(", ");
}

const machine = new Feed("/system", showMachine, () => {});

$("system-toggle").addEventListener("click", () => {
  if (machine.open) machine.stop();
  else machine.start();
  $("system-toggle").textContent = machine.open ? "Stop the feed" : "Start the feed";
  showConnections();
});

// Tokens

let asking = null;
let model = null; // what the server says of its language model, if it has one

// Read the answer to `query`; it is a text that `beginning` stands in front of.
async function ask(query, beginning, signal) {
  const response = await fetch(`/tokens?${query}`, { signal, cache: "no-store" });
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw new Error(error ?? `the server answered ${response.status}`);
  }
  const text = $("text");
  text.textContent = "";
  if (beginning) {
    const given = document.createElement("b");
    given.textContent = beginning;
    text.append(given);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let tokens = 0;
  let first = 0; // when the first token came
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    let fresh = "";
    for (const line of lines) {
      if (!line) continue; // a heartbeat
      const { type, data } = JSON.parse(line);
      if (type === "token") {
        first ||= now();
        fresh += data;
        tokens += 1;
      } else if (type === "failed") throw new Error(data.message);
      else if (type === "done") {
        const pace = tokens > 1 ? ` ${count(Math.round((tokens - 1) / (now() - first)))} a second.` : "";
        $("tokens-state").textContent = `${count(tokens)} tokens, done.${pace}`;
      }
    }
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    text.append(fresh);
    if (atEnd) text.scrollTop = text.scrollHeight;
  }
}

$("tokens").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (asking) {
    asking.abort();
    return;
  }
  asking = new AbortController();
  $("tokens-button").textContent = "Abort";
  $("tokens-state").textContent = "reading …";
  showConnections();
  const prompt = $("prompt").value;
  const query = model ? { prompt } : { topic: $("topic").value, rate: $("token-rate").value };
  try {
    await ask(new URLSearchParams(query), model ? prompt : "", asking.signal);
  } catch (error) {
    if (error.name === "AbortError") $("tokens-state").textContent = "Aborted; its producer was cancelled.";
    else if (error instanceof TypeError) $("tokens-state").textContent = "The connection was lost.";
    else $("tokens-state").textContent = `It failed: ${error.message}`;
  }
  asking = null;
  $("tokens-button").textContent = "Ask";
  showConnections();
});

async function showModel() {
  try {
    model = await (await fetch("/model")).json();
  } catch {
    model = null; // the server has gone, which the page says elsewhere
  }
  $("prompt-field").hidden = !model;
  $("topic-field").hidden = $("rate-field").hidden = Boolean(model);
  $("prompt").disabled = !model; // else the form would ask for it
  if (!model) return;
  $("model-name").textContent = model.name;
  $("prompt").value = model.beginning;
  $("tokens-state").textContent = "A language model in this server’s own process: /tokens?prompt=…";
}

async function showTopics() {
  try {
    const topics = await (await fetch("/topics")).json();
    $("topic").replaceChildren(...topics.map((topic) => new Option(topic)));
    $("topic").value = "lambda";
  } catch {
    $("topic").replaceChildren(new Option("lambda"));
  }
}

// Commands

for (const command of [
  `curl -N ${location.origin}/rows.ndjson`,
  `curl -N --limit-rate 100k -o rows.csv ${location.origin}/rows.csv`,
]) {
  const item = document.createElement("li");
  const code = document.createElement("code");
  code.textContent = command;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", `Copy: ${command}`);
  copy.hidden = !navigator.clipboard; // there is none on an insecure origin
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command).then(
      () => (copy.textContent = "Copied"),
      () => (copy.textContent = "Not allowed"),
    );
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  item.append(code, copy);
  $("commands").append(item);
}

// Everything at once: three clients, so that there is something to see.

await Promise.all([showTopics(), showModel()]);
new Feed("/streams", showStreams, showServer).start();
machine.start();
addClient({ policy: "block", buffer: 64, rate: 200, stall: 30, speed: FULL_SPEED });
addClient({ policy: "drop_oldest", buffer: 64, rate: 200, stall: 30, speed: SPEEDS.indexOf(512e3) });
addClient({ policy: "conflate", buffer: 64, rate: 200, stall: 30, speed: SPEEDS.indexOf(512e3) });
