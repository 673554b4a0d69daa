// OpenAI's agents for JavaScript: two turns by voice, the first interrupted.
//   node tests/clients/agents_realtime.mjs http://127.0.0.1:8017 QUESTION.pcm   (16 bit, 24 kHz)
import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";

const [url, file] = process.argv.slice(2);
const socket = `${url.replace("http", "ws")}/v1/realtime`;
const transport = new OpenAIRealtimeWebSocket({ url: socket, useInsecureApiKey: true });
const session = new RealtimeSession(new RealtimeAgent({ name: "ttt" }), { transport });

let sound = 0;
let interruptions = 0;
let finished = 0;
const problems = [];
session.on("audio", ({ data }) => { sound += data.byteLength; });
session.on("audio_interrupted", () => { interruptions += 1; });
session.on("error", ({ error }) => problems.push(JSON.stringify(error)));
transport.on("*", (event) => { if (event.type === "response.done") finished += 1; });

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition, what) {
  for (let waited = 0; !condition(); waited += 20) {
    if (waited > 20000) throw new Error(`never: ${what} (${problems})`);
    await sleep(20);
  }
}

await session.connect({ apiKey: "none", url: socket });
const question = readFileSync(file);
const silence = new ArrayBuffer(2 * 24000 * 1.5);
const say = () => {
  session.sendAudio(question.buffer.slice(question.byteOffset, question.byteOffset + question.length));
  session.sendAudio(silence);
};
say();
await until(() => sound > 0, "the first answer");
say();
await until(() => interruptions > 0, "the interruption");
await until(() => finished >= 2, "the second answer");
await sleep(300);
const answers = session.history.filter((item) => item.role === "assistant").map((item) => item.content[0].transcript);
const asked = session.history.filter((item) => item.role === "user").map((item) => item.content[0].transcript);
if (!asked.every((text) => text?.startsWith("tell me"))) throw new Error(`history: ${JSON.stringify(session.history)}`);
if (!answers.at(-1)) throw new Error(`answers: ${answers}`);
if (problems.length) throw new Error(problems.join());
session.close();
console.log("@openai/agents-realtime: two turns by voice with an interruption; history", JSON.stringify(answers));
process.exit(0);
