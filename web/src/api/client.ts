/** Every request to the API goes through here: one shape of errors, the session's token, a key for each change. */

export interface Where {
  [key: string]: unknown;
}

/** An answer that says no, in the words of the server (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly code: string,
    readonly hint: string,
    readonly safe: string,
  ) {
    super(detail || title);
  }
}

let csrf = "";
export function keepCsrf(token: string): void {
  csrf = token;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value);
}

async function problemOf(response: Response): Promise<Problem> {
  let body: Record<string, unknown> = {};
  try {
    body = (await response.json()) as Record<string, unknown>;
  } catch {
    // not ours: a proxy's page, or nothing at all
  }
  const title = text(body.title) || `${response.status} ${response.statusText}`.trim();
  return new Problem(response.status, title, text(body.detail), text(body.code), text(body.hint), text(body.safe));
}

export type Query = Record<string, string | number | boolean | null | undefined>;

export function address(path: string, query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, String(value));
  }
  const tail = search.toString();
  return `/api${path}${tail ? `?${tail}` : ""}`;
}

async function send(method: string, url: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("Accept", "application/json");
  if (method !== "GET") {
    headers.set("Idempotency-Key", crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`);
    if (csrf) headers.set("X-CSRF-Token", csrf);
  }
  let response: Response;
  try {
    response = await fetch(url, { ...init, method, headers, credentials: "same-origin" });
  } catch {
    throw new Problem(0, "offline", "", "", "", "");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function body<T>(response: Response): Promise<T> {
  if (response.status === 204) return undefined as T;
  return (await response.json()) as T;
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
  return body<T>(await send("GET", address(path, query), signal ? { signal } : {}));
}

export async function getText(path: string, query?: Query): Promise<string> {
  return (await send("GET", address(path, query), {})).text();
}

export async function change<T>(method: "POST" | "PUT" | "DELETE", path: string, value?: unknown, query?: Query, signal: AbortSignal | null = null): Promise<T> {
  const init = value === undefined ? {} : { body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
  return body<T>(await send(method, address(path, query), { ...init, signal }));
}

/** Sent though the page is being closed; nobody is there to hear the answer. */
export async function lastWord(path: string, value: unknown, signal: AbortSignal): Promise<void> {
  const init = { body: JSON.stringify(value), headers: { "Content-Type": "application/json" }, keepalive: true, signal };
  await send("POST", address(path), init).catch(() => undefined);
}

/** Sends files as they are; told() hears the part that has gone out, 0 to 1. */
export function upload<T>(path: string, files: readonly File[], told: (part: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.webkitRelativePath || file.name);
    const request = new XMLHttpRequest(); // fetch cannot tell how far an upload is
    request.open("POST", address(path));
    request.setRequestHeader("Idempotency-Key", crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`);
    if (csrf) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.onprogress = (event) => told(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Problem(0, "offline", "", "", "", ""));
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText) as T);
      else void problemOf(new Response(request.responseText, { status: request.status })).then(reject);
    };
    request.send(form);
  });
}
