// The orb around the button, and the waveform of the last seconds.
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Picture {
  constructor(orb, wave) {
    this.orb = orb.getContext("2d");
    this.wave = wave.getContext("2d");
    this.mine = this.its = 0; // levels now
    this.bars = Array.from({ length: 150 }, () => [0, 0]);
    this.state = "idle";
    this.mineNow = this.itsNow = 0;
    setInterval(() => this.shift(), 40);
    const frame = (time) => {
      this.draw(time / 1000);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  hear(samples) {
    this.mineNow = Math.max(this.mineNow, rms(samples));
  }

  play(samples) {
    this.itsNow = Math.max(this.itsNow, rms(samples));
  }

  shift() {
    this.bars.push([this.mineNow, this.itsNow]);
    this.bars.shift();
    this.mine = Math.max(this.mineNow, this.mine * 0.8);
    this.its = Math.max(this.itsNow, this.its * 0.8);
    this.mineNow = this.itsNow = 0;
  }

  draw(time) {
    const { orb, wave } = this;
    const size = orb.canvas.width;
    const middle = size / 2;
    orb.clearRect(0, 0, size, size);
    const turning = calm ? 0 : time;
    const layers = [
      [colour("--you"), loud(this.mine), 1, 5],
      [colour("--it"), loud(this.its), -1, 7],
    ];
    for (const [paint, level, way, lobes] of layers) {
      for (let ring = 0; ring < 3; ring++) {
        orb.beginPath();
        for (let i = 0; i <= 180; i++) {
          const angle = (i / 180) * 2 * Math.PI;
          const idle = 0.012 * Math.sin(angle * 3 + turning * way + ring);
          const swing = level * (0.12 + 0.05 * ring) * Math.sin(lobes * angle + way * turning * (2 + ring));
          const radius = middle * (0.62 + ring * 0.055 + level * 0.16 + idle + swing);
          orb.lineTo(middle + radius * Math.cos(angle), middle + radius * Math.sin(angle));
        }
        orb.globalAlpha = (0.2 + 0.7 * level) / (1 + ring * 0.7);
        orb.lineWidth = 4;
        orb.strokeStyle = paint;
        orb.stroke();
        orb.globalAlpha *= 0.14;
        orb.fillStyle = paint;
        orb.fill();
      }
    }
    orb.globalAlpha = 1;
    if (this.state === "thinking") {
      const begin = turning * 5;
      orb.beginPath();
      orb.arc(middle, middle, middle * 0.56, begin, begin + 1.6);
      orb.lineWidth = 10;
      orb.lineCap = "round";
      orb.strokeStyle = colour("--it");
      orb.stroke();
    }
    const { width, height } = wave.canvas;
    wave.clearRect(0, 0, width, height);
    const step = width / this.bars.length;
    for (const [number, [mine, its]] of this.bars.entries()) {
      for (const [level, paint] of [[mine, "--you"], [its, "--it"]]) {
        const tall = Math.max(loud(level) * height * 0.95, level ? 3 : 0);
        wave.fillStyle = colour(paint);
        wave.globalAlpha = 0.85;
        wave.fillRect(number * step, (height - tall) / 2, step * 0.6, tall);
      }
    }
    wave.globalAlpha = 0.35;
    wave.fillStyle = colour("--soft");
    wave.fillRect(0, height / 2 - 1, width, 2);
    wave.globalAlpha = 1;
  }
}

function rms(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / Math.max(samples.length, 1));
}

// Loudness on a scale of 0 to 1: -50 dB and less is nothing, -10 dB is all.
function loud(level) {
  return Math.min(Math.max((20 * Math.log10(level + 1e-6) + 50) / 40, 0), 1);
}
