// The page: buttons, meters and words around a call.
import { Call } from "./call.js";
import { Sound, explain, microphoneProblem } from "./sound.js";
import { Tape } from "./tape.js";
import { Timeline, clock } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const SLIDERS = ["temperature", "top_k", "text_temperature", "text_top_k", "eager", "repetition_penalty"];
const BOXES = ["echoCancellation", "noiseSuppression", "autoGainControl"];
const REFUSALS = {
  busy: "Too many people are waiting. Try again in a few minutes.",
  idle: "The conversation ended because no sound came.",
  length: "The conversation reached its longest time.",
  stopping: "The server is being stopped.",
  failed: "The model failed in this conversation. Talk starts a new one.",
  taken: "The conversation went on in another window.",
};

const timeline = new Timeline($("timeline"));
let info = null, call = null, sound = null, tape = null, muted = false, line = null, player = {}, stats = {};
let startSource = "microphone";
window.aizuchi = { get call() { return call; }, get tape() { return tape; }, get player() { return player; } }; // to look inside

// Notices.

function notice(id, text, bad = false) {
  $(`notice-${id}`)?.remove();
  if (!text) return;
  const box = document.createElement("div");
  box.id = `notice-${id}`;
  box.className = bad ? "bad" : "";
  box.setAttribute("role", bad ? "alert" : "status");
  const words = document.createElement("span");
  words.append(...text.split("`").map((part, i) => i % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.onclick = () => box.remove();
  box.append(words, close);
  $("notices").append(box);
}

function state(name, text) {
  document.documentElement.dataset.state = name;
  $("state").textContent = text;
  const running = name !== "ready";
  $("talk").textContent = running ? "End" : "Talk";
  $("talk").classList.toggle("on", running);
  $("sample").disabled = running;
  $("mute").disabled = !running;
  $("inject-text").disabled = $("inject").querySelector("button").disabled = name !== "talking" || !info?.model.text;
  $("save-sound").disabled = $("save-words").disabled = !tape?.frames;
}

// Settings.

function settings() {
  const values = Object.fromEntries(SLIDERS.map((id) => [id, Number($(id).value)]));
  values.padding_bonus = -values.eager;
  delete values.eager;
  return values;
}

function showSettings() {
  for (const id of SLIDERS) document.querySelector(`output[for=${id}]`).value = Number($(id).value);
}

function usual(id) { return id === "eager" ? 0 - info.settings.padding_bonus : info.settings[id]; }

function defaults() {
  for (const id of SLIDERS) $(id).value = usual(id);
  $("seed").value = "";
  BOXES.forEach((id) => { $(id).checked = true; });
  remember();
}

function remember() { // of the sliders, only those that were moved: another model may have other defaults
  const moved = SLIDERS.filter((id) => Number($(id).value) !== usual(id));
  const kept = Object.fromEntries([...moved, "seed", "microphone", "speaker"].map((id) => [id, $(id).value]));
  BOXES.forEach((id) => { kept[id] = $(id).checked; });
  try { localStorage.setItem("aizuchi", JSON.stringify(kept)); } catch { /* private windows */ }
  showSettings();
}

function recall() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem("aizuchi")) || {}; } catch { /* nothing kept */ }
  for (const id of [...SLIDERS, "seed"]) if (kept[id] !== undefined) $(id).value = kept[id];
  BOXES.forEach((id) => { if (kept[id] !== undefined) $(id).checked = kept[id]; });
  showSettings();
  return kept;
}

