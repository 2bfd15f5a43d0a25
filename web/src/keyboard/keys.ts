/** Keys: each screen names its own while it is shown, and `?` lists exactly those. */
import { useEffect, useRef, useSyncExternalStore } from "react";

export interface Key {
  keys: string; // "a", "Enter", "Mod+k", or a sequence "g n"
  about: string;
  go: () => void;
  typing?: boolean; // also while a field has the focus
}

interface Layer {
  place: "here" | "everywhere";
  keys: readonly Key[];
}

let layers: readonly Layer[] = [];
let first = ""; // the first key of a sequence that is under way
let firstAt = 0;
const listeners = new Set<() => void>();

function set(next: readonly Layer[]): void {
  layers = next;
  listeners.forEach((listener) => listener());
}

function isTyping(target: EventTarget | null): boolean {
  if (document.querySelector(".lsf-host")) return true; // the Label Studio editor has keys of its own
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}

function spelled(event: KeyboardEvent): string {
  const key = event.key === " " ? "Space" : event.key;
  return event.ctrlKey || event.metaKey ? `Mod+${key.toLowerCase()}` : key;
}

function onKey(event: KeyboardEvent): void {
  if (event.altKey || event.isComposing || event.defaultPrevented) return;
  const typing = isTyping(event.target);
  const pressed = spelled(event);
  const sequence = first && event.timeStamp - firstAt < 1200 ? `${first} ${pressed}` : "";
  for (const wanted of [sequence, pressed]) {
    if (!wanted) continue;
    for (const layer of [...layers].reverse()) {
      const hit = layer.keys.find((key) => key.keys === wanted && (!typing || key.typing));
      if (!hit) continue;
      // Enter and Space belong to the button or link that has the focus.
      if (/^(Enter|Space)$/.test(pressed) && event.target instanceof HTMLElement && event.target.closest("a,button,[role=button]")) return;
      if (dialogIsOpen() && !hit.typing) return;
      event.preventDefault();
      event.stopPropagation();
      first = "";
      hit.go();
      return;
    }
  }
  const starts = !typing && layers.some((layer) => layer.keys.some((key) => key.keys.startsWith(`${pressed} `)));
  first = starts ? pressed : "";
  firstAt = event.timeStamp;
}

function dialogIsOpen(): boolean {
  return document.querySelector("[role=dialog][data-state=open]:not([data-keys])") !== null;
}

window.addEventListener("keydown", onKey, true); // before the editor, which takes Ctrl+Enter for itself

/** Binds keys while the component is on the page. */
export function useKeys(place: Layer["place"], keys: readonly Key[]): void {
  const current = useRef(keys);
  current.current = keys;
  const shape = keys.map((key) => `${key.keys}:${key.about}`).join("|");
  useEffect(() => {
    const layer: Layer = {
      place,
      keys: current.current.map((key, index) => ({ ...key, go: () => current.current[index]?.go() })),
    };
    set([...layers, layer]);
    return () => set(layers.filter((other) => other !== layer));
  }, [place, shape]);
}

export function useLayers(): readonly Layer[] {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => layers,
  );
}
