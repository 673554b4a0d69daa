// The page: microphone, conversation, and what they show.
import { Picture } from "./drawing.js";
import { Realtime, fromBase64, toBase64 } from "./realtime.js";
import { phaseBar } from "./timing.js";

const $ = (id) => document.getElementById(id);
const SHORTEST_PRESS_MS = 150;
const SAMPLES = ["what is the capital of italy", "how much is three plus four", "what is the opposite of hot",
  "set a timer for five minutes", "what day comes after monday"];
const processed = new URLSearchParams(location.search).get("processing") !== "off";

const picture = new Picture($("orb"), $("wave"));
const page = {
  mode: "free", token: sessionStorage.getItem("ttt-token") ?? "", connection: null, context: null, speaker: null,
  listening: false, pressedAt: 0, answering: null, pushed: 0, played: 0, turn: null, items: new Map(),
};
window.ttt = page; // for tests

function show(state, text) {
  picture.state = state;
  document.body.dataset.state = state;
  $("status").textContent = text;
}

// --- sound

async function openSound() {
  if (page.context) return page.context.resume();
  const context = new AudioContext();
  await context.audioWorklet.addModule("/page/worklets.js");
  page.speaker = new AudioWorkletNode(context, "speaker", { numberOfInputs: 0, outputChannelCount: [1] });
  page.speaker.connect(context.destination);
  page.speaker.port.onmessage = ({ data }) => {
    page.played = data.played;
    if (data.cleared) page.pushed = data.played;
    if (!data.cleared && data.waiting === 0 && !page.answering) rest();
  };
  page.context = context;
}

async function openMicrophone() {
  if (page.microphone) return;
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: processed, noiseSuppression: processed, autoGainControl: processed },
  });
  const node = new AudioWorkletNode(page.context, "microphone", { numberOfOutputs: 0 });
  page.context.createMediaStreamSource(stream).connect(node);
  node.port.onmessage = ({ data }) => {
    if (!page.listening) return;
    picture.hear(data);
    page.connection?.send("input_audio_buffer.append", { audio: toBase64(data) });
  };
  page.microphone = { stream, node };
}

function play(item, samples) {
  const known = page.items.get(item);
  if (!known || known.cut) return;
  known.begin ??= Math.max(page.pushed, page.played);
  page.pushed = Math.max(page.pushed, page.played) + samples.length / 24000;
  page.speaker?.port.postMessage(samples);
  const delay = Math.max(0, page.pushed - page.played - samples.length / 24000);
  for (let start = 0; start < samples.length; start += 960) {
    const piece = samples.subarray(start, start + 960);
    setTimeout(() => !known.cut && picture.play(piece), 1000 * (delay + start / 24000));
  }
}

// Stop the sound, and tell the server how much of the answer was heard.
function interrupt() {
  const item = page.newest;
  const known = item && page.items.get(item);
  if (!known || known.cut || known.begin === undefined || page.pushed <= page.played + 0.02) return;
  known.cut = true;
  known.view.classList.add("cut");
  page.speaker?.port.postMessage("clear");
  const heard = Math.max(0, Math.min(page.played - known.begin, known.sent));
  page.connection.send("conversation.item.truncate",
    { item_id: item, content_index: 0, audio_end_ms: Math.floor(1000 * heard) });
}

function rest() {
  if (page.mode === "free" && page.listening) show("listening", "I am listening");
  else show("idle", page.mode === "press" ? "Hold the button and speak" : "Paused");
}

// --- conversation

function newTurn() {
  $("empty").hidden = true;
  const turn = document.createElement("li");
  const you = Object.assign(document.createElement("p"), { className: "said you" });
  const it = Object.assign(document.createElement("p"), { className: "said it" });
  turn.append(you, it);
  $("turns").append(turn);
  return { turn, you, it };
}

const handlers = {
  "session.created": ({ session }) => { $("model").textContent = session.model; },
  "input_audio_buffer.speech_started": () => {
    interrupt();
    show("hearing", "I hear you");
  },
  "input_audio_buffer.speech_stopped": () => show("thinking", "One moment"),
  "conversation.item.added": ({ item }) => {
    if (item.role === "user") {
      page.turn = newTurn();
      page.items.set(item.id, { view: page.turn.you, sent: 0 });
      const typed = item.content?.find((part) => part.text)?.text;
      if (typed) page.turn.you.textContent = typed;
    }
  },
  "conversation.item.deleted": ({ item_id }) => {
    page.items.get(item_id)?.view.closest("li")?.remove();
    page.items.delete(item_id);
  },
  "conversation.item.input_audio_transcription.delta": ({ item_id, delta }) => {
    const known = page.items.get(item_id);
    if (known) known.view.textContent += delta;
  },
  "conversation.item.input_audio_transcription.completed": ({ item_id, transcript }) => {
    const known = page.items.get(item_id);
    if (known) known.view.textContent = transcript || "(nothing was heard)";
  },
  "conversation.item.truncated": ({ item_id }) => page.connection.send("conversation.item.retrieve", { item_id }),
  "conversation.item.retrieved": ({ item }) => {
    const known = page.items.get(item.id);
    if (known?.cut) known.view.textContent = `${item.content[0]?.transcript ?? ""}\u2026`;
  },
  "response.created": ({ response }) => { page.answering = response.id; },
  "response.output_item.added": ({ item }) => {
    page.turn ??= newTurn();
    page.newest = item.id;
    page.items.set(item.id, { view: page.turn.it, sent: 0, turn: page.turn.turn });
  },
  "response.output_audio_transcript.delta": ({ item_id, delta }) => {
    page.items.get(item_id).view.textContent += delta;
    $("turns").lastElementChild.scrollIntoView({ block: "nearest" });
  },
  "response.output_audio.delta": ({ item_id, delta }) => {
    const samples = fromBase64(delta);
    const known = page.items.get(item_id);
    known.sent += samples.length / 24000;
    if (document.body.dataset.state !== "hearing") show("answering", "Answering: speak to interrupt");
    play(item_id, samples);
  },
  "response.done": ({ response }) => {
    page.answering = null;
    page.turn = null;
    if (response.status === "cancelled") page.items.get(response.output[0]?.id)?.view.classList.add("cut");
    if (response.status === "failed") show("idle", "That failed; try again");
    else if (page.pushed <= page.played) rest();
  },
  "ttt.timing": (timing) => {
    const known = page.items.get(page.newest);
    known?.turn?.append(phaseBar(timing));
    page.timings = (page.timings ?? 0) + 1;
    $("turns").lastElementChild?.scrollIntoView({ block: "nearest" });
  },
  error: ({ error }) => {
    if (error.code !== "response_cancel_not_active") show("idle", error.message);
  },
};

