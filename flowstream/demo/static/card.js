// A card: what one client has to show, and the controls that act on it.

import { Chart } from "./chart.js";
import { SPEEDS } from "./client.js";
import { bytes, count, seconds } from "./format.js";
import { CODE_AFTER, POLICIES, codeBefore } from "./policies.js";

const SHORT = 1; // seconds: within the replay
const LONG = 8; // beyond it
const LATE = 1; // seconds behind from which a client counts as slow

const speedText = (speed) => (speed === 0 ? "nothing" : speed === Infinity ? "full speed" : `${bytes(speed)}/s`);

export class Card {
  #part = {};
  #card;
  #spark;
  #name;

  // send(what, rest) has the hub do something with this client.
  constructor(parent, template, name, send) {
    this.#name = name;
    this.#card = template.content.firstElementChild.cloneNode(true);
    for (const element of this.#card.querySelectorAll("[data-part]")) this.#part[element.dataset.part] = element;
    const title = this.#card.querySelector("h2");
    title.id = `client-${name}`;
    title.textContent = name;
    this.#card.setAttribute("aria-labelledby", title.id);
    this.#card.dataset.client = name;
    parent.append(this.#card);

    const { speed, policy, meter, after } = this.#part;
    speed.max = SPEEDS.length - 1;
    speed.id = `speed-${name}`;
    this.#card.querySelector("label").htmlFor = speed.id;
    speed.setAttribute("aria-label", `Client ${name} reads at`);
    speed.addEventListener("input", () => {
      this.#showSpeed(Number(speed.value));
      send("speed", { step: Number(speed.value) });
    });
    policy.setAttribute("aria-label", `Policy of client ${name}`);
    for (const [value, [code]] of Object.entries(POLICIES)) policy.add(new Option(code, value));
    policy.addEventListener("change", () => send("policy", { policy: policy.value }));
    after.textContent = CODE_AFTER;
    meter.setAttribute("aria-label", `Buffer of client ${name}, events`);

    this.#button("short", `Cut the connection of client ${name} for 1 second`, () => send("cut", { seconds: SHORT }));
    this.#button("long", `Cut the connection of client ${name} for 8 seconds`, () => send("cut", { seconds: LONG }));
    this.#button("again", `Connect client ${name} again`, () => send("again", {}));
    this.#spark = new Chart(this.#part.spark, { colours: ["--curve"], top: (max) => Math.max(8, max * 1.1) });
  }

  #button(part, label, act) {
    this.#part[part].setAttribute("aria-label", label);
    this.#part[part].addEventListener("click", act);
  }

  curve(times, behind) {
    this.#spark.draw(times, [behind]);
  }

  update(client) {
    const part = this.#part;
    const [, explained] = POLICIES[client.policy];
    const late = (client.behind ?? 0) >= LATE;
    this.#card.dataset.late = late;
    set(part.behind, client.behind === null ? "–" : seconds(client.behind));
    const [state, text] = stateOf(client, late);
    part.state.dataset.state = state;
    set(part.state, text);
    set(part.before, codeBefore(client.policy));
    if (document.activeElement !== part.policy) part.policy.value = client.policy;
    set(part.published, count(client.published));
    set(part.received, count(client.received));
    set(part.missed, count(client.missed));
    set(part.flight, count(client.inFlight));
    part.sum.dataset.adds = client.adds;
    set(part.said, saidOf(client) ?? explained);
    part.said.dataset.news = client.adds ? saidOf(client) !== null : "bad";
    part.meter.setAttribute("aria-valuemax", client.room);
    part.meter.setAttribute("aria-valuenow", client.queued);
    part.fill.style.width = `${Math.min(100, (100 * client.queued) / client.room)}%`;
    set(part.level, `${count(client.queued)} of ${count(client.room)}`);
    if (document.activeElement !== part.speed) this.#showSpeed(client.step);
    const ended = client.phase === "ended";
    part.again.hidden = !ended;
    part.short.hidden = part.long.hidden = ended;
    part.short.disabled = part.long.disabled = client.phase !== "open";
  }

  #showSpeed(step) {
    const { speed, "speed-text": output } = this.#part;
    speed.value = step;
    const text = speedText(SPEEDS[step]);
    if (output.value !== text) output.value = text;
    speed.setAttribute("aria-valuetext", text);
  }
}

// What to say of a client's connection, and in which colour.
function stateOf({ phase, why, back, parked, step }, late) {
  if (phase === "cut") return ["away", `cut off, back in ${Math.ceil(back)} s`];
  if (phase === "paused") return ["away", "paused"];
  if (phase === "lost") return ["away", why ? `${why}; trying again` : "connection lost; trying again"];
  if (phase === "ended") return ["ended", `ended by the server: ${why}`];
  if (phase !== "open") return ["waiting", "connecting …"];
  if (parked >= LATE) return ["late", `takes nothing for ${seconds(parked)}`];
  if (late) return ["late", Number.isFinite(SPEEDS[step]) ? "reads slowly" : "catches up"];
  return ["open", "keeps up"];
}

// What became of the client when it came back, or why its numbers can't be believed; else null.
function saidOf({ comeback, adds }) {
  if (!adds) return "✗ The numbers do not add up. That is a fault: please tell us.";
  if (!comeback) return null;
  const { away, replayed, missed } = comeback;
  const told = missed ? `${count(missed)} missed, told in a gap` : "nothing missed";
  const again = replayed || !missed ? `${count(replayed)} events replayed, ` : "";
  return `Back after ${seconds(away)}: ${again}${told}.`;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
