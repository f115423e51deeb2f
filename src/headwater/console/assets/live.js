// A watch on some devices that survives lost connections: it comes back by itself, resumes behind the last event that it
// saw, and says what was missed.

import { token } from "./session.js";

const BACK_OFF_FIRST_MS = 500;
const BACK_OFF_MAX_MS = 15_000;
const TOKEN_EVERY_MS = 10 * 60_000; // an access token lives for fifteen minutes
const SILENT_MS = 10_000; // for a server that takes the connection and then says nothing

export class Live {
  /** on: {event(event), state("connecting" | "live" | "lost" | "ended", problem), missed(count or null)} */
  constructor(wanted, on) {
    this.wanted = wanted;
    this.on = on;
    this.lastId = null;
    this.attempt = 0;
    this.closed = false;
    this.online = () => { if (this.waiting) { clearTimeout(this.waiting); this.connect(); } };
    addEventListener("online", this.online);
    this.connect();
  }

  async connect() {
    this.waiting = null;
    this.on.state(this.attempt ? "lost" : "connecting");
    let accessToken;
    try {
      accessToken = await token();
    } catch {
      return this.again();
    }
    if (this.closed) return;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`);
    this.socket = socket;
    this.silence = setTimeout(() => socket.close(), SILENT_MS);
    socket.onopen = () => socket.send(JSON.stringify({
      type: "subscribe", access_token: accessToken, batch: true, ...this.wanted,
      ...(this.lastId ? { last_event_id: this.lastId } : {}),
    }));
    socket.onmessage = (message) => this.heard(JSON.parse(message.data));
    socket.onclose = () => { if (this.socket === socket) this.again(); };
  }

  heard(said) {
    if (Array.isArray(said)) {
      for (const event of said) {
        if (event.id) this.lastId = event.id;
        if (event.type === "missed") this.on.missed(event.count);
        else this.on.event(event);
      }
    } else if (said.type === "subscribed") {
      clearTimeout(this.silence);
      this.attempt = 0;
      this.lastId ??= said.id;
      this.on.state("live");
      clearInterval(this.renewing);
      this.renewing = setInterval(() => this.renew(), TOKEN_EVERY_MS);
    } else if (said.type === "error") {
      this.ended(said.problem);
    }
  }

  /** What a further attempt cannot mend ends the watch; the rest comes back by itself. */
  ended(problem) {
    if (problem.status === 401) token(true).catch(() => this.close());
    else if (problem.status === 400 || problem.status === 403 || problem.status === 404) {
      this.close();
      this.on.state("ended", problem);
    }
  }

  async renew() {
    const accessToken = await token(true).catch(() => null);
    if (accessToken && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ type: "authenticate", access_token: accessToken }));
    }
  }

  again() {
    clearTimeout(this.silence);
    clearInterval(this.renewing);
    if (this.closed) return;
    this.on.state("lost");
    const wait = Math.min(BACK_OFF_MAX_MS, BACK_OFF_FIRST_MS * 2 ** this.attempt++) * (0.5 + Math.random() / 2);
    this.waiting = setTimeout(() => this.connect(), wait);
  }

  close() {
    this.closed = true;
    clearTimeout(this.waiting);
    clearTimeout(this.silence);
    clearInterval(this.renewing);
    removeEventListener("online", this.online);
    this.socket?.close();
  }
}
