// The Realtime connection: events in and out, and what was played of which answer.
export function toBase64(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) pcm[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
  return btoa(String.fromCharCode(...new Uint8Array(pcm.buffer)));
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (s) => s / 32768);
}

export class Realtime extends EventTarget {
  constructor(token) {
    super();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const protocols = ["realtime"];
    if (token) protocols.push(`openai-insecure-api-key.${token}`);
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/realtime`, protocols);
    this.open = new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onerror = () => reject(new Error("the server does not answer"));
    });
    this.socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      this.dispatchEvent(new CustomEvent("event", { detail: event }));
    };
    this.socket.onclose = ({ reason }) => {
      this.dispatchEvent(new CustomEvent("closed", { detail: reason }));
    };
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this.socket.close();
  }
}
