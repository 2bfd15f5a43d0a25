/** Live updates: one cursor, and a WebSocket or, where that cannot be had, polling. Both carry the same frames. */
import { get } from "../api/client";

export interface Frame {
  seq: number;
  at: string | null;
  kind: string;
  run: number | null;
  data: unknown;
}

interface Message {
  frames: Frame[];
  next: number; // all before it has been told
}

export type Freshness = "live" | "joining" | "polling" | "lost" | "hidden";
export interface LiveState {
  freshness: Freshness;
  at: number; // when something was last heard, by this browser's clock: it is only shown
}

type Listener = (frame: Frame) => void;

const POLL_MS = 2000;
const SLOWEST_MS = 15_000;

/** The connection. The last number seen is kept over drops, so that a dropped socket loses and repeats nothing. */
export class Live {
  state: LiveState = { freshness: "joining", at: Date.now() };
  private after: number | null = null;
  private socket: WebSocket | null = null;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly listeners = new Set<Listener>();
  private readonly watchers = new Set<() => void>();

  start(): void {
    document.addEventListener("visibilitychange", this.onVisible);
    this.open();
  }

  stop(): void {
    document.removeEventListener("visibilitychange", this.onVisible);
    this.close();
  }

  hear(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  /** Used when the reader signs in or out. */
  again(): void {
    this.close();
    this.failures = 0;
    this.open();
  }

  private readonly onVisible = (): void => {
    if (document.hidden) {
      this.close();
      this.show("hidden");
    } else {
      this.failures = 0;
      this.open();
    }
  };

  private close(): void {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  private show(freshness: Freshness): void {
    const at = freshness === "live" || freshness === "polling" ? Date.now() : this.state.at;
    this.state = { freshness, at };
    this.watchers.forEach((watcher) => watcher());
  }

  private take(message: Message): void {
    this.after = message.next;
    for (const frame of message.frames) this.listeners.forEach((listener) => listener(frame));
  }

  private open(): void {
    this.close();
    if (document.hidden) return this.show("hidden");
    if (this.failures > 2) return void this.poll();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const after = this.after === null ? "" : `?after=${this.after}`;
    const socket = new WebSocket(`${scheme}://${location.host}/api/ws${after}`);
    this.socket = socket;
    socket.onopen = () => {
      this.failures = 0;
      this.show("live");
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      if (this.state.freshness !== "live") this.show("live");
      this.take(JSON.parse(event.data) as Message);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return; // we closed it
      this.failures += 1;
      this.show("joining");
      this.timer = setTimeout(() => this.open(), Math.min(250 * 2 ** this.failures, SLOWEST_MS));
    };
  }

  private async poll(): Promise<void> {
    try {
      this.take(await get<Message>("/events", { after: this.after }));
      this.show("polling");
      this.failures += 1;
      if (this.failures % 15 === 0) this.failures = 1; // now and then, try the socket again
    } catch {
      this.show("lost");
    }
    this.timer = setTimeout(() => this.open(), this.state.freshness === "lost" ? POLL_MS * 2 : POLL_MS);
  }
}

export const live = new Live();
