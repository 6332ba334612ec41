"use strict";
// What the pages' charts share: colours, the theme of the screen, sizes.
// Okabe and Ito's, which the colour-blind can tell apart; of their two blues that which the theme shows well.
const COLOURS = ["#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00"];
const charts = [];
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = matchMedia("(max-width: 40rem)");
const fixed = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);

// option(axis, text) gives an ECharts option; axis is what all axes share, text the colour of text.
function chart(id, label, option) {
  const element = document.getElementById(id);
  if (!element) return;
  const made = echarts.init(element, null, { renderer: "canvas" });
  const draw = () => {
    const text = css("--text"), line = css("--line");
    COLOURS[1] = css("--blue");
    const axis = { axisLine: { lineStyle: { color: line } }, axisLabel: { color: text }, nameTextStyle: { color: text },
      splitLine: { lineStyle: { color: line, opacity: .5 } }, nameLocation: "middle", nameGap: 32 };
    made.setOption({ animation: false, backgroundColor: "transparent", textStyle: { color: text },
      aria: { enabled: true, label: { description: label } }, ...option(axis, text) }, true);
  };
  draw();
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  charts.push({ made, draw });
}

// A table that continues to the right fades there: else a cut number reads like a whole one.
for (const frame of document.querySelectorAll(".scroll")) {
  const fade = () => frame.classList.toggle("more", frame.scrollWidth - frame.scrollLeft - frame.clientWidth > 1);
  frame.addEventListener("scroll", fade);
  new ResizeObserver(fade).observe(frame);
}

addEventListener("resize", () => charts.forEach(({ made }) => made.resize()));
for (const media of [matchMedia("(prefers-color-scheme: dark)"), narrow]) media.addEventListener("change", () => charts.forEach(({ draw }) => draw()));
addEventListener("beforeprint", () => charts.forEach(({ made, draw }) => { made.resize({ width: Math.min(680, made.getWidth()) }); draw(); }));
addEventListener("afterprint", () => charts.forEach(({ made, draw }) => { made.resize({ width: "auto" }); draw(); }));
