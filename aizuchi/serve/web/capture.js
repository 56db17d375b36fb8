// Audio thread: what the microphone (or the sample) says, in pieces of 20 ms, as 16-bit samples.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 50);
    this.piece = new Int16Array(this.size);
    this.filled = 0;
    this.muted = false;
    this.port.onmessage = (event) => { this.muted = event.data.muted; };
  }

  process(inputs) {
    const channels = inputs[0];
    const count = channels.length ? channels[0].length : 128; // nothing connected: silence
    for (let i = 0; i < count; i++) {
      let x = 0;
      for (const channel of channels) x += channel[i] / channels.length;
      if (this.muted) x = 0;
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(x * 32768)));
      if (this.filled === this.size) {
        this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
        this.piece = new Int16Array(this.size);
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("capture", Capture);
