// How the explorer draws: two canvases over each other (the picture and the grid; points, tokens and boxes), and the
// close-up of the four cells that one point reads. Names are drawn as letters, so markup in them stays text.

const GREEN = "#3CFF3C";
const MARGIN = 0.13; // of the image's longer side, around it, for points outside
const TALLEST = 600; // CSS pixels

function makePainter({ root, base, overlay, inset }, scene, picture, geo, predicted, state) {
  let frame = null; // what the canvases show: left, top, width, height in image pixels; scale to CSS pixels; screen ratio
  let basis = ""; // what the lower canvas shows
  let words = ""; // the close-up, for screen readers
  let inks = {}; // the theme's colours; asking for them in every frame would make the browser lay out the page

  // Fit the image into a width in CSS pixels; returns how wide it became.
  function fit(room) {
    const [H, W] = scene.size;
    const margin = MARGIN * Math.max(W, H);
    const [width, height] = [W + 2 * margin, H + 2 * margin];
    const scale = Math.min(room / width, TALLEST / height);
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    frame = { left: -margin, top: -margin, width, height, scale, ratio };
    for (const canvas of [base, overlay]) {
      canvas.style.width = `${width * scale}px`;
      canvas.style.height = `${height * scale}px`;
      canvas.width = Math.round(width * scale * ratio);
      canvas.height = Math.round(height * scale * ratio);
    }
    inset.width = Math.round((inset.clientWidth || 250) * ratio);
    inset.height = Math.round((inset.clientHeight || 190) * ratio);
    root.dataset.frame = [frame.left, frame.top, frame.scale].map((value) => value.toFixed(5)).join(" ");
    basis = "";
    return width * scale;
  }
  const toCss = (x, y) => [(x - frame.left) * frame.scale, (y - frame.top) * frame.scale];
  const toPixels = (x, y) => [x / frame.scale + frame.left, y / frame.scale + frame.top];

  function toImage(context) {
    const k = frame.scale * frame.ratio;
    context.setTransform(k, 0, 0, k, -frame.left * k, -frame.top * k);
  }
  function toScreen(context) {
    context.setTransform(frame.ratio, 0, 0, frame.ratio, 0, 0);
  }
  function colours() {
    if (inks.theme !== root.dataset.theme) {
      const style = getComputedStyle(root);
      inks = { theme: root.dataset.theme, panel: style.getPropertyValue("--panel"), line: style.getPropertyValue("--line") };
    }
    return inks;
  }
  function drawBase(drawn) {
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

  function drawOverlay(drawn, pointer) {
    const context = overlay.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, overlay.width, overlay.height);
    if (!drawn) return;
    toScreen(context);
    if (drawn.part === "encoder") drawTokens(context, pointer);
    else drawBoxes(context);
    if (state.lines) drawLines(context, drawn);
    for (const point of drawn.points) drawPoint(context, point, drawn.most);
    if (drawn.current) {
      const [x, y] = inFrame(drawn.current);
      ring(context, x, y, radius(drawn.current, drawn.most) + 4, "#000000", 3.5);
      ring(context, x, y, radius(drawn.current, drawn.most) + 4, "#ffffff", 1.5);
    }
    for (const place of drawn.references) drawReference(context, place);
  }
  function rectangle(context, x1, y1, x2, y2, colour, width, dash = []) {
    const [left, top] = toCss(x1, y1);
    const [right, bottom] = toCss(x2, y2);
    for (const [ink, line] of [["#000000", width + 1.5], [colour, width]]) {
      context.setLineDash(ink === colour ? dash : []);
      context.strokeStyle = ink;
      context.lineWidth = line;
      context.strokeRect(left, top, right - left, bottom - top);
    }
    context.setLineDash([]);
  }
  function drawTokens(context, pointer) {
    if (!geo.isGrid) return;
    const own = geo.cellOf(state.token);
    const place = pointer && !state.pinned ? pointer : geo.placeOf(state.token);
    for (let level = scene.levels.length - 1; level >= 0; level -= 1) {
      const { row, column } = level === own.level ? own : geo.cellOf(geo.tokenAt(level, ...place));
      const [cw, ch] = geo.cells[level];
      const width = level === own.level ? 2.5 : 1;
      rectangle(context, column * cw, row * ch, (column + 1) * cw, (row + 1) * ch, scene.colours[level], width);
    }
  }
  function drawBoxes(context) {
    if (!scene.boxes) return;
    for (const query of predicted.shown(state.threshold, state.query)) {
      if (query !== state.query) rectangle(context, ...predicted.box(query, state.layer), "#ffffff", 1);
    }
    for (let layer = 0; layer < state.layer; layer += 1) {
      context.globalAlpha = 0.35;
      rectangle(context, ...predicted.box(state.query, layer), GREEN, 1);
      context.globalAlpha = 1;
    }
    const box = predicted.box(state.query, state.layer);
    rectangle(context, ...box, GREEN, 2, [6, 3]);
    if (!scene.scores) return;
    const name = predicted.name(state.query, state.layer).slice(0, 40);
    const text = `${name} ${predicted.score(state.query, state.layer).toFixed(2)}`;
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
  const share = (point, most) => (state.weights ? point.weight / most : 0.3);
  const radius = (point, most) => Math.sqrt(6 + 75 * share(point, most));
  function drawPoint(context, point, most) {
    const [x, y] = inFrame(point);
    const colour = scene.colours[point.level];
    context.globalAlpha = state.weights ? 0.4 + 0.6 * share(point, most) : 0.85;
    context.beginPath();
    if (isBeyond(point)) context.rect(x - 3, y - 3, 6, 6);
    else context.arc(x, y, radius(point, most), 0, 2 * Math.PI);
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
  function drawLines(context, drawn) {
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
  function drawInset(drawn) {
    const context = inset.getContext("2d");
    const { panel } = colours();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = panel;
    context.fillRect(0, 0, inset.width, inset.height);
    const point = drawn?.current;
    if (!point) return;
    const [w, h_] = [inset.width / frame.ratio, inset.height / frame.ratio];
    const [cw, ch] = geo.cells[point.level];
    // All four cells are in view, wherever the point lies among them.
    const scale = Math.min(w / (3.05 * cw), h_ / (3.05 * ch));
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
    const [said, texts] = [[], []];
    for (const corner of corners) {
      const [x, y] = [(corner.column * cw - left) * scale, (corner.row * ch - top) * scale];
      context.globalAlpha = 0.15 + 0.6 * corner.share;
      context.fillStyle = corner.where === 0 ? scene.colours[point.level] : "#555555";
      context.fillRect(x, y, cw * scale, ch * scale);
      context.globalAlpha = 1;
      const reason = ["", "padding", "outside"][corner.where];
      texts.push([corner.share.toFixed(2), reason || `${corner.column}, ${corner.row}`, x, y]);
      said.push(`column ${corner.column}, row ${corner.row}: ${corner.share.toFixed(2)}${reason && `, ${reason}`}`);
    }
    const [px, py] = [(point.x - left) * scale, (point.y - top) * scale];
    context.beginPath();
    context.arc(px, py, 4, 0, 2 * Math.PI);
    context.fillStyle = scene.colours[point.level];
    context.fill();
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5;
    context.stroke();
    // The texts stand in the outer corners of the four cells; the point is between their centres.
    texts.forEach(([first, second, x, y], n) => {
      const cx = x + cw * scale * (n % 2 ? 0.7 : 0.3);
      const cy = y + ch * scale * (n < 2 ? 0.2 : 0.72);
      label(context, first, cx, cy);
      label(context, second, cx, cy + 12);
    });
    context.textAlign = "start";
    words = `Level ${point.level}, the four cells that this point reads: ${said.join("; ")}`;
  }
  function label(context, text, x, y) {
    const width = context.measureText(text).width + 4;
    context.fillStyle = "#000000b0"; // behind the letters: outlining them takes a frame's time
    context.fillRect(x - width / 2, y - 10, width, 13);
    context.fillStyle = "#ffffff";
    context.fillText(text, x, y);
  }

  function paint(drawn, pointer) {
    drawBase(drawn);
    drawOverlay(drawn, pointer);
  }
  return { fit, paint, closeUp: drawInset, words: () => words, toCss, toPixels, inFrame, isBeyond };
}
