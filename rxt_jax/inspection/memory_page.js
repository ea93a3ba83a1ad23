"use strict";
const D = JSON.parse(document.getElementById("trace").textContent), L = D.layers, S = D.slots, I = D.turns.length;
const NAMES = {erase: "erase", freeze: "freeze", swap: "swap", read: "read by the answer", gate: "gate", change: "change by the write",
  distance: "distance from empty"};
const host = document.getElementById("memory"), unpacked = new Map();
let turn = 0, shown = "erase", token = -1, cell = 0;

function el(name, attributes = {}, ...children) {
  const made = ["svg", "rect", "text", "title", "g"].includes(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function bytes(text) {
  if (!unpacked.has(text)) unpacked.set(text, Uint8Array.from(atob(text), (each) => each.charCodeAt(0)));
  return unpacked.get(text);
}
function values() {
  const t = D.turns[turn];
  if (token >= 0 && t.reading) {
    const all = bytes(t.reading), start = token * L * S;
    return Array.from(all.slice(start, start + L * S), (each) => each / 255);
  }
  return (t.maps[shown] || []).flat();
}
function number(value) { return value === undefined ? "–" : Math.abs(value) < 0.0005 && value ? value.toExponential(1) : value.toFixed(3); }

function drawMap() {
  const given = values(), most = Math.max(1e-9, ...given.map(Math.abs)), across = Math.min(S, 32), size = 20;
  const high = Math.ceil(S / across) * size + 20, box = el("svg", {class: "map", tabindex: "0", role: "group",
    "aria-label": "Slots of all layers; arrow keys move", width: across * size + 4, height: L * high,
    viewBox: `-2 0 ${across * size + 4} ${L * high}`});
  for (let place = 0; place < L * S; place++) {
    const layer = Math.floor(place / S), slot = place % S, value = given[place] || 0;
    if (slot === 0) box.append(el("text", {x: 0, y: layer * high + 13}, `layer ${layer}` + layerNote(layer)));
    const square = el("rect", {x: slot % across * size, y: layer * high + 18 + Math.floor(slot / across) * size, width: size, height: size,
      fill: value < 0 ? "var(--less)" : "var(--more)", "fill-opacity": (Math.abs(value) / most).toFixed(3)});
    square.append(el("title", {}, `layer ${layer}, slot ${slot}: ${number(value)}`));
    if (place === cell) square.classList.add("here");
    square.addEventListener("click", () => { cell = place; draw(); });
    box.append(square);
  }
  box.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across}[event.key];
    if (!step) return;
    event.preventDefault();
    cell = Math.min(Math.max(cell + step, 0), L * S - 1);
    draw(".map");
  });
  return [box, most];
}
function layerNote(layer) {
  const effects = D.turns[turn].layerEffects[shown];
  return effects && token < 0 ? ` — whole layer: ${number(effects[layer])} nats` : "";
}
function choices() {
  const group = el("fieldset", {class: "choices"}, el("legend", {}, "Map"));
  for (const name of Object.keys(NAMES).filter((each) => D.turns.some((t) => t.maps[each]))) {
    const input = el("input", {type: "radio", name: "map", value: name});
    input.checked = name === shown;
    input.addEventListener("change", () => { shown = name; token = -1; draw(`input[value=${name}]`); });
    group.append(el("label", {}, input, " " + NAMES[name]));
  }
  return group;
}
function tokens() {
  const t = D.turns[turn], line = el("p", {class: "tokens"});
  t.places.forEach((place, index) => {
    const button = el("button", {type: "button", "aria-pressed": String(index === token), title: `log-probability ${number(t.logProbs[index])}`},
      t.tokens[place]);
    button.disabled = !t.reading;
    button.addEventListener("click", () => { token = token === index ? -1 : index; draw(`.tokens button:nth-child(${index + 1})`); });
    line.append(button);
  });
  return line;
}
function slotPanel() {
  const t = D.turns[turn], layer = Math.floor(cell / S), slot = cell % S, panel = el("div", {class: "panel", "aria-live": "polite"});
  panel.append(el("h3", {}, `Layer ${layer}, slot ${slot}, turn ${turn + 1}`));
  const rows = Object.keys(NAMES).filter((each) => t.maps[each]).map((each) =>
    el("tr", {}, el("th", {}, NAMES[each]), el("td", {class: "number"}, number(t.maps[each][layer][slot]))));
  panel.append(el("table", {}, ...rows));
  if (t.readOut) {
    const spoken = t.readOut[layer][slot].map((id, place) => `“${D.pieces[id].trim()}” +${t.gains[layer][slot][place]}`);
    panel.append(el("h3", {}, "Speaks for (heuristic, after the write)"), el("p", {}, spoken.join("  ")));
  }
  if (t.writing) {
    const count = t.tokens.length, all = bytes(t.writing), start = (layer * S + slot) * count;
    const read = t.tokens.map((text, place) => [text, all[start + place] / 255]).sort((a, b) => b[1] - a[1]).slice(0, 6);
    panel.append(el("h3", {}, "Was written from"), el("p", {}, read.map(([text, weight]) => `“${text.trim()}” ${Math.round(100 * weight)} %`).join("  ")));
  }
  if (D.similarity) panel.append(el("h3", {}, "Alike at other times (cosine; 0 is the start)"), similarity());
  return panel;
}
function similarity() {
  const all = bytes(D.similarity), n = I + 1, start = cell * n * n, size = Math.max(3, Math.min(18, Math.floor(420 / n)));
  const box = el("svg", {width: n * size + 26, height: n * size + 16, role: "img", "aria-label": "Cosine of this slot between turns"});
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < n; column++) {
      const cosine = all[start + row * n + column] / 255 * 2 - 1;
      const square = el("rect", {x: 22 + column * size, y: 14 + row * size, width: size, height: size,
        fill: cosine < 0 ? "var(--less)" : "var(--more)", "fill-opacity": Math.abs(cosine).toFixed(2)});
      square.append(el("title", {}, `after turns ${row} and ${column}: ${cosine.toFixed(2)}`));
      box.append(square);
    }
    if (n < 20 || row % 10 === 0) {
      box.append(el("text", {x: 0, y: 14 + row * size + size * .75}, String(row)), el("text", {x: 24 + row * size, y: 10}, String(row)));
    }
  }
  return box;
}
function draw(focus) {
  const t = D.turns[turn], unit = ["erase", "freeze", "swap"].includes(shown) && token < 0 ? " nats" : "";
  token = Math.min(token, t.places.length - 1);
  const [map, most] = drawMap(), title = token >= 0 ? `read for “${t.tokens[t.places[token]]}”` : NAMES[shown];
  const all = token < 0 && t.everything[shown] !== undefined ? `; all slots together: ${number(t.everything[shown])} nats` : "";
  const none = values().length ? "" : " (nothing here)";
  host.replaceChildren(choices(), el("h3", {}, "Answer: choose a token to see what it reads"), tokens(),
    el("h3", {}, `${title}, largest ${number(most)}${unit}${all}${none}`), map, slotPanel());
  if (focus) host.querySelector(focus)?.focus();
}
function strongest() {
  const given = values();
  cell = given.reduce((best, value, place) => (value < given[best] ? place : best), 0);
}
document.querySelectorAll("input[name=turn]").forEach((input) => input.addEventListener("change", () => {
  turn = Number(input.value); token = -1; strongest(); draw();
}));
if (!D.turns.some((t) => t.maps[shown])) shown = "change";
const wish = Number(new URLSearchParams(location.hash.slice(1)).get("turn"));
if (wish >= 1 && wish <= I) {
  turn = wish - 1;
  document.querySelectorAll("input[name=turn]")[turn].checked = true;
}
strongest();
draw();
