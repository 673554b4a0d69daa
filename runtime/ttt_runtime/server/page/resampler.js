// Windowed-sinc resampling, sample by sample, for streams. Rates in Hz.
const HALF = 16; // zero crossings on each side

export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cut = Math.min(1, to / from) * 0.94;
    this.reach = Math.ceil(HALF / this.cut);
    this.data = new Float32Array(this.reach);
    this.at = this.reach;
  }

  // Take Float32Array at `from`; return what is final at `to`.
  push(piece) {
    if (this.step === 1) return piece.slice();
    const data = new Float32Array(this.data.length + piece.length);
    data.set(this.data);
    data.set(piece, this.data.length);
    const out = [];
    while (this.at + this.reach < data.length) {
      const middle = Math.floor(this.at);
      let sum = 0;
      for (let i = middle - this.reach + 1; i <= middle + this.reach; i++) {
        const x = (this.at - i) * this.cut;
        const sinc = Math.abs(x) < 1e-9 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
        const window = 0.5 + 0.5 * Math.cos((Math.PI * (this.at - i)) / this.reach);
        sum += (data[i] ?? 0) * sinc * window;
      }
      out.push(sum * this.cut);
      this.at += this.step;
    }
    const drop = Math.max(0, Math.floor(this.at) - this.reach);
    this.data = data.slice(drop);
    this.at -= drop;
    return Float32Array.from(out);
  }
}
