// The explorer's data: what Python packed (sampling_pack.py), and arithmetic on it. First part of the one module that
// sampling_explorer.py puts together; sampling_paint.js and sampling_explorer.js follow. Pixels are the image's.

const copyOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

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
  function cellOf(token) {
    let level = starts.length - 1;
    while (token < starts[level]) level -= 1;
    const columns = scene.levels[level][1];
    const inside = token - starts[level];
    return { level, row: Math.floor(inside / columns), column: inside % columns };
  }
  return {
    W, H, cells, isGrid, total, cellOf,
    placeOf(token) {
      const { level, row, column } = cellOf(token);
      return [(column + 0.5) * cells[level][0], (row + 0.5) * cells[level][1]];
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

// What the heads predict for each query.
function predictions(scene) {
  const last = (values) => values[values.length - 1];
  return {
    box: (query, layer) => scene.boxes[Math.min(layer, scene.boxes.length - 1)][query],
    score: (query, layer) => scene.scores?.[Math.min(layer, scene.scores.length - 1)][query] ?? null,
    name(query, layer) {
      if (!scene.labels) return "";
      const label = scene.labels[Math.min(layer, scene.labels.length - 1)][query];
      return scene.names?.[label] ?? `class ${label}`;
    },
    // The queries whose boxes are drawn, best first.
    shown(threshold, chosen) {
      if (!scene.boxes) return [];
      return scene.order.filter((query) => query === chosen || !scene.scores || last(scene.scores)[query] >= threshold);
    },
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
