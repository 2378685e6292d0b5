// The table of every stream of the server: this page's, other browsers', and curl's.

import { age, bytes, count, seconds } from "./format.js";

const COLUMNS = 10;
const NUMBERS_FROM = 4; // the first column of numbers

export class StreamTable {
  #body = document.getElementById("all");
  #cursors = document.getElementById("cursors");
  #rows = new Map(); // {number of a stream: its row}

  update({ streams, cursors }) {
    this.#cursors.textContent = `${cursors.open} (of ${count(cursors.opened)} opened so far)`;
    for (const stream of streams) this.#show(stream);
    const numbers = new Set(streams.map(({ number }) => number));
    for (const [number, row] of this.#rows) {
      if (numbers.has(number)) continue;
      row.remove();
      this.#rows.delete(number);
    }
    // Put into order, moving as little as possible: a moved row loses its selection.
    streams.forEach(({ number }, index) => {
      const row = this.#rows.get(number);
      if (this.#body.rows[index] !== row) this.#body.insertBefore(row, this.#body.rows[index] ?? null);
    });
  }

  #show(stream) {
    const { number, client, path, policy, state, reason, buffer } = stream;
    const row = this.#rows.get(number) ?? this.#make(number);
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

  #make(number) {
    const row = document.createElement("tr");
    for (let index = 0; index < COLUMNS; index += 1) {
      const cell = document.createElement("td");
      if (index >= NUMBERS_FROM) cell.className = "number";
      row.append(cell);
    }
    this.#rows.set(number, row);
    return row;
  }
}
