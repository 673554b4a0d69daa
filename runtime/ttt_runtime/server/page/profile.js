// The running profile, asked for every second.
import { phaseBar } from "./timing.js";

const $ = (id) => document.getElementById(id);
const token = sessionStorage.getItem("ttt-token");
const cell = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

function tile(value, name) {
  const box = document.createElement("div");
  box.className = "tile";
  box.append(cell("b", value), cell("span", name));
  return box;
}

function draw(profile) {
  $("model").textContent = `${profile.model} · ${profile.runs_in.split(" (")[0]}`;
  const first = profile.figures["turn end to first audio"];
  $("tiles").replaceChildren(
    tile(first ? `${first.p50_ms.toFixed(0)} ms` : "-", "turn's end to first sound, p50"),
    tile(first ? `${first.p90_ms.toFixed(0)} ms` : "-", "p90"),
    tile(profile.sessions, "sessions"),
    tile(profile.waiting_turns, "turns being computed"),
    tile(`${(100 * profile.cpu_share).toFixed(0)} %`, "of one core, since the start"),
    tile(`${profile.peak_memory_mb.toFixed(0)} MB`, "memory at most"),
  );
  $("turns-now").replaceChildren(...profile.turns.slice(-14).reverse().map((turn) => {
    const row = document.createElement("div");
    row.className = "row";
    const end = cell("span", `${turn.total_ms.toFixed(0)} ms`);
    row.append(cell("span", `${turn.task}, ${turn.audio_seconds.toFixed(1)} s`), phaseBar(turn, { labels: false }), end);
    return row;
  }));
  $("figures").replaceChildren(...Object.entries(profile.figures).map(([name, figure]) => {
    const row = document.createElement("tr");
    row.append(cell("td", name), cell("td", figure.count));
    for (const key of ["p50_ms", "p90_ms", "p99_ms"]) row.append(cell("td", figure[key].toFixed(1)));
    return row;
  }));
}

async function look() {
  try {
    const answer = await fetch("/v1/profile", { headers: token ? { authorization: `Bearer ${token}` } : {} });
    if (answer.ok) draw(await answer.json());
    else $("model").textContent = (await answer.json()).error.message;
  } catch {
    $("model").textContent = "the server does not answer";
  }
  setTimeout(look, 1000);
}

look();
