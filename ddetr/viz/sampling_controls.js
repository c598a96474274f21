// The explorer's buttons, sliders and tables: elements with a name for screen readers, and how they follow the state.

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function tableOf(names, body) {
  return h("table", {}, h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))), body);
}

function button(text, label, onclick, extra = {}) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick, ...extra }, text);
}

function group(label, ...children) {
  return h("div", { class: "group", role: "group", "aria-label": label }, h("span", { class: "label" }, label), ...children);
}

// What is written only when it changes costs no layout.
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showIf(node, on) {
  const display = on ? "" : "none";
  if (node.style.display !== display) node.style.display = display;
}

function press(node, on) {
  const text = String(Boolean(on));
  if (node.getAttribute("aria-pressed") !== text) node.setAttribute("aria-pressed", text);
}

const KEYS =
  "Keys: arrows move the token or step through queries, Page Up and Down change the token's level, [ and ] the layer, " +
  "space plays. 1 to 8 switch heads (with Shift: that one alone), 0 shows all. N and P step through the points by " +
  "weight, Enter holds the token, E and D choose encoder or decoder, W weights, L lines, G grid.";

// `act` has what the controls do; `show` brings them in step with the state.
function makeControls(bars, scene, geo, state, act) {
  const { choose, setPart, stepLayer, setTokenLevel, stepQuery, toggleIn } = act;
  const controls = {};

  function swatch(level, text) {
    const dot = h("span", { class: "swatch", "aria-hidden": "true" });
    dot.style.background = scene.colours[level];
    return h("span", {}, dot, String(text));
  }

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

  function show() {
    const encoder = state.part === "encoder";
    press(controls.encoder, encoder);
    press(controls.decoder, !encoder);
    const last = scene.parts[state.part].length - 1;
    if (controls.slider.max !== String(last)) controls.slider.max = last;
    if (controls.slider.value !== String(state.layer)) controls.slider.value = state.layer;
    put(controls.layer, `${state.layer} of 0–${last}`);
    put(controls.play, state.playing ? "❚❚" : "▶");
    press(controls.play, state.playing);
    showIf(controls.tokenGroup, encoder && geo.isGrid);
    showIf(controls.queryGroup, !encoder);
    if (encoder && geo.isGrid) {
      const { level } = geo.cellOf(state.token);
      controls.tokenLevels.forEach((node, n) => press(node, n === level));
    }
    press(controls.pinned, state.pinned);
    put(controls.rank, `${state.query} (${scene.order.indexOf(state.query) + 1} of ${scene.order.length} by score)`);
    if (Number(controls.threshold.value) !== state.threshold) controls.threshold.value = state.threshold;
    controls.heads.forEach((node, head) => {
      press(node, state.heads.includes(head));
      if (node.disabled !== head >= scene.heads[state.part]) node.disabled = !node.disabled;
    });
    controls.levels.forEach((node, level) => press(node, state.levels.includes(level)));
    const heaviest = String(state.heaviest ?? "");
    if (document.activeElement !== controls.heaviest && controls.heaviest.value !== heaviest) controls.heaviest.value = heaviest;
    for (const name of ["weights", "lines", "grid"]) press(controls[name], state[name]);
  }
  return { ...controls, show };
}
