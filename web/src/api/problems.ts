/** Whether an error is worth another try by itself. */
import { Problem } from "./client";

export function worthAnotherTry(count: number, error: unknown): boolean {
  if (count >= 3) return false;
  return error instanceof Problem ? error.status === 0 || error.status === 429 || error.status >= 502 : false;
}

export function isMissing(error: unknown): boolean {
  return error instanceof Problem && error.status === 404;
}

export function needsLogin(error: unknown): boolean {
  return error instanceof Problem && error.status === 401;
}
