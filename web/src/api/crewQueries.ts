/** What the screen of crew and quotas asks. */
import { infiniteQueryOptions } from "@tanstack/react-query";
import { get } from "./client";
import type { AuditEntry, Budgets, Crews, Lanes, Limits, Locks, Models, Packs, Page, Pools, Schedules, Sentence, SettingList, Workers } from "./types";

const one = <T>(key: string, path: string, query?: Record<string, number>) => ({
  queryKey: [key, query ?? path],
  queryFn: ({ signal }: { signal: AbortSignal }) => get<T>(path, query, signal),
});

export const workersQuery = one<Workers>("workers", "/workers");
export const poolsQuery = one<Pools>("crew", "/pools");
export const crewQuery = one<Crews>("crew", "/crew");
export const lanesQuery = { ...one<Lanes>("lanes", "/workers/lanes", { minutes: 10 }), refetchInterval: 2000 };
export const sentenceQuery = { ...one<Sentence>("sentence", "/sentence"), refetchInterval: 5000 };
export const limitsQuery = { ...one<Limits>("limits", "/limits"), refetchInterval: 3000 };
export const budgetsQuery = one<Budgets>("budgets", "/budgets");
export const modelsQuery = one<Models>("models", "/models");
export const locksQuery = one<Locks>("locks", "/locks");
export const schedulesQuery = one<Schedules>("schedules", "/schedules");
export const settingsQuery = one<SettingList>("settings", "/settings");
export const packsQuery = one<Packs>("packs", "/packs");

export const auditQuery = infiniteQueryOptions({
  queryKey: ["audit"],
  queryFn: ({ pageParam, signal }) => get<Page<AuditEntry>>("/audit", { limit: 100, after: pageParam }, signal),
  initialPageParam: null as string | null,
  getNextPageParam: (page) => page.next,
});
