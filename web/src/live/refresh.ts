/** What a frame makes old: queries of its kind are asked again, at once and then at most four times a second each. */
import type { QueryClient } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import { isDeep } from "../api/cache";
import { live, type Frame, type LiveState } from "./frames";
import { showRun } from "./runFrames";

const PAUSE_MS = 250;

const touched: Record<string, readonly string[]> = {
  run: ["runs", "run", "tasks", "items", "task", "overview", "throughput"],
  worker: ["workers", "lanes", "crew", "overview", "throughput", "task"],
  limit: ["limits", "sentence", "budgets"],
  lock: ["locks"],
  review: ["review", "records", "coverage"],
  event: ["throughput", "overview"],
};

/** Joins frames and queries; returns how to part them. */
export function keepFresh(client: QueryClient): () => void {
  const last = new Map<string, number>();
  const timers = new Map<string, ReturnType<typeof setTimeout>>();

  function refresh(key: string): void {
    if (timers.has(key)) return;
    const wait = Math.max(0, (last.get(key) ?? 0) + PAUSE_MS - performance.now());
    timers.set(
      key,
      setTimeout(() => {
        timers.delete(key);
        last.set(key, performance.now());
        void client.invalidateQueries({ queryKey: [key], predicate: (query) => !isDeep(query) });
      }, wait),
    );
  }

  const deaf = live.hear((frame: Frame) => {
    if (frame.kind === "run") showRun(client, frame);
    if (frame.kind === "reset") void client.invalidateQueries(); // another database: everything is old
    else (touched[frame.kind] ?? touched.event)?.forEach(refresh);
  });
  return () => {
    deaf();
    timers.forEach((timer) => clearTimeout(timer));
  };
}

export function useLive(): LiveState {
  return useSyncExternalStore(
    (watcher) => live.watch(watcher),
    () => live.state,
  );
}
