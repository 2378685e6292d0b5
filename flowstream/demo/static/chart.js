// Curves of the last minute, in the colours of the page.

/* global uPlot */

const SPAN = 60; // seconds at the most
const SHORTEST = 15; // a curve that has just begun is drawn on a scale of so many

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

  // box: the element to draw in. colours: names of a colour each, which the page's style gives; there is a
  // softer one of each, "-soft". top(max): the upper end of the scale. label(value): text on it; none without.
  constructor(box, { colours, top, label }) {
    const colour = (name) => getComputedStyle(box).getPropertyValue(name).trim();
    const axis = {
      show: Boolean(label),
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
        height: height || 40,
        legend: { show: false },
        cursor: { show: false },
        padding: label ? [6, 16, 0, 0] : [2, 0, 2, 0],
        scales: {
          x: { time: false, range: (_, low, high) => [high - Math.min(SPAN, Math.max(SHORTEST, high - low)), high] },
          y: { range: (_, __, max) => [0, top(max ?? 0)] },
        },
        axes: [
          { ...axis, size: 20, splits: ends, values: (u, splits) => splits.map((x) => ago(x - u.scales.x.max)) },
          {
            ...axis,
            size: 54,
            splits: (u) => [0, 0.5, 1].map((part) => part * u.scales.y.max),
            values: (_, splits) => splits.map((value) => label?.(value) ?? ""),
          },
        ],
        series: [
          {},
          ...colours.map((name, index) => ({
            stroke: () => colour(name),
            fill: index ? undefined : () => colour(`${name}-soft`),
            width: 2,
            points: { show: false },
          })),
        ],
        // What a curve is above the one before it.
        bands: colours.slice(1).map((name, index) => ({
          series: [index + 2, index + 1],
          fill: () => colour(`${name}-soft`),
        })),
      },
      [[], ...colours.map(() => [])],
      box,
    );
    box.chart = this;
    charts.add(this);
    resized.observe(box);
  }

  // times: seconds. curves: for each colour as many values.
  draw(times, curves) {
    this.#plot.setData([times, ...curves]);
  }

  resize(width, height) {
    this.#plot.setSize({ width, height });
  }

  redraw() {
    this.#plot.redraw(false, true);
  }
}

const ends = ({ scales: { x } }) => [x.min, x.max];
const ago = (seconds) => (seconds ? `${Math.round(seconds)} s` : "now");
