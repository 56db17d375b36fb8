// Microphone and loudspeaker. Both run at the model's rate where the browser can; the server resamples otherwise.
import { processor } from "./processor.js";

const MODEL_RATE = 24000;

export function microphoneProblem() {
  if (!window.isSecureContext) {
    return "Browsers give the microphone to pages on https or localhost only. Open this page as http://localhost:"
      + `${location.port || 80} on the server’s own machine, or ask its operator for https. The sample question works here.`;
  }
  if (!navigator.mediaDevices?.getUserMedia) return "This browser has no microphone access. The sample question works here.";
  return "";
}

export function explain(error) {
  const name = error?.name;
  if (name === "NotAllowedError") return "The microphone is not allowed. Click the lock or microphone sign beside the address, allow it, and press Talk again. The sample question works without it.";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "No microphone was found. Plug one in, or choose another in the settings. The sample question works without one.";
  if (name === "NotReadableError") return "The microphone is in use by another program, or the system refuses it. Close the other program and press Talk again.";
  return `The sound can’t be started: ${error?.message || error}`;
}

export class Sound {
  constructor({ onPiece, onPlayer }) {
    this.onPiece = onPiece;
    this.onPlayer = onPlayer;
    this.rate = MODEL_RATE;
  }

  // source: "microphone" or "sample". Must be called from a click.
  async open(source, options) {
    this.out = new AudioContext({ sampleRate: MODEL_RATE, latencyHint: "interactive" });
    await this.useSpeaker(options.speaker);
    this.player = await processor(this.out, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.player.port.onmessage = (event) => this.onPlayer(event.data);
    this.player.connect(this.out.destination);
    await this.out.resume();
    if (source === "microphone") await this.openMicrophone(options);
    else await this.openSample();
  }

  async openMicrophone(options) {
    const audio = { channelCount: 1, echoCancellation: options.echoCancellation, noiseSuppression: options.noiseSuppression, autoGainControl: options.autoGainControl };
    if (options.microphone) audio.deviceId = { exact: options.microphone };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    this.stream.getAudioTracks()[0].addEventListener("ended", () => this.onLost?.());
    try {
      await this.listen(new AudioContext({ sampleRate: MODEL_RATE, latencyHint: "interactive" }));
      this.node = this.in.createMediaStreamSource(this.stream);
    } catch { // some browsers want the microphone's own rate
      await this.in?.close();
      await this.listen(new AudioContext({ latencyHint: "interactive" }));
      this.node = this.in.createMediaStreamSource(this.stream);
    }
    this.node.connect(this.capture);
  }

  async openSample() {
    await this.listen(new AudioContext({ sampleRate: MODEL_RATE }));
    const response = await fetch("sample.flac");
    if (!response.ok) throw new Error("the sample is not there");
    const buffer = await this.in.decodeAudioData(await response.arrayBuffer());
    this.node = this.in.createBufferSource();
    this.node.buffer = buffer;
    this.node.connect(this.capture);
    this.startSample = () => this.node.start();
  }

  async listen(context) {
    this.in = context;
    this.rate = context.sampleRate;
    this.capture = await processor(context, "capture", { numberOfOutputs: 1 });
    this.capture.port.onmessage = (event) => this.onPiece(event.data);
    const silent = context.createGain();
    silent.gain.value = 0;
    this.capture.connect(silent).connect(context.destination); // so that it is run
    await context.resume();
  }

  async useSpeaker(id) {
    if (id && this.out?.setSinkId) await this.out.setSinkId(id).catch(() => {});
  }

  play(buffer) { this.player?.port.postMessage(buffer, [buffer]); }
  mute(muted) { this.capture?.port.postMessage({ muted }); }

  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    for (const context of [this.in, this.out]) if (context && context.state !== "closed") context.close();
    this.in = this.out = this.capture = this.player = this.stream = null;
  }
}
