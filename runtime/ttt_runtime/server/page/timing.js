// The bar of a turn's phases in milliseconds.
const NAMES = { encode: "hear", prefill: "read", text: "write", block: "speak", commit: "keep", decode: "sound" };

export function phaseBar(timing, { labels = true } = {}) {
  const box = document.createElement("div");
  box.className = "timing";
  const bar = document.createElement("div");
  bar.className = "bar";
  const total = timing.phases.reduce((sum, phase) => sum + phase.ms, 0) || 1;
  const sums = new Map();
  for (const { phase, ms } of timing.phases) {
    const piece = document.createElement("i");
    piece.className = phase;
    piece.style.width = `${(100 * ms) / total}%`;
    piece.title = `${phase}: ${ms.toFixed(1)} ms`;
    bar.append(piece);
    sums.set(phase, (sums.get(phase) ?? 0) + ms);
  }
  box.append(bar);
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", [...sums].map(([p, ms]) => `${p} ${ms.toFixed(0)} ms`).join(", "));
  if (!labels) return bar;
  const line = document.createElement("p");
  const first = timing.turn_end_to_first_audio_ms;
  if (first !== null && first !== undefined) {
    const strong = document.createElement("strong");
    strong.textContent = `first sound ${first.toFixed(0)} ms after your turn`;
    line.append(strong);
  }
  for (const [phase, ms] of sums) {
    const label = document.createElement("em");
    label.className = phase;
    label.title = phase;
    label.textContent = `${NAMES[phase] ?? phase} ${ms.toFixed(0)} ms`;
    line.append(label);
  }
  box.append(line);
  return box;
}
