// OpenAI's JavaScript client over TLS: two turns by voice, the first interrupted and truncated.
//   NODE_EXTRA_CA_CERTS=cert.pem node openai_realtime_ws.mjs https://localhost:8017 QUESTION.pcm
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [url, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const realtime = await OpenAIRealtimeWS.create(client, { model: "ttt" });
const question = readFileSync(file);
const silence = Buffer.alloc(2 * 24000 * 1.2);
let sounding, done = 0, truncated = 0, transcript = "";
const fail = (error) => { console.error(error); process.exit(1); };

function say() {
  const data = Buffer.concat([question, silence]);
  for (let at = 0; at < data.length; at += 9600) {
    realtime.send({ type: "input_audio_buffer.append", audio: data.subarray(at, at + 9600).toString("base64") });
  }
}

realtime.on("error", fail);
realtime.on("session.created", () => realtime.send({ type: "session.update",
  session: { type: "realtime", audio: { input: { turn_detection: { type: "server_vad" } } } } }));
realtime.on("session.updated", say);
realtime.on("response.output_audio.delta", ({ item_id }) => {
  if (sounding) return;
  sounding = item_id;
  say();
});
realtime.on("input_audio_buffer.speech_started", () => {
  if (!sounding || truncated) return;
  truncated = 1;
  realtime.send({ type: "conversation.item.truncate", item_id: sounding, content_index: 0, audio_end_ms: 300 });
});
realtime.on("conversation.item.truncated", () => { truncated = 2; });
realtime.on("response.output_audio_transcript.done", (event) => { transcript = event.transcript; });
realtime.on("response.done", () => {
  done += 1;
  if (done < 2) return;
  if (truncated !== 2 || !transcript.startsWith("the capital of")) fail(`${truncated} ${transcript}`);
  console.log("openai (JavaScript, TLS): two turns by voice with an interruption;", transcript);
  process.exit(0);
});
setTimeout(() => fail("it took too long"), 40000);
