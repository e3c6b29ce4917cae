// Charts: uPlot (MIT, packaged beside this file) in the page's colours.

import { h } from "/page/dom.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];

const axis = (more) => ({
  stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 },
  font: "12px system-ui, sans-serif", ...more,
});

/**
 * A chart that is as wide as its place. `label` says in words what it shows, for those who do not
 * see it; `data` is uPlot's: the x values and then the values of each series.
 */
export function chart({ label, data, series, height = 240, scales = {}, x = {}, y = {}, right = null, hooks = {} }) {
  const place = h("div", { class: "chart", role: "img", "aria-label": label });
  const options = (width) => ({
    width, height, scales, hooks,
    legend: { show: true, live: false },
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    axes: [axis({ size: 34, ...x }), axis({ size: 52, ...y }), ...(right ? [axis({ side: 1, size: 52, grid: { show: false }, ...right })] : [])],
    series: [{}, ...series.map((one) => ({ width: 2, points: { show: data[0].length < 3 }, ...one, stroke: css(one.colour), fill: one.filled ? css(one.colour) : undefined }))],
  });
  let made = null;
  const draw = (width) => {
    made?.destroy();
    made = new uPlot(options(width), data, place);
  };
  new ResizeObserver(([seen]) => {
    const width = Math.floor(seen.contentRect.width);
    if (!place.isConnected || width < 50) return;
    if (made && made.width === width) return;
    draw(width);
  }).observe(place);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => { if (place.isConnected && made) draw(made.width); });
  return { element: place, redraw: () => made?.redraw(false) };
}

/** A line across the chart at an x value, as a hook for `draw`. */
export const markAt = (at) => (u) => {
  const left = Math.round(u.valToPos(at(), "x", true)) + 0.5;
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = css("--text");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(left, bbox.top);
  ctx.lineTo(left, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
};