function session() {
  const detection = page.mode === "free" ? { type: "semantic_vad" } : null;
  page.connection.send("session.update", {
    session: { type: "realtime", include: ["ttt.timing"], audio: { input: { turn_detection: detection } } },
  });
}

async function connect() {
  if (page.connection) return;
  const connection = new Realtime(page.token);
  connection.addEventListener("event", ({ detail }) => handlers[detail.type]?.(detail));
  connection.addEventListener("closed", ({ detail }) => {
    page.connection = null;
    stopListening();
    show("idle", detail || "The connection ended; press to connect again");
  });
  await connection.open;
  page.connection = connection;
  session();
}

// --- talking

function stopListening() {
  page.listening = false;
  $("talk").setAttribute("aria-pressed", "false");
  label();
}

function label() {
  $("talk-label").textContent = page.mode === "press" ? "Hold to talk" : page.listening ? "Pause" : "Start talking";
}

async function start() {
  try {
    await openSound();
    await connect();
    await openMicrophone();
  } catch (error) {
    show("idle", error.name === "NotAllowedError" ? "The microphone is not allowed here" : error.message);
    return false;
  }
  return true;
}

async function toggle() {
  if (page.listening) {
    stopListening();
    page.connection?.send("input_audio_buffer.clear");
    return rest();
  }
  if (!(await start())) return;
  page.listening = true;
  $("talk").setAttribute("aria-pressed", "true");
  label();
  rest();
}

async function press() {
  if (page.pressedAt) return;
  page.pressedAt = performance.now();
  $("talk").setAttribute("aria-pressed", "true");
  if (!(await start()) || !page.pressedAt) return release();
  interrupt();
  if (page.answering) page.connection.send("response.cancel");
  page.connection.send("input_audio_buffer.clear");
  page.listening = true;
  show("hearing", "I hear you");
}

function release() {
  if (!page.pressedAt) return;
  const held = performance.now() - page.pressedAt;
  page.pressedAt = 0;
  const spoke = page.listening;
  stopListening();
  if (!spoke || held < SHORTEST_PRESS_MS) return rest();
  page.connection.send("input_audio_buffer.commit");
  page.connection.send("response.create");
  show("thinking", "One moment");
}

async function type(text) {
  try {
    await openSound();
    await connect();
  } catch (error) {
    return show("idle", error.message);
  }
  interrupt();
  if (page.answering) page.connection.send("response.cancel");
  page.connection.send("conversation.item.create",
    { item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
  page.connection.send("response.create");
  show("thinking", "One moment");
}

const button = $("talk");
button.addEventListener("click", () => page.mode === "free" && toggle());
button.addEventListener("pointerdown", (event) => {
  if (page.mode !== "press") return;
  button.setPointerCapture(event.pointerId);
  press();
});
for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, () => page.mode === "press" && release());
const typing = (event) => event.target.matches?.("input[type=text], input[type=password]");
addEventListener("keydown", (event) => {
  if (event.code !== "Space" || typing(event) || event.target.matches?.("#samples button, #typed button")) return;
  event.preventDefault();
  if (event.repeat) return;
  if (page.mode === "press") press();
  else toggle();
});
addEventListener("keyup", (event) => {
  if (event.code !== "Space" || typing(event)) return;
  event.preventDefault();
  if (page.mode === "press") release();
});
addEventListener("blur", () => page.mode === "press" && release());
for (const choice of document.querySelectorAll("input[name=mode]")) {
  choice.addEventListener("change", () => {
    page.mode = choice.value;
    if (page.listening) stopListening();
    if (page.connection) session();
    label();
    $("hint").textContent = page.mode === "press"
      ? "Hold the button, or the space bar, while you speak. Press again to interrupt."
      : "Press the button, or the space bar, and speak. Speak over an answer to interrupt it.";
    rest();
  });
}
$("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  if (text) type(text);
});
for (const text of SAMPLES) {
  const sample = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  sample.addEventListener("click", () => type(text));
  const entry = document.createElement("li");
  entry.append(sample);
  $("samples").append(entry);
}

export async function withToken(path) {
  const headers = page.token ? { authorization: `Bearer ${page.token}` } : {};
  return fetch(path, { headers });
}

const answer = await withToken("/v1/models");
if (answer.status === 401) {
  $("ask-token").showModal();
  $("ask-token").addEventListener("close", () => {
    sessionStorage.setItem("ttt-token", $("token").value.trim());
    location.reload();
  });
} else {
  $("model").textContent = (await answer.json()).data[0].id;
}
