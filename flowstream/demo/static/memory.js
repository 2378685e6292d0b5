// The panel of the server's memory: what it holds, and what unbounded queues would hold by now.

import { Chart } from "./chart.js";
import { bytes } from "./format.js";

const STEP = 20e6; // bytes that the scale is rounded up to

export class MemoryPanel {
  #chart;
  #memory = document.getElementById("memory");
  #would = document.getElementById("would");
  #owed = document.getElementById("owed");
  #buffered = document.getElementById("buffered");

  constructor() {
    this.#chart = new Chart(document.getElementById("memory-chart"), {
      colours: ["--accent", "--slow"],
      top: (max) => Math.max(4 * STEP, Math.ceil((max * 1.15) / STEP) * STEP),
      label: (value) => (value ? bytes(value) : "0"),
    });
  }

  curve(history) {
    const times = history.map(({ time }) => time);
    const memory = history.map((point) => point.memory);
    const would = history.map((point) => (point.memory === null ? null : point.memory + point.owed));
    this.#chart.draw(times, [memory, would]);
  }

  update({ memory, streams }, { owed }) {
    const open = streams.filter(({ state }) => state !== "closed");
    this.#memory.textContent = bytes(memory);
    this.#would.textContent = memory === null ? bytes(owed) : bytes(memory + owed);
    this.#owed.textContent = bytes(owed);
    this.#buffered.textContent = bytes(open.reduce((sum, { buffer }) => sum + buffer.bytes, 0));
  }
}
