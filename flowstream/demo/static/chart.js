// A curve of the last so many readings, in the colours of the page.

/* global uPlot */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (contentRect.width) target.chart?.resize(contentRect.width, contentRect.height);
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.redraw();
});

export class Chart {
  #plot;
  #x = [];
  #y = [];
  #points;
  #interval;
  #box;

  // box: the element to draw in. points: readings kept. interval: seconds between two of them.
  // top(max): the upper end of the scale. label(value): text on the scale; none without it.
  constructor(box, { points, interval, top, label }) {
    this.#box = box;
    this.#points = points;
    this.#interval = interval;
    const axis = {
      stroke: () => colour("--muted"),
      grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      gap: 4,
    };
    const { width, height } = box.getBoundingClientRect();
    this.#plot = new uPlot(
      {
        width: width || 300,
        height: height || 60,
        legend: { show: false },
        cursor: { show: false },
        padding: label ? [6, 16, 0, 0] : [2, 0, 0, 0],
        scales: {
          x: { time: false, range: () => this.#span() },
          y: { range: (_, __, max) => [0, top(max ?? 0)] },
        },
        axes: [
          {
            ...axis,
            show: Boolean(label),
            size: 22,
            values: (u, splits) => {
              const now = u.scales.x.max;
              return splits.map((x) => (x === now ? "now" : `${Math.round(x - now)} s`));
            },
            splits: (u) => [1, 0.5, 0].map((part) => u.scales.x.max - part * (u.scales.x.max - u.scales.x.min)),
          },
          {
            ...axis,
            show: Boolean(label),
            size: 58,
            splits: (u) => [0, 0.5, 1].map((part) => part * u.scales.y.max),
            values: (_, splits) => splits.map((value) => label?.(value) ?? ""),
          },
        ],
        series: [
          {},
          {
            stroke: () => colour("--accent"),
            fill: () => colour("--accent-soft"),
            width: 1.5,
            points: { show: false },
          },
        ],
      },
      [[], []],
      box,
    );
    box.chart = this;
    charts.add(this);
    resized.observe(box);
  }

  add(x, y) {
    this.#x.push(x);
    this.#y.push(y);
    if (this.#x.length > this.#points) {
      this.#x.shift();
      this.#y.shift();
    }
    this.#plot.setData([this.#x, this.#y]);
  }

  // A short curve is drawn wide: it need not fill its minutes before it can be seen.
  #span() {
    const last = this.#x.at(-1) ?? 0;
    const seen = last - (this.#x[0] ?? 0);
    return [last - Math.max(seen, (this.#points * this.#interval) / 4), last];
  }

  resize(width, height) {
    this.#plot.setSize({ width, height });
  }

  redraw() {
    this.#plot.redraw(false, true);
  }

  remove() {
    charts.delete(this);
    resized.unobserve(this.#box);
    this.#plot.destroy();
  }
}
