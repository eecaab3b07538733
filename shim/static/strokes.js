// What a mask is made of. Each stroke is data, so that undo is to draw all but the last one again.

/**
 * Lengths are shares of the picture's width and height, 0 to 1; a brush is a share of its shorter side.
 * @typedef {[x: number, y: number]} Point
 * @typedef {{kind: "line", erase: boolean, brush: number, points: Point[]}} Line
 * @typedef {{kind: "rectangle", left: number, top: number, width: number, height: number}} Rectangle
 * @typedef {{kind: "clear"}} Clear
 * @typedef {Line | Rectangle | Clear} Stroke
 */

/** @type {Rectangle} */
export const EVERYTHING = { kind: "rectangle", left: 0, top: 0, width: 1, height: 1 };

/**
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} [options]
 */
export function contextOf(canvas, options) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", options));
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Stroke[]} strokes
 */
export function drawAll(context, strokes) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  for (const stroke of strokes) draw(context, stroke);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Stroke} stroke
 */
export function draw(context, stroke) {
  const { width, height } = context.canvas;
  if (stroke.kind === "clear") context.clearRect(0, 0, width, height);
  if (stroke.kind === "rectangle") {
    context.fillRect(stroke.left * width, stroke.top * height, stroke.width * width, stroke.height * height);
  }
  if (stroke.kind === "line") drawLine(context, stroke);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Line} line
 */
function drawLine(context, { erase, brush, points }) {
  const { width, height } = context.canvas;
  context.save();
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  context.lineCap = "round";
  context.lineJoin = "round";
  context.lineWidth = Math.max(1, brush * Math.min(width, height));
  const [first, ...rest] = points.map(([x, y]) => /** @type {Point} */ ([x * width, y * height]));
  context.beginPath();
  context.arc(...first, context.lineWidth / 2, 0, 2 * Math.PI); // a line without a length would not be drawn
  context.fill();
  context.beginPath();
  context.moveTo(...first);
  for (const point of rest) context.lineTo(...point);
  context.stroke();
  context.restore();
}

/**
 * How much of the canvas is painted, 0 to 1.
 * @param {CanvasRenderingContext2D} context
 */
export function paintedShare(context) {
  const { data } = context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  let painted = 0;
  for (let at = 3; at < data.length; at += 4) painted += Number(data[at] >= 128);
  return painted / (data.length / 4);
}

/**
 * The mask as the server takes it: what is painted is transparent, the rest white.
 * @param {HTMLCanvasElement} painted
 * @returns {Promise<Blob>}
 */
export function maskFile(painted) {
  const canvas = document.createElement("canvas");
  canvas.width = painted.width;
  canvas.height = painted.height;
  const context = contextOf(canvas);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(painted, 0, 0);
  return new Promise((resolve) => canvas.toBlob((blob) => blob && resolve(blob), "image/png"));
}

/**
 * The painted region in its colour, small, to lay over a thumbnail.
 * @param {HTMLCanvasElement} painted
 */
export function veilOf(painted, side = 256) {
  const canvas = document.createElement("canvas");
  const scale = side / Math.max(painted.width, painted.height);
  canvas.width = Math.max(1, Math.round(painted.width * scale));
  canvas.height = Math.max(1, Math.round(painted.height * scale));
  contextOf(canvas).drawImage(painted, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}
