// The sampling explorer's front end. With sampling_data.js, _paint.js and _controls.js before it, it is one plain module: no
// build step, nothing loaded from anywhere. Python sends the scene and the layers once, as bytes; every move after that
// is answered here. Texts out of data sets are only ever put into textContent or drawn, so markup in them stays text.

const CHOICES = [
  "part", "layer", "token", "query", "heads", "levels", "heaviest", "weights", "lines", "grid", "point", "pinned",
  "threshold", "playing",
];
const WHERE = ["on the image", "on padding", "outside the map"];
const SIDE = 288; // CSS pixels, the panel beside the image with its gap
const PREFETCH = 16e6; // bytes: encoders up to this size are fetched whole, larger ones layer by layer

function render({ model, el }) {
  const state = Object.fromEntries(CHOICES.map((name) => [name, model.get(name)]));
  const layers = new Map();
  const asked = new Set();
  let scene = null;
  let geo = null;
  let predicted = null;
  let painter = null;
  let pointer = null; // in image pixels
  let drawn = null; // what the last frame showed
  let tween = null;
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
      const picture = await createImageBitmap(new Blob([copyOf(buffers[0])], { type: message.media }));
      if (scene) return;
      scene = message.scene;
      geo = geometry(scene);
      predicted = predictions(scene);
      painter = makePainter({ root, base, overlay, inset }, scene, picture, geo, predicted, state);
      controls = makeControls(bars, scene, geo, state, { choose, setPart, stepLayer, setTokenLevel, stepQuery, toggleIn });
      notes.textContent = scene.notes.join(" ");
      say("");
      root.querySelector(".still")?.remove();
      root.dataset.scene = "ready";
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
  let controls = null;
  const bars = h("div", { class: "bars" });
  const main = h("div", { class: "main" }, stage, h("div", { class: "side" }, inset, heading, readouts, boxTable));
  root.append(bars, main, status, notes, pointTable,
    h("details", {}, h("summary", {}, "Keys"), h("p", { class: "keys" }, KEYS)), spoken);
  el.append(root);

  function say(text) {
    if (status.textContent !== text) status.textContent = text;
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
    choose({ token: geo.tokenAt(level, ...geo.placeOf(state.token)), point: null });
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
    if (!painter || !main.clientWidth) return;
    const narrow = getComputedStyle(main).flexDirection === "column";
    stage.style.width = `${painter.fit(main.clientWidth - (narrow ? 0 : SIDE))}px`;
    root.dataset.sized = "yes";
    schedule();
  }

  function draw() {
    if (!root.isConnected || !root.dataset.sized) return;
    const row = state.part === "encoder" ? state.token : state.query;
    want(state.part, state.layer);
    const layer = layers.get(`${state.part}${state.layer}`);
    if (!layer) {
      tween = null;
      const there = scene.parts[state.part][state.layer] ?? null;
      say(there === null ? `${state.part} layer ${state.layer} is not in this page.`
        : `Loading ${state.part} layer ${state.layer} (${(there / 1e6).toFixed(1)} MB) …`);
    } else if (status.textContent.startsWith("Loading") || status.textContent.endsWith("not in this page.")) {
      say("");
    }
    controls.show();
    showIf(boxTable, state.part === "decoder" && scene.boxes);
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
    painter.paint(drawn, pointer);
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

  // -- Words.
  function nameOfRow() {
    const depth = `${state.part} layer ${state.layer}`;
    if (state.part === "decoder") {
      const score = predicted.score(state.query, state.layer);
      const found = score === null ? "" : `: ${predicted.name(state.query, state.layer)} ${score.toFixed(2)}`;
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
      const read = geo.corners(point.level, point.x, point.y).reduce((sum, c) => sum + (c.where === 0 ? c.share : 0), 0);
      const whole = point.where === 0 && read > 0.995;
      put(fields.where, WHERE[point.where] + (whole ? "" : `; ${Math.round(100 * read)}% of what it reads is image`));
    } else {
      for (const name of ["point", "weight", "pixel", "normalised", "cell", "where"]) put(fields[name], "–");
    }
    const points = drawn?.points ?? [];
    const count = (where) => points.filter((p) => p.where === where).length;
    const beyond = points.filter(painter.isBeyond).length;
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
        [layer, predicted.name(state.query, layer), predicted.score(state.query, layer)?.toFixed(2) ?? "–",
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
    return painter.toPixels(event.clientX - box.left, event.clientY - box.top);
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
    if (!painter) return;
    pointer = placeOf(event);
    if (state.part === "encoder" && !state.pinned) choose({ token: nearestToken(pointer), point: null });
    else pick(...painter.toCss(...pointer));
    schedule();
  }
  function pick(x, y) {
    let [best, distance] = [null, 15 ** 2];
    for (const point of drawn?.points ?? []) {
      const [px, py] = painter.inFrame(point);
      const d = (px - x) ** 2 + (py - y) ** 2;
      if (d <= distance) [best, distance] = [point, d];
    }
    if (best) choose({ point: [best.head, best.level, best.point] });
  }
  function click(event) {
    if (!painter) return;
    base.focus({ preventScroll: true });
    pointer = placeOf(event);
    if (state.part === "encoder") {
      if (!state.pinned) choose({ token: nearestToken(pointer), point: null });
      choose({ pinned: !state.pinned });
      return;
    }
    const [x, y] = pointer;
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    const hit = predicted.shown(state.threshold, state.query).filter((query) => {
      const [x1, y1, x2, y2] = predicted.box(query, state.layer);
      return x >= x1 && x <= x2 && y >= y1 && y <= y2;
    }).sort((a, b) => area(predicted.box(a, state.layer)) - area(predicted.box(b, state.layer)));
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
    if (simple[event.key.toLowerCase()]) simple[event.key.toLowerCase()]();
    else if (digit) toggleIn("heads", digit[1] === "0" ? null : Number(digit[1]) - 1, event.shiftKey);
    else return false;
    return true;
  }
  root.addEventListener("keydown", (event) => {
    const command = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
    if (!scene || command) return;
    if (event.key !== "Tab" && event.key !== "Escape") event.stopPropagation(); // a notebook has shortcuts of its own
    if (event.target === controls.heaviest) return;
    if ((event.target === base && onCanvas(event)) || anywhere(event)) event.preventDefault();
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
  sizes.observe(main);
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
    if (scene) return;
    const still = model.get("_still");
    say(still ? "" : "No answer from the kernel: run this cell again.");
    // Saved with the notebook, with a sentence in it; the cell, run again, brings the explorer itself.
    if (still) root.prepend(h("img", { class: "still", src: `data:image/jpeg;base64,${still}`, alt: model.get("_alt") }));
  }, 4000);

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

export default { render };
