/** Who is looking: on this machine nobody has to say, elsewhere a token makes a session. */
import { queryOptions } from "@tanstack/react-query";
import { live } from "../live/frames";
import { change, get } from "./client";
import { cache } from "./cache";
import type { Session } from "./types";

export const sessionQuery = queryOptions({
  queryKey: ["session"],
  queryFn: ({ signal }) => get<Session>("/session", {}, signal),
  staleTime: 60_000,
});

export async function signIn(token: string): Promise<void> {
  await change("POST", "/session", { token });
  await cache.invalidateQueries();
  live.again();
}

export async function signOut(): Promise<void> {
  await change("DELETE", "/session");
  cache.clear();
  await cache.invalidateQueries();
  live.again();
}
