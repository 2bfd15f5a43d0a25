/** The reader's choices, kept in this browser: language and theme. */
import { useSyncExternalStore } from "react";

export type Language = "en" | "zh";
export type Theme = "system" | "light" | "dark";

interface Choice {
  language: Language;
  theme: Theme;
}

const KEY = "gristmill.choice";
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();
let choice: Choice = read();

function read(): Choice {
  const language: Language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Choice>;
    return { language: kept.language ?? language, theme: kept.theme ?? "system" };
  } catch {
    return { language, theme: "system" }; // storage may be forbidden
  }
}

function show(): void {
  const theme = choice.theme === "system" ? (dark.matches ? "dark" : "light") : choice.theme;
  document.documentElement.dataset.theme = theme;
  document.documentElement.lang = choice.language;
  listeners.forEach((listener) => listener());
}

export function choose(change: Partial<Choice>): void {
  choice = { ...choice, ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(choice));
  } catch {
    // the choice then holds until the page is closed
  }
  show();
}

export function currentChoice(): Choice {
  return choice;
}

export function useChoice(): Choice {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => choice,
  );
}

/** The theme that is shown, as one word: charts on canvas redraw when it changes. */
export function useShownTheme(): string {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => document.documentElement.dataset.theme ?? "light",
  );
}

dark.addEventListener("change", show);
show();