async function listDevices(kept = { microphone: $("microphone").value, speaker: $("speaker").value }) {
  if (!navigator.mediaDevices?.enumerateDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  for (const [id, kind] of [["microphone", "audioinput"], ["speaker", "audiooutput"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default");
    $(id).replaceChildren($(id).options[0], ...found.map((d, i) => new Option(d.label || `${id} ${i + 1}`, d.deviceId)));
    if (found.some((d) => d.deviceId === kept[id])) $(id).value = kept[id];
  }
  $("speaker-label").hidden = !("setSinkId" in AudioContext.prototype);
}

// The call.

async function talk(source) {
  if (document.documentElement.dataset.state !== "ready") { hangUp(); return; }
  notice("sound", "");
  notice("over", "");
  if (source === "microphone" && microphoneProblem()) { notice("sound", microphoneProblem(), true); return; }
  startSource = source;
  state("opening", source === "microphone" ? "asking for the microphone …" : "loading the sample …");
  const mine = sound = new Sound({ onPiece, onPlayer });
  mine.onLost = () => notice("sound", "The microphone was unplugged or taken away. End the call and press Talk again.", true);
  try {
    const options = { microphone: $("microphone").value, speaker: $("speaker").value };
    BOXES.forEach((id) => { options[id] = $(id).checked; });
    await mine.open(source, options);
    if (sound !== mine) { mine.close(); return; } // ended meanwhile
  } catch (error) {
    notice("sound", explain(error), true);
    mine.close();
    sound = null;
    state("ready", "ready");
    return;
  }
  listDevices();
  tape = new Tape(mine.rate);
  timeline.tape = tape;
  timeline.marks = [];
  $("words").replaceChildren();
  line = null;
  setMute(false);
  state("connecting", "connecting …");
  const wanted = settings();
  if ($("seed").value) wanted.seed = Number($("seed").value);
  call = new Call({ settings: wanted, rate: mine.rate, key: $("key").value.trim() });
  const on = { started, resumed, sound: heardFrame, skipped: (m) => tape.skip(m), gap: () => { tape.gap(); timeline.draw(); }, text, stats: showStats, queue, notice: noted, dropped, over };
  for (const [type, handler] of Object.entries(on)) call.addEventListener(type, (event) => handler(event.detail));
}

function hangUp() {
  if (call && !call.over) call.hangUp();
  else { sound?.close(); sound = null; state("ready", "ready"); }
}

function started(message) {
  state("talking", "talking");
  notice("queue", "");
  if (tape.frames) timeline.marks.push({ frame: tape.frames, text: "new conversation" });
  tape.settings = message.settings;
  tape.began = new Date().toISOString();
  $("seed").placeholder = `random (now ${message.settings.seed})`;
  sound.startSample?.();
  loadInfo();
}

function resumed(message) {
  state("talking", "talking");
  notice("drop", "");
  while (tape.frames < message.frame) tape.gap(); // what was said and did not arrive
  tape.skipped = 0;
  for (const list of [tape.user, tape.userLevels]) list.splice(Math.max(0, message.frame - tape.dropped));
  tape.rest = new Int16Array(0);
  while (tape.heardFrames < message.frame) tape.hear(new Int16Array(tape.perFrame));
  timeline.marks.push({ frame: message.frame, text: "resumed" });
}

function dropped() {
  state("dropped", "reconnecting …");
  notice("drop", "The connection dropped. The conversation is kept for a minute and goes on when the network is back.");
}

function queue(message) {
  const wait = message.expected_wait;
  const time = wait == null ? "" : wait < 90 ? `, about ${Math.max(1, Math.round(wait))} s` : `, about ${Math.round(wait / 60)} min`;
  state("queued", `in the queue: place ${message.position}${time}`);
  notice("queue", message.why === "slow"
    ? "The machine is at its limit: another conversation would disturb those that run. You are let in as soon as one fits."
    : "All places are taken. Keep this page open: you are let in when it is your turn.");
}

function noted(message) {
  if (message.code === "stopping" || message.code === "too_slow" || message.code === "speed" || message.code === "not_resumed" || message.code === "settings") notice(message.code, message.message);
  if (message.code === "not_resumed") notice("drop", "");
}

function over(message) {
  sound?.close();
  sound = null;
  notice("queue", "");
  notice("drop", "");
  state("ready", "ended");
  if (message.code !== "bye") notice("over", REFUSALS[message.code] || message.message, message.kind === "error");
  for (const id of ["said", "heard"]) $(id).value = -60;
  loadInfo();
}

// Sound and words.

function onPiece(buffer) {
  const samples = new Int16Array(buffer);
  let power = 0;
  for (const x of samples) power += x * x;
  $("heard").value = 10 * Math.log10(power / samples.length / 2 ** 30 + 1e-10);
  if (call?.open && call.sendSound(buffer)) {
    tape.hear(samples);
    timeline.draw();
  }
}

function heardFrame(buffer) {
  tape.say(new Int16Array(buffer.slice(0)));
  sound?.play(buffer);
  $("clock").textContent = clock(tape.frames);
  timeline.draw();
  if (tape.frames === 1) state("talking", "talking");
}

function onPlayer(report) {
  player = report;
  $("said").value = report.db;
  if (!call?.open) return;
  // Half a frame until it is whole, the piece that is being filled, the server, the network, and what waits here.
  const parts = { collecting: 50, server: stats.delay_ms ?? 0, network: Math.round(call.rtt), playing: Math.round(1000 * report.waiting) };
  const sum = Object.values(parts).reduce((a, b) => a + b, 0);
  $("delay").textContent = `${sum} ms`;
  $("delay").title = Object.entries(parts).map(([name, ms]) => `${name} ${ms} ms`).join(", ");
  const lag = 80 * (stats.waiting_frames ?? 0);
  $("lag").textContent = `${lag} ms`;
  const skipped = 0.08 * ((stats.skipped_silent ?? 0) + (stats.skipped_oldest ?? 0) + (stats.unsent ?? 0)) + report.skipped;
  $("skipped").textContent = `${skipped.toFixed(1)} s`;
}

function showStats(message) { stats = message; }

function text(message) {
  tape.words.push(message);
  const pause = line && message.frame - line.last > 12;
  if (!line || pause || (message.begins && line.node.textContent.length > 160)) {
    const row = document.createElement("p");
    const time = document.createElement("time");
    time.textContent = clock(message.frame);
    const node = document.createElement("span");
    row.append(time, node);
    $("words").append(row);
    line = { node };
  }
  line.last = message.frame;
  line.node.textContent += line.node.textContent ? message.text : message.text.trimStart();
  $("words").scrollTop = $("words").scrollHeight;
}

function setMute(on) {
  muted = on;
  sound?.mute(on);
  $("mute").setAttribute("aria-pressed", String(on));
  $("mute").textContent = on ? "Muted" : "Mute";
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The page itself.

async function loadInfo() {
  try {
    info = await (await fetch("v1/info")).json();
  } catch {
    $("model").textContent = "the server can’t be reached";
    setTimeout(loadInfo, 3000);
    return;
  }
  const { model, rows } = info;
  $("model").textContent = `${model.name} · ${rows.used} of ${rows.all} places taken${rows.queue ? `, ${rows.queue} waiting` : ""}`;
  $("key-label").hidden = !info.keys;
  $("record-note").textContent = info.recording ? "This server records conversations: both voices and the words." : "This server does not record conversations.";
  $("version").textContent = `aizuchi ${info.version}`;
  if (!info.ready) setTimeout(loadInfo, 1000);
}

async function main() {
  state("ready", "ready");
  await loadInfo();
  if (!info) return;
  defaultsOnce();
  if (info.model.random) notice("random", "This model has random weights: it was not trained, babbles, and understands nothing. Start the server with `--model` to talk with a real one.");
  if (info.echo) notice("echo", "This server is an echo: you hear yourself, after the time that the model takes. It is there to measure the delay.");
  if (info.recording) notice("recording", "The operator of this server records conversations: your voice, the model’s, and its words.", true);
  if (info.keys) { notice("key", "This server asks for an API key: put it into the settings."); $("settings").open = true; }
  if (!info.real_time) notice("too_slow", `This machine is too slow for this model: it needs ${Math.round(info.step_ms)} ms for 80 ms of sound.`);
  if (microphoneProblem()) notice("sound", microphoneProblem(), true);
  await listDevices(recall());
}

function defaultsOnce() {
  for (const id of SLIDERS) $(id).value = usual(id);
  showSettings();
}

$("talk").onclick = () => talk("microphone");
$("sample").onclick = () => talk("sample");
$("mute").onclick = () => setMute(!muted);
$("reset").onclick = () => { defaults(); call?.send({ type: "configure", settings: settings() }); };
$("speaker").onchange = () => { sound?.useSpeaker($("speaker").value); remember(); };
$("microphone").onchange = remember;
$("seed").onchange = () => { $("seed").value = $("seed").value.replace(/\D/g, "").slice(0, 9); remember(); };
BOXES.forEach((id) => { $(id).onchange = remember; });
for (const id of SLIDERS) {
  $(id).oninput = showSettings;
  $(id).onchange = () => { remember(); call?.send({ type: "configure", settings: settings() }); };
}
$("inject").onsubmit = (event) => {
  event.preventDefault();
  const words = $("inject-text").value.trim();
  if (words && call?.open) { call.send({ type: "inject", text: words }); $("inject-text").value = ""; }
};
$("save-sound").onclick = async () => save(await tape.wav(), "conversation.wav");
$("save-words").onclick = () => save(new Blob([tape.transcript({ began: tape.began, model: info.model.name, settings: tape.settings })], { type: "application/json" }), "conversation.json");
document.addEventListener("keydown", (event) => { // M mutes, outside of fields
  if (event.key.toLowerCase() === "m" && !event.ctrlKey && !event.metaKey && !event.altKey && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && !$("mute").disabled) setMute(!muted);
});
addEventListener("pagehide", () => sound?.close());
main();
