// The page: it shows what the hub tells it, and tells the hub what its visitor does.

import { Answer } from "./answer.js";
import { Card } from "./card.js";
import { showCommands } from "./commands.js";
import { connect } from "./hub.js";
import { MemoryPanel } from "./memory.js";
import { StreamTable } from "./table.js";

const POINTS = 240; // of the curves: a minute

const EVERY = 2; // pictures for which the curves are drawn once

const $ = (id) => document.getElementById(id);
const hub = connect();
const memory = new MemoryPanel();
const table = new StreamTable();
const cards = ["A", "B", "C"].map(
  (name, client) => new Card($("cards"), $("card"), name, (what, rest) => hub.postMessage({ do: what, client, ...rest })),
);
let points = []; // what the curves show
let turn = 0; // of EVERY
let paused = null; // why it is paused: "held" by the visitor, "unseen", or null

const show = (visible) => hub.postMessage({ do: "show", visible });

hub.onmessage = ({ data: { history, state } }) => {
  if (history) {
    points = history;
    draw();
  }
  showState(state);
  if (state.clients) state.clients.forEach((client, index) => cards[index].update(client));
  if (!state.picture) return;
  if (points.at(-1)?.time !== state.point.time) points.push(state.point);
  if (points.length > POINTS) points.shift();
  memory.update(state.picture, state.point);
  table.update(state.picture);
  turn = (turn + 1) % EVERY;
  if (turn === 0) draw();
};

function draw() {
  memory.curve(points);
  const times = points.map(({ time }) => time);
  cards.forEach((card, index) =>
    card.curve(
      times,
      points.map(({ behind }) => behind[index]),
    ),
  );
}

function showState({ connected, paused: reason }) {
  paused = reason;
  const badge = $("server-state");
  const [state, text] = reason
    ? ["away", reason === "held" ? "paused" : "paused while nobody looked"]
    : connected
      ? ["open", "live"]
      : ["ended", "server not reached, trying again …"];
  badge.dataset.state = state;
  if (badge.textContent !== text) badge.textContent = text;
  $("pause").textContent = reason === "held" ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", reason === "held");
}

$("pause").addEventListener("click", () => hub.postMessage({ do: "pause", paused: paused !== "held" }));
document.addEventListener("visibilitychange", () => show(!document.hidden));
addEventListener("pagehide", () => hub.postMessage({ do: "bye" }));
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) show(true);
});

showCommands($("commands"));
new Answer().start();
show(!document.hidden);
