// Audio thread: plays frames as they come, holding just as much as the network's jitter asks for.
// Too much waits after a stall: silence is skipped first, then the oldest sound, as the server does.
const BLOCK = 240; // 10 ms at 24 kHz: what is skipped at a time
const SOFT = 0.16, HARD = 0.5; // seconds beyond the target

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.blocks = []; // Float32Array of BLOCK samples each
    this.at = 0; // samples played of the first block
    this.target = 0.08; // seconds to hold before playing
    this.playing = false;
    this.underruns = this.skipped = 0;
    this.power = this.counted = 0;
    this.port.onmessage = (event) => this.take(event.data);
  }

  get waiting() { return (this.blocks.length * BLOCK - this.at) / sampleRate; }

  take(data) {
    if (data === "clear") { this.blocks = []; this.at = 0; this.playing = false; return; }
    const samples = new Int16Array(data);
    for (let i = 0; i < samples.length; i += BLOCK) {
      this.blocks.push(Float32Array.from(samples.subarray(i, i + BLOCK), (x) => x / 32768));
    }
    for (let i = 1; i < this.blocks.length && this.waiting > this.target + SOFT;) {
      if (this.blocks[i].every((x) => Math.abs(x) < 0.006)) { this.blocks.splice(i, 1); this.skipped++; } else i++;
    }
    while (this.waiting > this.target + HARD) { this.blocks.splice(1, 1); this.skipped++; }
  }

  process(_, outputs) {
    const out = outputs[0];
    if (!this.playing && this.waiting >= this.target) this.playing = true;
    for (let i = 0; i < out[0].length; i++) {
      let x = 0;
      if (this.playing) {
        if (this.blocks.length) {
          x = this.blocks[0][this.at++];
          if (this.at === this.blocks[0].length) { this.blocks.shift(); this.at = 0; }
        } else { // ran dry: hold a little more from now on
          this.playing = false;
          this.underruns++;
          this.target = Math.min(0.3, this.target + 0.02);
        }
      }
      for (const channel of out) channel[i] = x;
      this.power += x * x;
    }
    this.counted += out[0].length;
    if (this.counted >= sampleRate / 10) {
      const db = 10 * Math.log10(this.power / this.counted + 1e-10);
      this.port.postMessage({ db, waiting: this.waiting, underruns: this.underruns, skipped: this.skipped * BLOCK / sampleRate });
      this.power = this.counted = 0;
      if (this.playing) this.target = Math.max(0.06, this.target - 0.0005);
    }
    return true;
  }
}
registerProcessor("player", Player);
