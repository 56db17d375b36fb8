// The two lanes: how loud each was, frame by frame, and the model's words where they were said.
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
    const step = 8, shown = Math.floor(width / step);
    const now = tape ? Math.max(tape.frames, tape.heardFrames) : 0;
    const first = Math.max(0, now - shown);
    const lane = (height - 34) / 2, modelMiddle = lane / 2 + 2, userMiddle = lane * 1.5 + 24;
    const x = (frame) => (frame - first) * step;

    c.font = "12px system-ui, sans-serif";
    c.strokeStyle = color("line");
    c.fillStyle = color("muted");
    c.textBaseline = "middle";
    for (let frame = Math.ceil(first / 25) * 25; frame <= first + shown; frame += 25) { // every 2 s
      c.beginPath(); c.moveTo(x(frame) + .5, 0); c.lineTo(x(frame) + .5, height - 14); c.stroke();
      c.fillText(clock(frame), x(frame) + 3, height - 6);
    }
    for (const [levels, middle, name, label] of [[tape?.modelLevels, modelMiddle, "model", "Model"], [tape?.userLevels, userMiddle, "user", "You"]]) {
      c.fillStyle = color(name);
      c.globalAlpha = .25;
      c.fillRect(0, middle - .5, width, 1);
      c.globalAlpha = 1;
      for (let i = 0; levels && i < levels.length; i++) {
        const frame = i + tape.dropped;
        if (frame < first) continue;
        const size = Math.max(.02, Math.min(1, (levels[i] + 60) / 55)) * (lane / 2 - 4);
        if (levels[i] > -60) { c.beginPath(); c.roundRect(x(frame) + 1, middle - size, step - 2, 2 * size, 2); c.fill(); }
      }
      const wide = c.measureText(label).width;
      c.fillStyle = color("card");
      c.globalAlpha = .85;
      c.fillRect(0, middle - lane / 2, wide + 8, 16);
      c.globalAlpha = 1;
      c.fillStyle = color(name);
      c.fillText(label, 4, middle - lane / 2 + 8);
    }
    c.fillStyle = color("ink");
    let free = -1;
    for (const word of tape?.words ?? []) {
      if (word.frame < first - 20) continue;
      const at = Math.max(x(word.frame), free);
      if (at > x(word.frame) + 90) continue; // no room: it is in the transcript
      const text = word.text.trim();
      c.fillText(text, at, lane + 14);
      free = at + c.measureText(text).width + (word.begins ? 5 : 1);
    }
    c.fillStyle = color("muted");
    for (const mark of this.marks) {
      if (mark.frame < first) continue;
      c.fillRect(x(mark.frame), 0, 1.5, height - 14);
      c.fillText(mark.text, x(mark.frame) + 4, 8);
    }
  }
}

export function clock(frame) {
  const seconds = Math.floor(frame * 0.08 + 1e-6);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
