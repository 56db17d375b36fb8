// The audio processors: in the audio thread, or, where a page that the browser does not trust may not have one, in
// the page's own thread by a script node.
export async function processor(context, name, options) {
  if (context.audioWorklet) {
    await context.audioWorklet.addModule(`${name}.js`);
    return new AudioWorkletNode(context, name, options);
  }
  const { inner, outer } = await load(context, name);
  const node = context.createScriptProcessor(1024, 1, 1);
  node.onaudioprocess = ({ inputBuffer, outputBuffer }) => {
    inner.process([[inputBuffer.getChannelData(0)]], [[outputBuffer.getChannelData(0)]]);
  };
  return Object.assign(node, { port: outer });
}

const classes = {};
let channel = null; // of the processor that is being made

async function load(context, name) {
  globalThis.sampleRate = context.sampleRate; // what the audio thread would give them
  globalThis.AudioWorkletProcessor ??= class { constructor() { this.port = channel.port1; } };
  globalThis.registerProcessor ??= (known, made) => { classes[known] = made; };
  if (!classes[name]) await import(`./${name}.js`);
  channel = new MessageChannel();
  return { inner: new classes[name](), outer: channel.port2 };
}
