// The answer: a run of the server's, which this page starts, attaches to, and finds again after a
// reload by the id in its address. It is read by the browser's own EventSource.

import { count } from "./format.js";

const MARK = "#answer-";
const USUAL = "exceptions"; // a topic of a minute or so
const RATE = 20; // tokens a second
const KEPT = "answer before the reload"; // in this tab's session storage

const $ = (id) => document.getElementById(id);

export class Answer {
  #events = null;
  #tokens = 0;
  #gap = false;
  #before = null; // tokens that were there before a reload
  #model = null; // what the server says of its language model, if it has one

  constructor() {
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    $("stop-button").addEventListener("click", () => {
      fetch(this.#path(), { method: "DELETE" }).catch(() => {}); // the page says elsewhere that the server has gone
      this.#say(`${this.#words()}. Stopping …`);
    });
    $("reload-button").addEventListener("click", () => location.reload());
    // A hidden tab does without: the browser has few connections, and the run does not mind.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#detach();
      else if (this.#waiting) this.#attach();
    });
  }

  async start() {
    await Promise.allSettled([this.#showTopics(), this.#showModel()]);
    $("ask-button").disabled = false; // not before there is something to ask for
    this.#before = this.#kept();
    if (location.hash.startsWith(MARK)) this.#attach();
    else this.#before = null;
  }

  get #waiting() {
    return $("text").dataset.state === "answering" && this.#events === null;
  }

  #path() {
    return `/answers/${encodeURIComponent(location.hash.slice(MARK.length))}`;
  }

  async #ask() {
    this.#detach();
    const query = this.#model ? { prompt: $("prompt").value } : { topic: $("topic").value, rate: RATE };
    const started = await fetch(`/answers?${new URLSearchParams(query)}`, { method: "POST" }).catch(() => null);
    if (!started?.ok) {
      const { error, message } = (await started?.json().catch(() => null)) ?? {};
      this.#finish(error ?? message ?? "The server can’t be reached; ask again in a moment.");
      return;
    }
    history.replaceState(null, "", MARK + (await started.json()).id);
    this.#before = null;
    this.#attach();
  }

  #attach() {
    this.#detach();
    const text = $("text");
    text.replaceChildren();
    text.dataset.state = "answering";
    this.#tokens = 0;
    this.#gap = false;
    $("stop-button").disabled = $("reload-button").disabled = false;
    if (this.#model && this.#before === null) {
      const given = document.createElement("b");
      given.textContent = $("prompt").value;
      text.append(given);
    }
    const events = (this.#events = new EventSource(this.#path()));
    const body = ({ data }) => JSON.parse(data);
    events.onmessage = (event) => this.#take(body(event));
    events.addEventListener("gap", () => {
      this.#gap = true;
    });
    events.addEventListener("end", (event) => this.#finish(this.#sentence(body(event).reason)));
    events.addEventListener("failed", (event) => this.#finish(`It failed: ${body(event).message}`));
    // It also fires as the page is left: what is kept must stay.
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) this.#finish("This answer is over and no longer kept. Ask again.");
    };
  }

  #detach() {
    this.#events?.close();
    this.#events = null;
  }

  #take({ type, data }) {
    if (type !== "token") return;
    const text = $("text");
    this.#tokens += 1;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    text.append(data);
    if (atEnd) text.scrollTop = text.scrollHeight;
    this.#keep(this.#tokens);
    this.#say(`${this.#words()} so far.`);
  }

  #words() {
    const now = `${count(this.#tokens)} tokens`;
    if (this.#before === null) return now;
    const whole = this.#gap ? "some are missing" : "none is missing";
    return `Reloaded at token ${count(this.#before)}, attached again, ${whole}: ${now}`;
  }

  #sentence(reason) {
    this.#keep(null);
    if (reason === "completed") return `${this.#words()}. Done.`;
    return `${this.#words()}. Stopped; its producer was cancelled.`;
  }

  #finish(sentence) {
    this.#detach();
    $("text").dataset.state = "over";
    $("stop-button").disabled = true;
    this.#say(sentence);
  }

  #say(sentence) {
    $("answer-state").textContent = sentence;
  }

  // Note how far it is. With every token: what is written as a page goes may be lost.
  #keep(tokens) {
    try {
      if (tokens === null) sessionStorage.removeItem(KEPT);
      else sessionStorage.setItem(KEPT, tokens);
    } catch {
      // No storage: the page only can't say where it was reloaded.
    }
  }

  #kept() {
    try {
      const kept = sessionStorage.getItem(KEPT);
      return kept === null ? null : Number(kept);
    } catch {
      return null;
    }
  }

  async #showModel() {
    this.#model = await json("/model");
    $("prompt-field").hidden = !this.#model;
    $("topic-field").hidden = Boolean(this.#model);
    $("prompt").disabled = !this.#model; // else the form would ask for it
    if (!this.#model) return;
    $("model-name").textContent = this.#model.name;
    $("prompt").value = this.#model.beginning;
  }

  async #showTopics() {
    const topics = (await json("/topics")) ?? [USUAL];
    $("topic").replaceChildren(...topics.map((topic) => new Option(topic)));
    $("topic").value = USUAL;
  }
}

async function json(path) {
  try {
    return await (await fetch(path)).json();
  } catch {
    return null; // the server has gone, which the page says elsewhere
  }
}
