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
  #box;

  // box: the element to draw in. points: readings kept. interval: seconds between two.
  // top(max): the upper end of the scale. label(value): text on the scale; none without it.
  constructor(box, { points, interval, top, label }) {
    this.#box = box;
    this.#points = points;
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
        padding: label ? [6, 8, 0, 0] : [2, 0, 0, 0],
        scales: {
          x: { time: false, range: (_, __, max) => [max - points * interval, max] },
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
            splits: (u) => [1, 0.75, 0.5, 0.25, 0].map((part) => u.scales.x.max - part * points * interval * 0.999),
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
