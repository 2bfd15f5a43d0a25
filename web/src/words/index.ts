/** Words of the page in both languages. One entry holds both, so neither can lack a key. */
import { useCallback } from "react";
import { bulkWords } from "./bulk";
import { useChoice, type Language } from "./choice";
import { crewWords } from "./crew";
import { dataWords } from "./data";
import { frameWords } from "./frame";
import { markWords, reasonInChinese } from "./marks";
import { nowWords } from "./now";
import { pieceWords } from "./piece";
import { reviewWords } from "./review";
import { runWords } from "./run";
import { setupWords } from "./setup";
import { startWords } from "./start";

const words = {
  ...frameWords, ...nowWords, ...runWords, ...pieceWords, ...crewWords, ...reviewWords, ...dataWords, ...startWords, ...bulkWords, ...setupWords, ...markWords,
} as const;

export type Word = keyof typeof words;
export type Values = Record<string, string | number>;
export type Say = (word: Word, values?: Values) => string;

/** The text of a word: {name} is filled in; "one|many" is chosen by the value n, a number or its text. */
export function sayIn(language: Language, word: Word, values: Values = {}): string {
  const entry: readonly [string, string] = words[word];
  let text = entry[language === "zh" ? 1 : 0];
  const bar = text.indexOf("|");
  if (bar >= 0) text = String(values.n) === "1" ? text.slice(0, bar) : text.slice(bar + 1);
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function useWords(): Say {
  const { language } = useChoice();
  return useCallback((word, values) => sayIn(language, word, values), [language]);
}

/** A word that is made at run time, such as a state: itself, or what else is given, when it is not known. */
export function sayKnown(say: Say, prefix: string, name: string, values?: Values, otherwise = name.replaceAll("_", " ")): string {
  const key = `${prefix}.${name}`;
  return key in words ? say(key as Word, values) : otherwise;
}

/** What holds something up, as the server says it, in the language that is chosen. */
export function useReason(): (reason: string) => string {
  const { language } = useChoice();
  return (reason) => (language === "zh" ? reasonInChinese(reason) : reason);
}
