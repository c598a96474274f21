// The sampling explorer's front end: one plain module, no build step, nothing loaded from anywhere.
// Python sends the scene and the layers once, as bytes (ddetr/viz/sampling_pack.py); every move after that is answered
// here. Texts out of data sets are only ever put into textContent or drawn on a canvas, so markup in them stays text.

const CHOICES = [
  "part", "layer", "token", "query", "heads", "levels", "heaviest", "weights", "lines", "grid", "point", "pinned",
  "threshold", "playing",
];
const WHERE = ["on the image", "on padding: reads zero", "outside the map: reads zero"];
const GREEN = "#3CFF3C";
const MARGIN = 0.13; // of the image's longer side, around it, for points outside
const TALLEST = 560; // CSS pixels
const PREFETCH = 16e6; // bytes: encoders up to this size are fetched whole, larger ones layer by layer
const KEYS =
  "Keys: arrows move the token or step through queries, Page Up and Down change the token's level, [ and ] the layer, " +
  "space plays. 1 to 8 switch heads (with Shift: that one alone), 0 shows all. N and P step through the points by " +
  "weight, Enter holds the token, E and D choose encoder or decoder, W weights, L lines, G grid.";

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const copyOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);

// ---- The data: what Python packed, and arithmetic on it. Pixels are the image's, without padding.

function unpackLayer(header, view) {
  const { rows, heads, levels, points, references, dims } = header;
  const buffer = copyOf(view);
  const samples = heads * levels * points;
  const placesAt = 4 * rows * references * dims;
  const weightsAt = placesAt + 4 * rows * samples;
  return {
    ...header, samples,
    refs: new Float32Array(buffer, 0, rows * references * dims),
    places: new Int16Array(buffer, placesAt, 2 * rows * samples),
    shares: new Uint16Array(buffer, weightsAt, rows * samples),
  };
}

function geometry(scene) {
  const [H, W] = scene.size;
  const starts = [];
  let total = 0;
  for (const [rows, columns] of scene.levels) {
    starts.push(total);
    total += rows * columns;
  }
  // How many pixels a cell is wide and high on each level: the cells that are not padding tile the image.
  const cells = scene.levels.map(([rows, columns], level) => {
    const [ratioW, ratioH] = scene.ratios[level];
    return [W / (ratioW * columns), H / (ratioH * rows)];
  });
  const isGrid = scene.rows.encoder === total;
  return {
    W, H, cells, isGrid, total,
    cellOf(token) {
      let level = starts.length - 1;
      while (token < starts[level]) level -= 1;
      const columns = scene.levels[level][1];
      const inside = token - starts[level];
      return { level, row: Math.floor(inside / columns), column: inside % columns };
    },
    tokenAt(level, x, y) {
      const [rows, columns] = scene.levels[level];
      const row = clamp(Math.floor(y / cells[level][1]), 0, rows - 1);
      return starts[level] + row * columns + clamp(Math.floor(x / cells[level][0]), 0, columns - 1);
    },
    token: (level, row, column) => starts[level] + row * scene.levels[level][1] + column,
    // A point's place on its level: cells from the corner of the padded map, and [0, 1] of it.
    onLevel(level, x, y) {
      const [rows, columns] = scene.levels[level];
      const [column, row] = [x / cells[level][0], y / cells[level][1]];
      return { column, row, nx: column / columns, ny: row / rows };
    },
    // The four cells that bilinear sampling reads, with their shares; padding and the outside read zero.
    corners(level, x, y) {
      const [rows, columns] = scene.levels[level];
      const [ratioW, ratioH] = scene.ratios[level];
      const [column, row] = [x / cells[level][0] - 0.5, y / cells[level][1] - 0.5];
      const [left, top] = [Math.floor(column), Math.floor(row)];
      const found = [];
      for (const [i, shareY] of [[top, top + 1 - row], [top + 1, row - top]]) {
        for (const [j, shareX] of [[left, left + 1 - column], [left + 1, column - left]]) {
          const inside = i >= 0 && i < rows && j >= 0 && j < columns;
          const image = i < Math.round(ratioH * rows) && j < Math.round(ratioW * columns);
          found.push({ column: j, row: i, share: shareX * shareY, where: !inside ? 2 : image ? 0 : 1 });
        }
      }
      return found;
    },
  };
}

function pointsOf(layer, row, scene) {
  const [H, W] = scene.size;
  const { samples, levels, points, step, weightStep } = layer;
  const all = new Array(samples);
  for (let i = 0; i < samples; i += 1) {
    const level = Math.floor(i / points) % levels;
    const at = row * samples + i;
    const px = 0.5 + step[level] * layer.places[2 * at];
    const py = 0.5 + step[level] * layer.places[2 * at + 1];
    const [ratioW, ratioH] = scene.ratios[level];
    const [nx, ny] = [px * ratioW, py * ratioH];
    const outside = nx < 0 || nx > 1 || ny < 0 || ny > 1;
    all[i] = {
      head: Math.floor(i / (points * levels)), level, point: i % points,
      x: px * W, y: py * H, weight: weightStep * layer.shares[at],
      where: outside ? 2 : px > 1 || py > 1 ? 1 : 0,
    };
  }
  return all;
}

function referencesOf(layer, row, scene) {
  const [H, W] = scene.size;
  const { references, dims } = layer;
  const found = [];
  for (let r = 0; r < references; r += 1) {
    const at = (row * references + r) * dims;
    const values = Array.from(layer.refs.subarray(at, at + dims));
    found.push(values.map((value, i) => value * (i % 2 ? H : W)));
  }
  return found;
}

