"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const tokens = data.tokens, count = tokens.length;
const byId = (id) => document.getElementById(id);
// Row i holds i + 1 weights: token i looks at itself and at those before it.
const decoded = data.layers.map((heads) => heads.map((text) =>
  Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))));
const weight = (head, i, j) => (j > i ? 0 : head[(i * (i + 1)) / 2 + j] / 255);
// The square root shows small weights beside large ones.
const shade = (w) => {
  const s = Math.sqrt(w);
  return `rgb(${Math.round(255 - 247 * s)},${Math.round(255 - 186 * s)},${Math.round(255 - 107 * s)})`;
};
let [layer, head] = data.chosen;
let pointed = -1;

function draw(canvas, map, cell, left, top) {
  const context = canvas.getContext("2d");
  for (let i = 0; i < count; i++) for (let j = 0; j <= i; j++) {
    context.fillStyle = shade(weight(map, i, j));
    context.fillRect(left + j * cell, top + i * cell, cell, cell);
  }
}

const cell = Math.max(2, Math.min(18, Math.floor(480 / count)));
const margin = cell >= 9 ? 90 : 0;  // room for labels, where they can be read

function drawLarge() {
  const canvas = byId("map"), side = count * cell, scale = window.devicePixelRatio || 1;
  canvas.width = (side + margin) * scale;
  canvas.height = (side + margin) * scale;
  canvas.style.width = `${side + margin}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  context.fillStyle = colour("--quiet");
  context.fillRect(margin, margin, side, side);
  draw(canvas, decoded[layer][head], cell, margin, margin);
  if (!margin) return;
  context.font = `${Math.min(12, cell + 2)}px ui-monospace, "DejaVu Sans Mono", monospace`;
  context.textBaseline = "middle";
  tokens.forEach((token, i) => {
    const middle = margin + (i + 0.5) * cell, shown = token.length > 11 ? `${token.slice(0, 10)}\u2026` : token;
    context.fillStyle = i === pointed ? "#d35400" : colour("--ink");
    context.textAlign = "right";
    context.fillText(shown, margin - 5, middle);
    context.save();
    context.translate(middle, margin - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(shown, 0, 0);
    context.restore();
  });
}

function point(i) {
  pointed = i;
  const map = decoded[layer][head], spans = byId("text").children;
  for (let j = 0; j < count; j++) {
    const w = i < 0 ? 0 : weight(map, i, j);
    spans[j].style.background = i < 0 ? "" : shade(w);
    spans[j].style.color = i < 0 ? "" : w > 0.35 ? "#fff" : "#222"; // the shades are those of a light page
    spans[j].classList.toggle("on", j === i);
  }
  const most = [...tokens.keys()].slice(0, i + 1).sort((a, b) => weight(map, i, b) - weight(map, i, a)).slice(0, 3);
  const looks = most.map((j) => `“${tokens[j]}” ${weight(map, i, j).toFixed(2)}`).join(",  ");
  byId("where").textContent = `Layer ${layer}, head ${head}.` + (i < 0 ? "" : ` “${tokens[i]}” looks at  ${looks}`);
  drawLarge();
}

tokens.forEach((token, i) => {
  const span = document.createElement("span");
  span.className = "token";
  span.tabIndex = 0;
  span.textContent = token.replaceAll("\u00b7", " ").replaceAll("\u21b5", "\u21b5\n");
  span.onmouseenter = span.onfocus = () => point(i);
  byId("text").append(span);
});
decoded.forEach((heads, l) => {
  const row = document.createElement("div"), name = document.createElement("b");
  row.className = "layer";
  name.textContent = `layer ${l}`;
  row.append(name);
  heads.forEach((map, h) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = count;
    draw(canvas, map, 1, 0, 0);
    button.title = `layer ${l}, head ${h}`;
    button.setAttribute("aria-label", button.title);
    button.append(canvas);
    button.onclick = () => {
      document.querySelector(".layer button.on")?.classList.remove("on");
      button.classList.add("on");
      [layer, head] = [l, h];
      point(pointed);
    };
    if (l === layer && h === head) button.classList.add("on");
    row.append(button);
  });
  byId("heads").append(row);
});
byId("map").onmousemove = (event) => {
  const i = Math.floor((event.offsetY - margin) / cell), j = Math.floor((event.offsetX - margin) / cell);
  if (i < 0 || i >= count || j < 0 || j > i) return;
  if (i !== pointed) point(i);
  byId("where").textContent = `Layer ${layer}, head ${head}. “${tokens[i]}” looks at “${tokens[j]}”: `
    + weight(decoded[layer][head], i, j).toFixed(2);
};
matchMedia("(prefers-color-scheme: dark)").onchange = () => point(pointed);
point(count - 1);
