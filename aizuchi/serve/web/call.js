// One conversation over /v1/stream (docs/protocols.md), which outlives drops of the connection.
const RETRIES = [300, 700, 1500, 3000, 5000, 8000, 10000, 10000, 10000]; // ms; the server keeps a row for a minute

export class Call extends EventTarget {
  constructor({ settings, rate, key }) {
    super();
    Object.assign(this, { settings, rate, key, token: null, open: false, over: false, tries: 0, rtt: 0 });
    this.connect();
  }

  emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  connect() {
    const url = new URL("v1/stream", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const protocols = ["aizuchi"];
    if (this.key) protocols.push(`openai-insecure-api-key.${this.key}`);
    try {
      this.socket = new WebSocket(url, protocols);
    } catch (error) {
      this.finish("error", { code: "key", message: String(error.message) });
      return;
    }
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      const start = { type: "start", rate: this.rate, settings: this.settings };
      if (this.token) start.resume = this.token;
      this.send(start);
    };
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = (event) => this.closed(event);
  }

  receive(data) {
    if (data instanceof ArrayBuffer) { this.emit("sound", data); return; }
    const message = JSON.parse(data);
    if (message.type === "started" || message.type === "resumed") {
      this.token = message.token;
      this.open = true;
      this.tries = 0;
      clearInterval(this.pinger);
      this.ping();
      this.pinger = setInterval(() => this.ping(), 2000);
    }
    if (message.type === "pong") { this.rtt = performance.now() - message.t; return; }
    if (message.type === "end" || message.type === "error") { this.finish(message.type, message); return; }
    this.emit(message.type, message);
  }

  closed(event) {
    const was = this.open;
    this.open = false;
    clearInterval(this.pinger);
    if (this.over) return;
    if (this.token && this.tries < RETRIES.length) {
      if (was) this.emit("dropped", {});
      this.retry = setTimeout(() => this.connect(), RETRIES[this.tries++]);
    } else if (!this.token && event.code === 1006) {
      this.finish("error", { code: "refused", message: "The server can’t be reached, or it refuses: is an API key needed?" });
    } else {
      this.finish("error", { code: "lost", message: event.reason || "The connection was lost." });
    }
  }

  finish(kind, detail) {
    if (this.over) return;
    this.over = true;
    this.open = false;
    clearInterval(this.pinger);
    clearTimeout(this.retry);
    this.socket?.close(1000);
    this.emit("over", { kind, ...detail });
  }

  hangUp() {
    if (this.socket?.readyState === WebSocket.OPEN) this.send({ type: "end" });
    this.finish("end", { code: "bye", message: "" });
  }

  ping() { this.send({ type: "ping", t: performance.now() }); }
  send(message) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }
  // A stalled connection must not be filled: what can't be sent within a second is dropped.
  sendSound(buffer) {
    if (this.open && this.socket.bufferedAmount < 2 * this.rate) { this.socket.send(buffer); return true; }
    return false;
  }
}