// ---- The view.

function render({ model, el }) {
  const state = Object.fromEntries(CHOICES.map((name) => [name, model.get(name)]));
  const layers = new Map();
  const asked = new Set();
  let scene = null;
  let picture = null;
  let geo = null;
  let frame = null; // what the canvas shows: left, top, width, height in image pixels, and scale to CSS pixels
  let pointer = null; // in image pixels
  let drawn = null; // what the last frame showed
  let tween = null;
  let basis = ""; // what the lower canvas shows
  let scheduled = false;
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // -- Choices: here, in the model, and in Python.
  let saveTimer = null;
  function choose(changes) {
    const news = Object.entries(changes).filter(([name, value]) => !same(state[name], value));
    if (!news.length) return;
    if ("layer" in changes || "part" in changes) startTween(changes);
    for (const [name, value] of news) {
      state[name] = value;
      model.set(name, value);
    }
    saveTimer ??= setTimeout(() => {
      saveTimer = null;
      try {
        model.save_changes();
      } catch {
        // The kernel is gone; the view goes on without it.
      }
    }, 80);
    schedule();
  }
  const followers = CHOICES.map((name) => {
    const follow = () => {
      const value = model.get(name);
      if (same(state[name], value)) return;
      if (name === "layer") startTween({ layer: value });
      state[name] = value;
      schedule();
    };
    model.on(`change:${name}`, follow);
    return [`change:${name}`, follow];
  });

  // -- What Python sends.
  function ask(message) {
    try {
      model.send(message);
    } catch {
      say("The kernel does not answer; what is loaded still works.");
    }
  }
  function want(part, layer) {
    const key = `${part}${layer}`;
    const there = scene.parts[part][layer] ?? null;
    if (layers.has(key) || asked.has(key) || there === null) return;
    asked.add(key);
    ask({ type: "layer", part, layer });
  }
  async function receive(message, buffers) {
    if (message.type === "scene" && !scene) {
      picture = await createImageBitmap(new Blob([copyOf(buffers[0])], { type: message.media }));
      scene = message.scene;
      geo = geometry(scene);
      build();
      root.dataset.scene = "ready";
      want(state.part, state.layer);
      resize();
    } else if (message.type === "layer" && scene) {
      layers.set(`${message.part}${message.layer}`, unpackLayer(message, buffers[0]));
      const bytes = scene.parts.encoder.reduce((sum, size) => sum + size, 0);
      scene.parts.decoder.forEach((_, n) => want("decoder", n));
      if (bytes <= PREFETCH) scene.parts.encoder.forEach((_, n) => want("encoder", n));
      schedule();
    } else if (message.type === "error") {
      say(message.message);
    }
  }
  const listen = (message, buffers) => receive(message, buffers);
  model.on("msg:custom", listen);

  // -- Elements.
  const root = h("div", { class: "ddetr-explorer", "data-lm-suppress-shortcuts": "true" });
  const base = h("canvas", {
    tabindex: "0", role: "application", "aria-roledescription": "sampling explorer", "aria-label": "Loading",
  });
  const overlay = h("canvas", { "aria-hidden": "true" });
  const inset = h("canvas", { role: "img", "aria-label": "" });
  const stage = h("div", { class: "stage" }, base, overlay);
  const status = h("p", { class: "status", role: "status" });
  const notes = h("p", { class: "notes" });
  const spoken = h("div", { class: "hidden", "aria-live": "polite" });
  const heading = h("div", { class: "heading" });
  const fields = {};
  const readouts = h("dl");
  for (const [name, label] of [
    ["point", "point"], ["weight", "weight"], ["pixel", "pixel (x, y)"], ["normalised", "of the map"],
    ["cell", "cell (col, row)"], ["where", "it falls"], ["shown", "shown"], ["pointer", "pointer"],
  ]) {
    fields[name] = h("dd", { "data-field": name });
    readouts.append(h("dt", {}, label), fields[name]);
  }
  const pointRows = h("tbody");
  const pointTable = h("details", { ontoggle: () => schedule() }, h("summary", {}, "The points as a table"),
    h("div", { class: "scroll" }, tableOf(["head", "level", "point", "x", "y", "weight", "it falls"], pointRows)));
  const boxRows = h("tbody");
  const boxTable = h("details", { open: true }, h("summary", {}, "This query, layer by layer"),
    h("div", { class: "scroll" }, tableOf(["layer", "class", "score", "x1", "y1", "x2", "y2"], boxRows)));
  const controls = {};
  const bars = h("div", { class: "bars" });
  const side = h("div", { class: "side" }, inset, heading, readouts, boxTable);
  root.append(bars, h("div", { class: "main" }, stage, side), status, notes, pointTable,
    h("details", {}, h("summary", {}, "Keys"), h("p", { class: "keys" }, KEYS)), spoken);
  el.append(root);

  function tableOf(names, body) {
    return h("table", {}, h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))), body);
  }
  function say(text) {
    if (status.textContent !== text) status.textContent = text;
  }
  function button(text, label, onclick, extra = {}) {
    return h("button", { type: "button", "aria-label": label, title: label, onclick, ...extra }, text);
  }
  function group(label, ...children) {
    return h("div", { class: "group", role: "group", "aria-label": label }, h("span", { class: "label" }, label), ...children);
  }
  function toggleIn(name, number, alone) {
    const all = name === "heads" ? scene.heads[state.part] : scene.levels.length;
    const everything = Array.from({ length: all }, (_, i) => i);
    if (number === null) return choose({ [name]: everything });
    if (number >= all) return undefined;
    if (alone) return choose({ [name]: same(state[name], [number]) ? everything : [number] });
    const rest = state[name].filter((other) => other !== number);
    return choose({ [name]: rest.length < state[name].length ? rest : [...rest, number].sort((a, b) => a - b) });
  }
  const layerCount = () => scene.parts[state.part].length;
  const stepLayer = (by) => choose({ layer: clamp(state.layer + by, 0, layerCount() - 1), playing: false });
  function setPart(part) {
    if (!scene.parts[part].length) return;
    choose({ part, layer: Math.min(state.layer, scene.parts[part].length - 1), point: null });
  }
  function stepQuery(by) {
    const at = clamp(scene.order.indexOf(state.query) + by, 0, scene.order.length - 1);
    choose({ query: scene.order[at], point: null });
  }
  function setTokenLevel(level) {
    if (level < 0 || level >= scene.levels.length || !geo.isGrid) return;
    const place = placeOfToken();
    choose({ token: geo.tokenAt(level, ...place), point: null });
  }
  function placeOfToken() {
    const { level, row, column } = geo.cellOf(state.token);
    return [(column + 0.5) * geo.cells[level][0], (row + 0.5) * geo.cells[level][1]];
  }
  function moveToken(dx, dy) {
    if (!geo.isGrid) return choose({ token: clamp(state.token + dx + dy, 0, scene.rows.encoder - 1), point: null });
    const { level, row, column } = geo.cellOf(state.token);
    const [rows, columns] = scene.levels[level];
    pointer = null;
    const token = geo.token(level, clamp(row + dy, 0, rows - 1), clamp(column + dx, 0, columns - 1));
    return choose({ token, point: null });
  }
  function stepPoint(by) {
    if (!drawn?.points.length) return;
    const at = clamp(drawn.points.indexOf(drawn.current) - by, 0, drawn.points.length - 1);
    const { head, level, point } = drawn.points[at];
    choose({ point: [head, level, point], pinned: true });
  }

  function build() {
    const switches = (name) => button(name, `${name} (${name[0].toUpperCase()})`, () => choose({ [name]: !state[name] }));
    controls.encoder = button("encoder", "Encoder: tokens (E)", () => setPart("encoder"), { disabled: !scene.parts.encoder.length });
    controls.decoder = button("decoder", "Decoder: queries (D)", () => setPart("decoder"), { disabled: !scene.parts.decoder.length });
    controls.slider = h("input", {
      type: "range", min: 0, step: 1, "aria-label": "layer",
      oninput: () => choose({ layer: Number(controls.slider.value), playing: false }),
    });
    controls.layer = h("span", {});
    controls.play = button("▶", "Play through the layers (space)", () => choose({ playing: !state.playing }));
    controls.tokenLevels = scene.levels.map(([rows, columns], level) =>
      button(swatch(level, level), `token of level ${level}, ${rows} x ${columns} cells`, () => setTokenLevel(level)));
    controls.pinned = button("hold", "Hold the token (Enter, or click the image)", () => choose({ pinned: !state.pinned }));
    controls.tokenGroup = group("token of level", ...controls.tokenLevels, controls.pinned);
    controls.rank = h("span", {});
    controls.threshold = h("input", {
      type: "range", min: 0, max: 1, step: 0.05, "aria-label": "lowest score of the detections drawn",
      oninput: () => choose({ threshold: Number(controls.threshold.value) }),
    });
    controls.queryGroup = group("query", button("‹", "Better query", () => stepQuery(-1)), controls.rank,
      button("›", "Next query by score", () => stepQuery(1)), ...(scene.scores ? ["boxes from score", controls.threshold] : []));
    const most = Math.max(scene.heads.encoder, scene.heads.decoder);
    controls.heads = Array.from({ length: most }, (_, head) =>
      button(String(head), `head ${head} (key ${head + 1}; Shift: alone)`, (event) => toggleIn("heads", head, event.shiftKey)));
    controls.levels = scene.levels.map(([rows, columns], level) =>
      button(swatch(level, `${level}`), `points on level ${level}, ${rows} x ${columns} cells (Shift: alone)`,
        (event) => toggleIn("levels", level, event.shiftKey)));
    controls.heaviest = h("input", {
      type: "number", min: 1, placeholder: "all", "aria-label": "heaviest points to show; empty for all",
      oninput: () => {
        const number = Math.floor(Number(controls.heaviest.value));
        choose({ heaviest: number >= 1 ? number : null });
      },
    });
    for (const name of ["weights", "lines", "grid"]) controls[name] = switches(name);
    bars.append(
      h("div", { class: "bar" }, group("part", controls.encoder, controls.decoder),
        group("layer", button("‹", "Earlier layer ([)", () => stepLayer(-1)), controls.slider,
          button("›", "Later layer (])", () => stepLayer(1)), controls.layer, controls.play),
        controls.tokenGroup, controls.queryGroup),
      h("div", { class: "bar" }, group("heads", ...controls.heads), group("levels", ...controls.levels),
        group("heaviest", controls.heaviest), group("show", controls.weights, controls.lines, controls.grid)));
    notes.textContent = scene.notes.join(" ");
  }
  function swatch(level, text) {
    const dot = h("span", { class: "swatch", "aria-hidden": "true" });
    dot.style.background = scene.colours[level];
    return h("span", {}, dot, String(text));
  }
  function press(node, on) {
    const text = String(Boolean(on));
    if (node.getAttribute("aria-pressed") !== text) node.setAttribute("aria-pressed", text);
  }
  function showControls() {
    const encoder = state.part === "encoder";
    press(controls.encoder, encoder);
    press(controls.decoder, !encoder);
    controls.slider.max = layerCount() - 1;
    controls.slider.value = state.layer;
    controls.layer.textContent = `${state.layer} of 0–${layerCount() - 1}`;
    controls.play.textContent = state.playing ? "❚❚" : "▶";
    press(controls.play, state.playing);
    controls.tokenGroup.hidden = !encoder || !geo.isGrid;
    controls.tokenGroup.style.display = controls.tokenGroup.hidden ? "none" : "";
    controls.queryGroup.style.display = encoder ? "none" : "";
    boxTable.style.display = encoder || !scene.boxes ? "none" : "";
    if (encoder && geo.isGrid) {
      const { level } = geo.cellOf(state.token);
      controls.tokenLevels.forEach((node, n) => press(node, n === level));
    }
    press(controls.pinned, state.pinned);
    controls.rank.textContent = `${state.query} (${scene.order.indexOf(state.query) + 1} of ${scene.order.length} by score)`;
    controls.threshold.value = state.threshold;
    controls.heads.forEach((node, head) => {
      press(node, state.heads.includes(head));
      node.disabled = head >= scene.heads[state.part];
    });
    controls.levels.forEach((node, level) => press(node, state.levels.includes(level)));
    if (document.activeElement !== controls.heaviest) controls.heaviest.value = state.heaviest ?? "";
    for (const name of ["weights", "lines", "grid"]) press(controls[name], state[name]);
  }

  // -- Frames.
  function schedule() {
    if (scheduled || !scene) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      draw();
    });
  }
  function startTween(changes) {
    const next = { ...state, ...changes };
    const moves = drawn && drawn.part === next.part && drawn.layer !== next.layer && !still.matches;
    tween = moves ? { from: drawn.all, start: performance.now() } : null;
  }
  function resize() {
    if (!scene || !stage.clientWidth) return;
    const [H, W] = scene.size;
    const margin = MARGIN * Math.max(W, H);
    const scale = Math.min(stage.clientWidth / (W + 2 * margin), TALLEST / (H + 2 * margin));
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    frame = { left: -margin, top: -margin, width: W + 2 * margin, height: H + 2 * margin, scale };
    for (const canvas of [base, overlay]) {
      const [w, h_] = [frame.width * scale, frame.height * scale];
      canvas.style.width = `${w}px`;
      canvas.style.height = `${h_}px`;
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h_ * ratio);
    }
    const [iw, ih] = [inset.clientWidth || 250, inset.clientHeight || 190];
    inset.width = Math.round(iw * ratio);
    inset.height = Math.round(ih * ratio);
    frame.ratio = ratio;
    root.dataset.frame = [frame.left, frame.top, frame.scale].map((value) => value.toFixed(5)).join(" ");
    basis = "";
    schedule();
  }
  const toCss = (x, y) => [(x - frame.left) * frame.scale, (y - frame.top) * frame.scale];

  function draw() {
    if (!frame) resize();
    if (!frame || !root.isConnected) return;
    const row = state.part === "encoder" ? state.token : state.query;
    want(state.part, state.layer);
    const layer = layers.get(`${state.part}${state.layer}`);
    if (!layer) {
      const there = scene.parts[state.part][state.layer] ?? null;
      say(there === null ? `${state.part} layer ${state.layer} is not in this page.`
        : `Loading ${state.part} layer ${state.layer} (${(there / 1e6).toFixed(1)} MB) …`);
    } else if (status.textContent.startsWith("Loading") || status.textContent.endsWith("not in this page.")) {
      say("");
    }
    showControls();
    if (layer) {
      const all = pointsOf(layer, Math.min(row, layer.rows - 1), scene);
      const moved = all.map((point, i) => mixed(point, i));
      let points = moved.filter((p) => state.heads.includes(p.head) && state.levels.includes(p.level));
      points.sort((a, b) => a.weight - b.weight);
      if (state.heaviest) points = points.slice(-state.heaviest);
      const chosen = state.point && points.find((p) => same([p.head, p.level, p.point], state.point));
      drawn = {
        part: state.part, layer: state.layer, row, all: moved, points, current: chosen || points[points.length - 1] || null,
        most: all.reduce((most, p) => Math.max(most, p.weight), 1e-9), references: referencesOf(layer, row, scene),
      };
    }
    drawBase();
    drawOverlay();
    drawInset();
    showReadouts();
    if (tween) schedule();
  }
  function mixed(point, i) {
    if (!tween) return point;
    const share = clamp((performance.now() - tween.start) / 350, 0, 1);
    if (share >= 1 || i >= tween.from.length) {
      if (share >= 1) tween = null;
      return point;
    }
    const ease = share * share * (3 - 2 * share);
    const from = tween.from[i];
    const mix = (name) => from[name] + (point[name] - from[name]) * ease;
    return { ...point, x: mix("x"), y: mix("y"), weight: mix("weight") };
  }

  function toImage(context) {
    const k = frame.scale * frame.ratio;
    context.setTransform(k, 0, 0, k, -frame.left * k, -frame.top * k);
  }
  function toScreen(context) {
    context.setTransform(frame.ratio, 0, 0, frame.ratio, 0, 0);
  }
  function colours() {
    const style = getComputedStyle(root);
    return { panel: style.getPropertyValue("--panel"), line: style.getPropertyValue("--line"), ink: style.getPropertyValue("--ink") };
  }
  function drawBase() {
    const gridLevel = state.grid && drawn?.current ? drawn.current.level : -1;
    const now = `${root.dataset.theme} ${base.width} ${gridLevel}`;
    if (basis === now) return;
    basis = now;
    const context = base.getContext("2d");
    const { panel, line } = colours();
    const { W, H } = geo;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = panel;
    context.fillRect(0, 0, base.width, base.height);
    toImage(context);
    const [paddedH, paddedW] = scene.padded;
    if (paddedH > H || paddedW > W) hatch(context, paddedW, paddedH, line);
    context.drawImage(picture, 0, 0, W, H);
    if (gridLevel >= 0) lattice(context, gridLevel, 1 / frame.scale);
  }
  function hatch(context, w, h_, colour) {
    context.save();
    context.beginPath();
    context.rect(0, 0, w, h_);
    context.clip();
    context.fillStyle = "#8a8a8a";
    context.fill();
    context.strokeStyle = colour;
    context.lineWidth = 1 / frame.scale;
    context.beginPath();
    for (let at = -h_; at < w; at += 9 / frame.scale) {
      context.moveTo(at, h_);
      context.lineTo(at + h_, 0);
    }
    context.stroke();
    context.restore();
  }
  function lattice(context, level, width) {
    const [rows, columns] = scene.levels[level];
    const [cw, ch] = geo.cells[level];
    context.beginPath();
    for (let j = 0; j <= columns; j += 1) {
      context.moveTo(j * cw, 0);
      context.lineTo(j * cw, rows * ch);
    }
    for (let i = 0; i <= rows; i += 1) {
      context.moveTo(0, i * ch);
      context.lineTo(columns * cw, i * ch);
    }
    context.strokeStyle = scene.colours[level];
    context.lineWidth = width;
    context.stroke();
  }

  function drawOverlay() {
    const context = overlay.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, overlay.width, overlay.height);
    if (!drawn) return;
    toScreen(context);
    if (state.part === "encoder") drawTokens(context);
    else drawBoxes(context);
    if (state.lines) drawLines(context);
    for (const point of drawn.points) drawPoint(context, point);
    if (drawn.current) {
      const [x, y] = inFrame(drawn.current);
      ring(context, x, y, radius(drawn.current) + 4, "#000000", 3.5);
      ring(context, x, y, radius(drawn.current) + 4, "#ffffff", 1.5);
    }
    for (const place of drawn.references) drawReference(context, place);
  }
  function rectangle(context, x1, y1, x2, y2, colour, width, dash = []) {
    const [left, top] = toCss(x1, y1);
    const [right, bottom] = toCss(x2, y2);
    for (const [ink, line] of [["#000000", width + 2], [colour, width]]) {
      context.setLineDash(ink === colour ? dash : []);
      context.strokeStyle = ink;
      context.lineWidth = line;
      context.strokeRect(left, top, right - left, bottom - top);
    }
    context.setLineDash([]);
  }
  function drawTokens(context) {
    if (!geo.isGrid) return;
    const own = geo.cellOf(state.token);
    const place = pointer && !state.pinned ? pointer : placeOfToken();
    for (let level = scene.levels.length - 1; level >= 0; level -= 1) {
      const { row, column } = level === own.level ? own : geo.cellOf(geo.tokenAt(level, ...place));
      const [cw, ch] = geo.cells[level];
      const width = level === own.level ? 2.5 : 1;
      rectangle(context, column * cw, row * ch, (column + 1) * cw, (row + 1) * ch, scene.colours[level], width);
    }
  }
  function shownQueries() {
    if (!scene.boxes) return [];
    const last = scene.scores ? scene.scores[scene.scores.length - 1] : null;
    return scene.order.filter((query) => query === state.query || !last || last[query] >= state.threshold);
  }
  const boxOf = (query, layer) => scene.boxes[Math.min(layer, scene.boxes.length - 1)][query];
  function labelOf(query, layer) {
    if (!scene.labels) return "";
    const label = scene.labels[layer][query];
    return scene.names?.[label] ?? `class ${label}`;
  }
  function drawBoxes(context) {
    if (!scene.boxes) return;
    for (const query of shownQueries()) {
      if (query !== state.query) rectangle(context, ...boxOf(query, state.layer), "#ffffff", 1);
    }
    for (let layer = 0; layer < state.layer; layer += 1) {
      context.globalAlpha = 0.35;
      rectangle(context, ...boxOf(state.query, layer), GREEN, 1);
      context.globalAlpha = 1;
    }
    const box = boxOf(state.query, state.layer);
    rectangle(context, ...box, GREEN, 2, [6, 3]);
    if (!scene.scores) return;
    const layer = Math.min(state.layer, scene.scores.length - 1);
    const text = `${labelOf(state.query, layer).slice(0, 40)} ${scene.scores[layer][state.query].toFixed(2)}`;
    context.font = "600 12px system-ui, sans-serif";
    const [x, y] = toCss(box[0], box[1]);
    const width = context.measureText(text).width + 8;
    const left = clamp(x, 0, Math.max(0, frame.width * frame.scale - width));
    const top = clamp(y - 18, 0, frame.height * frame.scale - 18);
    context.fillStyle = "#000000cc";
    context.fillRect(left, top, width, 18);
    context.fillStyle = GREEN;
    context.fillText(text, left + 4, top + 13);
  }
  // Points beyond the frame are drawn on its edge.
  function inFrame(point) {
    const [x, y] = toCss(point.x, point.y);
    return [clamp(x, 5, frame.width * frame.scale - 5), clamp(y, 5, frame.height * frame.scale - 5)];
  }
  function isBeyond(point) {
    const [x, y] = toCss(point.x, point.y);
    return x < 0 || y < 0 || x > frame.width * frame.scale || y > frame.height * frame.scale;
  }
  const share = (point) => (state.weights ? point.weight / drawn.most : 0.3);
  const radius = (point) => Math.sqrt(6 + 75 * share(point));
  function drawPoint(context, point) {
    const [x, y] = inFrame(point);
    const colour = scene.colours[point.level];
    context.globalAlpha = state.weights ? 0.4 + 0.6 * share(point) : 0.85;
    context.beginPath();
    if (isBeyond(point)) context.rect(x - 3, y - 3, 6, 6);
    else context.arc(x, y, radius(point), 0, 2 * Math.PI);
    if (point.where === 0) {
      context.fillStyle = colour;
      context.fill();
    }
    context.strokeStyle = point.where === 0 ? "#ffffff" : colour;
    context.lineWidth = point.where === 0 ? 0.8 : 1.6;
    context.stroke();
    context.globalAlpha = 1;
  }
  function ring(context, x, y, r, colour, width) {
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }
  function drawLines(context) {
    context.globalAlpha = 0.6;
    context.lineWidth = 1;
    for (const point of drawn.points) {
      const from = drawn.references[point.level] ?? drawn.references[0];
      context.beginPath();
      context.moveTo(...toCss(from[0], from[1]));
      context.lineTo(...toCss(point.x, point.y));
      context.strokeStyle = scene.colours[point.level];
      context.stroke();
    }
    context.globalAlpha = 1;
  }
  function drawReference(context, [x, y, w, h_]) {
    if (w !== undefined) rectangle(context, x - w / 2, y - h_ / 2, x + w / 2, y + h_ / 2, GREEN, 1.5);
    const [cx, cy] = toCss(x, y);
    for (const [ink, width] of [["#000000", 5], [GREEN, 2.5]]) {
      context.beginPath();
      context.moveTo(cx - 8, cy);
      context.lineTo(cx + 8, cy);
      context.moveTo(cx, cy - 8);
      context.lineTo(cx, cy + 8);
      context.strokeStyle = ink;
      context.lineWidth = width;
      context.stroke();
    }
  }

  // The four cells that the current point reads, close up.
  function drawInset() {
    const context = inset.getContext("2d");
    const { panel, ink } = colours();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = panel;
    context.fillRect(0, 0, inset.width, inset.height);
    const point = drawn?.current;
    if (!point) return;
    const [w, h_] = [inset.width / frame.ratio, inset.height / frame.ratio];
    const [cw, ch] = geo.cells[point.level];
    const scale = Math.min(w / (3.4 * cw), h_ / (2.6 * ch));
    const [left, top] = [point.x - w / 2 / scale, point.y - h_ / 2 / scale];
    const k = scale * frame.ratio;
    context.setTransform(k, 0, 0, k, -left * k, -top * k);
    const [paddedH, paddedW] = scene.padded;
    context.fillStyle = "#8a8a8a";
    context.fillRect(0, 0, Math.max(paddedW, geo.W), Math.max(paddedH, geo.H));
    context.drawImage(picture, 0, 0, geo.W, geo.H);
    lattice(context, point.level, 1 / scale);
    const corners = geo.corners(point.level, point.x, point.y);
    context.setTransform(frame.ratio, 0, 0, frame.ratio, 0, 0);
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    const said = [];
    for (const corner of corners) {
      const [x, y] = [(corner.column * cw - left) * scale, (corner.row * ch - top) * scale];
      context.globalAlpha = 0.15 + 0.6 * corner.share;
      context.fillStyle = corner.where === 0 ? scene.colours[point.level] : "#555555";
      context.fillRect(x, y, cw * scale, ch * scale);
      context.globalAlpha = 1;
      const reason = ["", "padding", "outside"][corner.where];
      const [cx, cy] = [x + (cw * scale) / 2, y + (ch * scale) / 2];
      label(context, corner.share.toFixed(2), cx, cy - 1);
      label(context, reason || `${corner.column}, ${corner.row}`, cx, cy + 12);
      said.push(`column ${corner.column}, row ${corner.row}: ${corner.share.toFixed(2)}${reason && `, ${reason}`}`);
    }
    context.textAlign = "start";
    const [px, py] = [(point.x - left) * scale, (point.y - top) * scale];
    context.beginPath();
    context.arc(px, py, 4, 0, 2 * Math.PI);
    context.fillStyle = scene.colours[point.level];
    context.fill();
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5;
    context.stroke();
    context.strokeStyle = ink;
    inset.setAttribute("aria-label", `Level ${point.level}, the four cells that this point reads: ${said.join("; ")}`);
  }
  function label(context, text, x, y) {
    context.lineWidth = 3;
    context.strokeStyle = "#000000";
    context.strokeText(text, x, y);
    context.fillStyle = "#ffffff";
    context.fillText(text, x, y);
  }

  // -- Words.
  function put(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }
  function nameOfRow() {
    const depth = `${state.part} layer ${state.layer}`;
    if (state.part === "decoder") {
      const layer = scene.scores ? Math.min(state.layer, scene.scores.length - 1) : 0;
      const found = scene.scores ? `: ${labelOf(state.query, layer)} ${scene.scores[layer][state.query].toFixed(2)}` : "";
      return `query ${state.query}, ${depth}${found}`;
    }
    if (!geo.isGrid) return `row ${state.token}, ${depth}`;
    const { level, row, column } = geo.cellOf(state.token);
    return `token ${state.token}: level ${level}, row ${row}, column ${column}, ${depth}`;
  }
  let quiet = null;
  function showReadouts() {
    put(heading, nameOfRow());
    const point = drawn?.current;
    put(fields.pointer, pointer ? `${pointer[0].toFixed(1)}, ${pointer[1].toFixed(1)}` : "–");
    if (point) {
      const place = geo.onLevel(point.level, point.x, point.y);
      put(fields.point, `head ${point.head}, level ${point.level}, point ${point.point}`);
      put(fields.weight, point.weight.toFixed(4));
      put(fields.pixel, `${point.x.toFixed(1)}, ${point.y.toFixed(1)}`);
      put(fields.normalised, `${place.nx.toFixed(4)}, ${place.ny.toFixed(4)}`);
      put(fields.cell, `${place.column.toFixed(2)}, ${place.row.toFixed(2)}`);
      put(fields.where, WHERE[point.where]);
    } else {
      for (const name of ["point", "weight", "pixel", "normalised", "cell", "where"]) put(fields[name], "–");
    }
    const points = drawn?.points ?? [];
    const count = (where) => points.filter((p) => p.where === where).length;
    const beyond = points.filter(isBeyond).length;
    const parts = [`${points.length} points`];
    if (count(1)) parts.push(`${count(1)} on padding`);
    if (count(2)) parts.push(`${count(2)} outside the map`);
    if (beyond) parts.push(`${beyond} beyond the frame (squares at its edge)`);
    put(fields.shown, parts.join(", "));
    Object.assign(root.dataset, {
      part: state.part, layer: state.layer, token: state.token, query: state.query, points: points.length,
      drawn: drawn ? `${drawn.part} ${drawn.layer} ${drawn.row}` : "", moving: String(Boolean(tween)),
    });
    clearTimeout(quiet);
    quiet = setTimeout(afterwards, 150);
  }
  // What may wait until the hand rests: tables, and the sentence for screen readers.
  function afterwards() {
    if (!drawn || !root.isConnected) return;
    const { current } = drawn;
    const text = current
      ? `${nameOfRow()}. ${fields.shown.textContent}. Point: ${fields.point.textContent}, weight ${fields.weight.textContent}, ` +
        `at pixel ${fields.pixel.textContent}, ${fields.where.textContent}.`
      : `${nameOfRow()}. No points shown.`;
    base.setAttribute("aria-label", `Sampling points over the image. ${text}`);
    if (root.contains(document.activeElement)) put(spoken, text);
    if (pointTable.open) {
      pointRows.replaceChildren(...[...drawn.points].reverse().map((p) => tableRow(
        [p.head, p.level, p.point, p.x.toFixed(1), p.y.toFixed(1), p.weight.toFixed(4), WHERE[p.where]], p === current)));
    }
    if (state.part === "decoder" && scene.boxes) {
      boxRows.replaceChildren(...scene.boxes.map((boxes, layer) => tableRow(
        [layer, labelOf(state.query, layer), scene.scores ? scene.scores[layer][state.query].toFixed(2) : "–",
          ...boxes[state.query].map((value) => value.toFixed(0))], layer === state.layer)));
    }
  }
  function tableRow(cells, current) {
    return h("tr", { "aria-current": current ? "true" : null },
      ...cells.map((cell) => h("td", { class: typeof cell === "string" && Number.isNaN(Number(cell)) ? "text" : null }, String(cell))));
  }

  // -- Hand and keyboard.
  function placeOf(event) {
    const box = base.getBoundingClientRect();
    return [(event.clientX - box.left) / frame.scale + frame.left, (event.clientY - box.top) / frame.scale + frame.top];
  }
  function nearestToken([x, y]) {
    if (geo.isGrid) return geo.tokenAt(geo.cellOf(state.token).level, x, y);
    const layer = layers.get(`encoder${state.layer}`);
    if (!layer) return state.token;
    let [best, distance] = [0, Infinity];
    for (let row = 0; row < layer.rows; row += 1) {
      const [rx, ry] = referencesOf(layer, row, scene)[0];
      const d = (rx - x) ** 2 + (ry - y) ** 2;
      if (d < distance) [best, distance] = [row, d];
    }
    return best;
  }
  function hover(event) {
    if (!frame) return;
    pointer = placeOf(event);
    if (state.part === "encoder" && !state.pinned) choose({ token: nearestToken(pointer), point: null });
    else pick(...toCss(...pointer));
    schedule();
  }
  function pick(x, y) {
    let [best, distance] = [null, 15 ** 2];
    for (const point of drawn?.points ?? []) {
      const [px, py] = inFrame(point);
      const d = (px - x) ** 2 + (py - y) ** 2;
      if (d <= distance) [best, distance] = [point, d];
    }
    if (best) choose({ point: [best.head, best.level, best.point] });
  }
  function click(event) {
    if (!frame) return;
    base.focus({ preventScroll: true });
    pointer = placeOf(event);
    if (state.part === "encoder") {
      if (!state.pinned) choose({ token: nearestToken(pointer), point: null });
      choose({ pinned: !state.pinned });
      return;
    }
    const [x, y] = pointer;
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    const hit = shownQueries().filter((query) => {
      const [x1, y1, x2, y2] = boxOf(query, state.layer);
      return x >= x1 && x <= x2 && y >= y1 && y <= y2;
    }).sort((a, b) => area(boxOf(a, state.layer)) - area(boxOf(b, state.layer)));
    // A click on a box that is chosen already chooses the next one below the pointer.
    if (hit.length) choose({ query: hit[(hit.indexOf(state.query) + 1) % hit.length], point: null });
  }
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function onCanvas(event) {
    const arrow = arrows[event.key];
    if (arrow && state.part === "encoder") moveToken(...arrow);
    else if (arrow) stepQuery(arrow[0] + arrow[1]);
    else if (event.key === "PageUp" || event.key === "PageDown") {
      if (state.part === "encoder" && geo.isGrid) setTokenLevel(geo.cellOf(state.token).level + (event.key === "PageUp" ? 1 : -1));
    } else if (event.key === " ") choose({ playing: !state.playing });
    else if (event.key === "Enter") choose({ pinned: !state.pinned });
    else return false;
    return true;
  }
  function anywhere(event) {
    const digit = /^Digit(\d)$/.exec(event.code);
    const simple = {
      "[": () => stepLayer(-1), "]": () => stepLayer(1), n: () => stepPoint(1), p: () => stepPoint(-1),
      e: () => setPart("encoder"), d: () => setPart("decoder"), w: () => choose({ weights: !state.weights }),
      l: () => choose({ lines: !state.lines }), g: () => choose({ grid: !state.grid }),
    };
    if (digit) toggleIn("heads", digit[1] === "0" ? null : Number(digit[1]) - 1, event.shiftKey);
    else if (simple[event.key.toLowerCase()]) simple[event.key.toLowerCase()]();
    else return false;
    return true;
  }
  root.addEventListener("keydown", (event) => {
    if (!scene || event.ctrlKey || event.metaKey || event.altKey || event.target === controls.heaviest) return;
    if ((event.target === base && onCanvas(event)) || anywhere(event)) {
      event.preventDefault();
      event.stopPropagation();
    }
  });
  base.addEventListener("pointermove", hover);
  base.addEventListener("click", click);
  base.addEventListener("pointerleave", () => {
    pointer = null;
    schedule();
  });

  // -- Time, size, theme.
  const clock = setInterval(() => {
    if (!scene || !state.playing || !root.isConnected) return;
    const next = (state.layer + 1) % layerCount();
    want(state.part, next);
    if (layers.has(`${state.part}${next}`)) choose({ layer: next });
  }, 900);
  const sizes = new ResizeObserver(resize);
  sizes.observe(stage);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  function theme() {
    const { jpThemeLight } = document.body.dataset;
    const code = document.body.classList;
    let dark = darkness.matches;
    if (jpThemeLight) dark = jpThemeLight === "false";
    else if (code.contains("vscode-dark") || code.contains("vscode-high-contrast")) dark = true;
    else if (code.contains("vscode-light")) dark = false;
    const now = dark ? "dark" : "light";
    if (root.dataset.theme !== now) {
      root.dataset.theme = now;
      schedule();
    }
  }
  theme();
  darkness.addEventListener("change", theme);
  const themes = new MutationObserver(theme);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });

  say("Waiting for the data …");
  ask({ type: "scene" });
  const patience = setTimeout(() => {
    if (!scene) say("No answer from the kernel: run this cell again. Below or beside it, a still picture may be shown.");
  }, 8000);

  return () => {
    clearInterval(clock);
    clearTimeout(patience);
    clearTimeout(quiet);
    clearTimeout(saveTimer);
    sizes.disconnect();
    themes.disconnect();
    darkness.removeEventListener("change", theme);
    model.off("msg:custom", listen);
    for (const [name, follow] of followers) model.off(name, follow);
  };
}

// ---- In an exported page: what answers in the kernel's place.

function modelOf(data) {
  const listeners = {};
  const choices = { ...data.choices };
  const emit = (name, ...values) => (listeners[name] ?? []).forEach((listener) => listener(...values));
  const bytes = (text) => {
    const letters = atob(text);
    const found = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) found[i] = letters.charCodeAt(i);
    return new DataView(found.buffer);
  };
  const answer = (message) => {
    if (message.type === "scene") {
      emit("msg:custom", { type: "scene", scene: data.scene, media: data.media }, [bytes(data.picture)]);
      return;
    }
    const layer = data.layers.find(({ header }) => header.part === message.part && header.layer === message.layer);
    emit("msg:custom", { type: "layer", ...layer.header }, [bytes(layer.data)]);
  };
  return {
    get: (name) => choices[name],
    set: (name, value) => { choices[name] = value; },
    save_changes() {},
    on: (name, listener) => (listeners[name] ??= []).push(listener),
    off() {},
    send: (message) => queueMicrotask(() => answer(message)),
  };
}

export default { render };
