// What was said by both, to be drawn and saved. Frame i of the model answers frame i of the user.
const FRAME = 1920, RATE = 24000, LIMIT = 20 * 60 * 12.5; // frames kept: 20 minutes

export class Tape {
  constructor(rate) {
    this.rate = rate; // of the user's samples
    this.model = []; // Int16Array a frame
    this.user = []; // Int16Array a frame, at `rate`
    this.userLevels = []; // dB a frame
    this.modelLevels = [];
    this.words = []; // { frame, text, begins }
    this.dropped = 0; // frames forgotten at the beginning
    this.skipped = 0; // frames of the user that the server skipped and that are taken out here
    this.perFrame = Math.round(rate * FRAME / RATE);
    this.rest = new Int16Array(0);
  }

  get frames() { return this.dropped + this.model.length; }
  get heardFrames() { return this.dropped + this.user.length; }

  hear(piece) {
    const joined = new Int16Array(this.rest.length + piece.length);
    joined.set(this.rest);
    joined.set(piece, this.rest.length);
    let at = 0;
    for (; joined.length - at >= this.perFrame; at += this.perFrame) {
      const frame = joined.slice(at, at + this.perFrame);
      this.user.push(frame);
      this.userLevels.push(level(frame));
    }
    this.rest = joined.slice(at);
  }

  say(frame) {
    this.model.push(frame);
    this.modelLevels.push(level(frame));
    if (this.model.length > LIMIT && this.user.length > 1) {
      for (const list of [this.model, this.user, this.userLevels, this.modelLevels]) list.shift();
      this.dropped++;
    }
  }

  // The model's frame number `frame` answers the user's frame number `input`.
  skip({ frame, input }) {
    const count = input - frame - this.skipped;
    if (count <= 0) return;
    this.user.splice(frame - this.dropped, count);
    this.userLevels.splice(frame - this.dropped, count);
    this.skipped += count;
  }

  gap() { this.say(new Int16Array(FRAME)); }

  // A stereo wav file: the model left, the user right.
  async wav() {
    const length = this.model.length * FRAME;
    const user = await this.userAtModelRate(length);
    const view = new DataView(new ArrayBuffer(44 + 4 * length));
    const put = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
    put(0, "RIFF"); view.setUint32(4, 36 + 4 * length, true); put(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 2, true);
    view.setUint32(24, RATE, true); view.setUint32(28, RATE * 4, true); view.setUint16(32, 4, true); view.setUint16(34, 16, true);
    put(36, "data"); view.setUint32(40, 4 * length, true);
    for (let i = 0; i < length; i++) {
      view.setInt16(44 + 4 * i, this.model[(i / FRAME) | 0][i % FRAME] || 0, true);
      view.setInt16(46 + 4 * i, user[i] || 0, true);
    }
    return new Blob([view], { type: "audio/wav" });
  }

  async userAtModelRate(length) {
    const all = new Float32Array(this.user.length * this.perFrame);
    this.user.forEach((frame, i) => all.set(Float32Array.from(frame, (x) => x / 32768), i * this.perFrame));
    if (this.rate === RATE || !all.length || !length) return all.map((x) => Math.round(x * 32768));
    const context = new OfflineAudioContext(1, length, RATE);
    const buffer = context.createBuffer(1, all.length, this.rate);
    buffer.copyToChannel(all, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.start();
    const rendered = await context.startRendering();
    return rendered.getChannelData(0).map((x) => Math.round(x * 32767));
  }

  transcript(about) {
    const words = [];
    for (const { frame, text, begins } of this.words) {
      if (begins || !words.length) words.push({ text: text.trim(), start: frame * 0.08, end: (frame + 1) * 0.08 });
      else { words.at(-1).text += text; words.at(-1).end = (frame + 1) * 0.08; }
    }
    for (const word of words) { word.start = +word.start.toFixed(3); word.end = +word.end.toFixed(3); }
    return JSON.stringify({ text: words.map((w) => w.text).join(" "), words, ...about }, null, 2);
  }
}

function level(samples) {
  let power = 0;
  for (const x of samples) power += x * x;
  return 10 * Math.log10(power / samples.length / 2 ** 30 + 1e-10);
}
