// Boxes and points that can be dragged over a picture, or moved with the arrow keys. Plain SVG; no dependencies.
const SVG = "http://www.w3.org/2000/svg";
const SYNC_MS = 80; // the kernel redraws a figure for each message: fewer than frames, often enough to follow the hand

function element(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.appendChild(node);
  return node;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// A box after its corner or its whole was moved by (dx, dy); it stays inside the picture and keeps a side of `least`.
export function movedBox(box, part, dx, dy, [width, height], least) {
  let [x1, y1, x2, y2] = box;
  if (part === "whole") {
    dx = clamp(dx, -x1, width - x2);
    dy = clamp(dy, -y1, height - y2);
    return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  }
  // At the border a box may be too small to have that side.
  if (part.includes("left")) x1 = clamp(x1 + dx, 0, Math.max(0, x2 - least));
  if (part.includes("right")) x2 = clamp(x2 + dx, Math.min(width, x1 + least), width);
  if (part.includes("top")) y1 = clamp(y1 + dy, 0, Math.max(0, y2 - least));
  if (part.includes("bottom")) y2 = clamp(y2 + dy, Math.min(height, y1 + least), height);
  return [x1, y1, x2, y2];
}

export function movedPoint([x, y], dx, dy, [width, height]) {
  return [clamp(x + dx, 0, width), clamp(y + dy, 0, height)];
}

function render({ model, el }) {
  const [width, height] = model.get("extent");
  const unit = width / model.get("max_width"); // a pixel of the window, where there is room for the whole widget
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": model.get("title") });
  svg.style.cssText =
    `display: block; width: 100%; max-width: ${model.get("max_width")}px; touch-action: none; user-select: none; ` +
    "border: 1px solid var(--jp-border-color1, #888); background: #fff";
  const bytes = model.get("image");
  let url = null;
  if (bytes && bytes.byteLength) {
    url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    element("image", { href: url, width, height, preserveAspectRatio: "none" }, svg);
  }
  const layer = element("g", {}, svg);
  el.replaceChildren(svg);

  let timer = null;
  let drag = null;
  const flush = () => {
    clearTimeout(timer);
    timer = null;
    model.save_changes();
  };
  const change = (name, index, value) => {
    const values = model.get(name).map((one) => [...one]);
    values[index] = value;
    model.set(name, values);
    timer ??= setTimeout(flush, SYNC_MS);
  };
  const move = (handle, dx, dy, from) => {
    const extent = [width, height];
    if (handle.kind === "points") change("points", handle.index, movedPoint(from, dx, dy, extent));
    else change("boxes", handle.index, movedBox(from, handle.part, dx, dy, extent, model.get("step")));
  };
  const current = (handle) => model.get(handle.kind)[handle.index];

  function makeMovable(node, handle, label) {
    node.setAttribute("tabindex", "0");
    node.setAttribute("role", "button");
    node.setAttribute("aria-label", `${label}, arrow keys move it`);
    node.setAttribute("data-handle", `${handle.kind} ${handle.index} ${handle.part ?? ""}`.trim());
    node.style.cursor = handle.part && handle.part !== "whole" ? "nwse-resize" : "move";
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.focus();
      drag = { handle, from: [...current(handle)], x: event.clientX, y: event.clientY };
      svg.setPointerCapture(event.pointerId);
    });
    node.addEventListener("keydown", (event) => {
      const step = model.get("step") * (event.shiftKey ? 10 : 1);
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation(); // or the notebook would move to another cell
      move(handle, ...by, current(handle));
    });
  }
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const scale = 1 / svg.getScreenCTM().a; // the border is no part of the picture
    move(drag.handle, (event.clientX - drag.x) * scale, (event.clientY - drag.y) * scale, drag.from);
  });
  const drop = () => {
    if (drag) flush();
    drag = null;
  };
  svg.addEventListener("pointerup", drop);
  svg.addEventListener("pointercancel", drop);

  const places = []; // functions that put each node where the model says it is
  function build() {
    layer.replaceChildren();
    places.length = 0;
    const labels = model.get("labels");
    const colours = model.get("colours");
    const locked = new Set(model.get("locked"));
    const anchored = model.get("anchored");
    const count = model.get("boxes").length;
    for (let n = 0; n < count + model.get("points").length; n++) {
      const point = n >= count;
      const index = point ? n - count : n;
      const style = { colour: colours[n] ?? "#222222", label: labels[n] ?? "", fixed: locked.has(n) };
      (point ? buildPoint : buildBox)(index, style, anchored);
    }
    place();
  }
  function caption(style) {
    const text = element("text", {
      "font-size": 12 * unit, fill: style.colour, stroke: "#fff", "stroke-width": 3 * unit, "paint-order": "stroke",
      "font-family": "sans-serif", "pointer-events": "none",
    }, layer);
    text.textContent = style.label; // a name out of a data set is text
    return text;
  }
  // Towards the side where there is room; `left` and `right` are where it would begin and end.
  function putCaption(text, left, right, y) {
    const begins = left + text.getComputedTextLength() <= width || left < width - right;
    text.setAttribute("text-anchor", begins ? "start" : "end");
    text.setAttribute("x", begins ? left : right);
    text.setAttribute("y", y);
  }
  function buildBox(index, style, anchored) {
    const rectangle = element("rect", {
      fill: style.colour, "fill-opacity": style.fixed ? 0 : 0.08, stroke: style.colour, "stroke-width": 2 * unit,
      "stroke-dasharray": style.fixed ? `${6 * unit} ${4 * unit}` : "none",
    }, layer);
    const text = caption(style);
    places.push(() => {
      const [x1, y1, x2, y2] = model.get("boxes")[index];
      for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 }))
        rectangle.setAttribute(key, value);
      // Anchored boxes share their upper left corner, so their names stand at the other one.
      if (anchored) putCaption(text, x2 + 9 * unit, x2 - 9 * unit, Math.max(y2 - 9 * unit, 14 * unit));
      else putCaption(text, x1 + 3 * unit, x2 - 3 * unit, y1 > 14 * unit ? y1 - 4 * unit : y1 + 14 * unit);
    });
    if (style.fixed) return;
    if (!anchored) makeMovable(rectangle, { kind: "boxes", index, part: "whole" }, style.label);
    const corners = anchored ? ["bottom right"] : ["top left", "top right", "bottom left", "bottom right"];
    for (const corner of corners) {
      const knob = element("circle", { r: 6 * unit, fill: "#fff", stroke: style.colour, "stroke-width": 2 * unit }, layer);
      makeMovable(knob, { kind: "boxes", index, part: corner }, `${style.label}, ${corner} corner`);
      places.push(() => {
        const [x1, y1, x2, y2] = model.get("boxes")[index];
        knob.setAttribute("cx", corner.includes("left") ? x1 : x2);
        knob.setAttribute("cy", corner.includes("top") ? y1 : y2);
      });
    }
  }
  function buildPoint(index, style) {
    const knob = element("circle", {
      r: 6 * unit, fill: style.colour, stroke: "#fff", "stroke-width": 1.5 * unit, "fill-opacity": style.fixed ? 0.4 : 1,
    }, layer);
    const text = caption(style);
    if (!style.fixed) makeMovable(knob, { kind: "points", index }, style.label);
    places.push(() => {
      const [x, y] = model.get("points")[index];
      knob.setAttribute("cx", x);
      knob.setAttribute("cy", y);
      putCaption(text, x + 8 * unit, x - 8 * unit, Math.max(y - 6 * unit, 12 * unit));
    });
  }
  const place = () => {
    if (places.length) for (const put of places) put();
  };
  const sizes = () => `${model.get("boxes").length} ${model.get("points").length}`;
  let built = sizes();
  const update = () => {
    if (sizes() === built) return place();
    built = sizes();
    build();
  };
  model.on("change:boxes change:points", update);
  model.on("change:labels change:colours change:locked", build);
  build();
  // Names have a length only once they are shown.
  const shown = new ResizeObserver(place);
  shown.observe(svg);
  return () => {
    shown.disconnect();
    model.off("change:boxes change:points", update);
    model.off("change:labels change:colours change:locked", build);
    clearTimeout(timer);
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
