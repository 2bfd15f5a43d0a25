/** Numbers, money and times as a person reads them; figures that would round to zero change their unit. */
import { sayIn } from "./index";
import type { Language } from "./choice";

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-US");
}

export function short(value: number): string {
  if (value < 10_000) return count(value);
  if (value < 1_000_000) return `${Math.round(value / 100) / 10} k`;
  return `${Math.round(value / 10_000) / 100} M`;
}

export function rate(perMinute: number | null | undefined): string {
  if (perMinute === null || perMinute === undefined) return "–";
  if (perMinute === 0) return "0";
  if (perMinute >= 10) return count(Math.round(perMinute));
  if (perMinute >= 0.1) return perMinute.toFixed(1);
  return `${(perMinute * 60).toFixed(1)}/h`;
}

export function money(value: number | string | null | undefined): string {
  if (value === null || value === undefined || value === "") return "–";
  const dollars = Number(value);
  if (dollars === 0) return "$0";
  if (Math.abs(dollars) < 0.01) return `${(dollars * 100).toFixed(dollars < 0.0001 ? 4 : 2)} ¢`;
  return `$${dollars.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function percent(part: number | null | undefined): string {
  if (part === null || part === undefined || Number.isNaN(part)) return "–";
  const value = part * 100;
  if (value > 0 && value < 1) return "<1 %";
  return `${value >= 99.95 || value === 0 ? Math.round(value) : value > 99 ? Math.floor(value * 10) / 10 : Math.round(value)} %`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, seconds);
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${String(Math.round((s % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.round(s / 86_400)} d`;
}

export function bytes(value: number): string {
  if (value < 1024) return `${value} B`;
  if (value < 1024 ** 2) return `${(value / 1024).toFixed(1)} KB`;
  if (value < 1024 ** 3) return `${(value / 1024 ** 2).toFixed(1)} MB`;
  return `${(value / 1024 ** 3).toFixed(2)} GB`;
}

export function clock(iso: string | null | undefined, seconds = false): string {
  if (!iso) return "–";
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  const time = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}) });
  return today ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}

/** How long ago, or in how long; both clocks may differ, so it is never exact to the second. */
export function relative(iso: string | null | undefined, language: Language): string {
  if (!iso) return "–";
  const seconds = (new Date(iso).getTime() - Date.now()) / 1000;
  if (Math.abs(seconds) < 2) return sayIn(language, "time.now");
  const time = duration(Math.abs(seconds));
  return seconds < 0 ? sayIn(language, "time.ago", { time }) : sayIn(language, "time.in", { time });
}

export function seconds(from: string, to: string | null | undefined): number {
  return ((to ? new Date(to).getTime() : Date.now()) - new Date(from).getTime()) / 1000;
}
