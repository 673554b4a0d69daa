// The page's two ends of sound: the microphone at 24 kHz out, the answer at 24 kHz in.
// The device keeps its own rate; both directions are resampled here.
import { Resampler } from "./resampler.js";

const RATE_HZ = 24000;
const PIECE = 480; // 20 ms

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE_HZ);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
  }

  process([input]) {
    if (!input.length) return true;
    for (const sample of this.resampler.push(input[0])) {
      this.piece[this.filled++] = sample;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

class Speaker extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.offset = 0; // within the first piece
    this.waiting = 0; // samples of the device that wait
    this.played = 0; // samples of the device, since the beginning
    this.told = 0;
    this.resampler = new Resampler(RATE_HZ, sampleRate);
    this.port.onmessage = ({ data }) => {
      if (data === "clear") {
        this.queue = [];
        this.offset = this.waiting = 0;
        this.resampler = new Resampler(RATE_HZ, sampleRate);
        this.tell(true);
        return;
      }
      const piece = this.resampler.push(data);
      this.queue.push(piece);
      this.waiting += piece.length;
    };
  }

  tell(cleared) {
    this.told = currentTime;
    const seconds = this.played / sampleRate;
    this.port.postMessage({ played: seconds, waiting: this.waiting / sampleRate, cleared });
  }

  process(inputs, [output]) {
    const out = output[0];
    let filled = 0;
    while (filled < out.length && this.queue.length) {
      const piece = this.queue[0];
      const count = Math.min(piece.length - this.offset, out.length - filled);
      out.set(piece.subarray(this.offset, this.offset + count), filled);
      filled += count;
      this.offset += count;
      if (this.offset === piece.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.played += filled;
    this.waiting -= filled;
    if ((filled || this.waiting) && currentTime - this.told > 0.05) this.tell(false);
    if (filled && !this.waiting) this.tell(false);
    return true;
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("speaker", Speaker);
