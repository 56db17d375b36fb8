// The two lanes: how loud each was, frame by frame, and between them the model's words where they were said.
const LABELS = 48, STEP = 8; // pixels: for the names of the lanes, and for a frame
const EDGE = 6; // frames left free for the newest words
const ROWS = 2, ROW = 16, CLOCK = 16; // rows of words, their height, and that of the clock

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.marks = []; // { frame, text }
    this.tape = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  draw() {
    const { canvas, tape } = this;
    const width = canvas.clientWidth, height = canvas.clientHeight, dense = devicePixelRatio || 1;
    if (!width) return;
    if (canvas.width !== Math.round(width * dense)) canvas.width = Math.round(width * dense);
    if (canvas.height !== Math.round(height * dense)) canvas.height = Math.round(height * dense);
    const c = canvas.getContext("2d");
    c.setTransform(dense, 0, 0, dense, 0, 0);
    c.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const shown = Math.max(1, Math.floor((width - LABELS) / STEP));
    const now = tape ? Math.max(tape.frames, tape.heardFrames) : 0;
    const first = Math.max(0, now + EDGE - shown);
    const lane = (height - CLOCK - ROWS * ROW - 6) / 2, modelMiddle = lane / 2, userMiddle = height - CLOCK - lane / 2;
    const x = (frame) => LABELS + (frame - first) * STEP;

    c.font = "12px system-ui, sans-serif";
    c.strokeStyle = color("line");
    c.fillStyle = color("muted");
    c.textBaseline = "middle";
    for (let frame = Math.ceil(first / 25) * 25; frame <= first + shown; frame += 25) { // every 2 s
      c.beginPath(); c.moveTo(x(frame) + .5, 0); c.lineTo(x(frame) + .5, height - CLOCK + 2); c.stroke();
      if (x(frame) + 30 < width) c.fillText(clock(frame), x(frame) + 3, height - 6);
    }
    for (const [levels, middle, name, label] of [[tape?.modelLevels, modelMiddle, "model", "Model"], [tape?.userLevels, userMiddle, "user", "You"]]) {
      c.fillStyle = color(name);
      c.fillText(label, 0, middle);
      c.globalAlpha = .25;
      c.fillRect(LABELS, middle - .5, width - LABELS, 1);
      c.globalAlpha = 1;
      for (let i = 0; levels && i < levels.length; i++) {
        const frame = i + tape.dropped;
        if (frame < first) continue;
        const size = Math.max(.02, Math.min(1, (levels[i] + 60) / 55)) * (lane / 2 - 2);
        if (levels[i] > -60) { c.beginPath(); c.roundRect(x(frame) + 1, middle - size, STEP - 2, 2 * size, 2); c.fill(); }
      }
    }
    c.fillStyle = color("ink");
    const free = Array(ROWS).fill(LABELS);
    for (const word of words(tape?.words ?? [], first)) {
      const row = free.indexOf(Math.min(...free)), at = Math.max(x(word.frame), free[row]);
      if (at > x(word.frame) + 60) continue; // no room: it is in the transcript
      c.fillText(word.text, at, lane + 3 + ROW * (row + .5));
      free[row] = at + c.measureText(word.text).width + 6;
    }
    c.fillStyle = color("muted");
    for (const mark of this.marks) {
      if (mark.frame < first) continue;
      c.fillRect(x(mark.frame), 0, 1.5, height - CLOCK + 2);
      c.fillText(mark.text, x(mark.frame) + 4, 8);
    }
  }
}

// Whole words of those pieces that are said from frame `first` on.
function words(pieces, first) {
  const whole = [];
  for (const { frame, text, begins } of pieces) {
    if (frame < first - 12) continue;
    if (begins || !whole.length) whole.push({ frame, text: text.trim() });
    else whole.at(-1).text += text;
  }
  return whole.filter((word) => word.frame >= first);
}

export function clock(frame) {
  const seconds = Math.floor(frame * 0.08 + 1e-6);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
