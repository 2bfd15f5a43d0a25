/** What the screens ask. The first word of a key names the kind of frame that makes it old: see live/refresh. */
import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { change, get } from "./client";
import type { ActionState, AssignmentRow, AttemptDifference, CoverageRow, Difference, EditorTask, Exchange, ExportState, Failures, Flow, FormatInfo, Held, Histogram, Item, KeptUpload, Lineage, Page, Preview, RecordDetail, RecordRow, ReviewFigures, RunDetail, RunSummary, Story, TaskRow, Throughput, Upload, WaitingPieces, WantedAction, WholeCall, WorkflowInfo } from "./types";

const KEEP = { placeholderData: <T>(before: T | undefined) => before }; // the old answer stays in sight meanwhile

export const runsQuery = (limit: number) =>
  queryOptions({ queryKey: ["runs", limit], queryFn: ({ signal }) => get<Page<RunSummary>>("/runs", { limit }, signal), ...KEEP });

export const allRunsQuery = infiniteQueryOptions({
  queryKey: ["runs", "all"],
  queryFn: ({ pageParam, signal }) => get<Page<RunSummary>>("/runs", { limit: 100, after: pageParam }, signal),
  initialPageParam: null as string | null,
  getNextPageParam: (page) => page.next,
});

export const throughputQuery = (minutes: number, run?: number) =>
  queryOptions({
    queryKey: ["throughput", minutes, run],
    queryFn: ({ signal }) => get<Throughput>(run ? `/runs/${run}/throughput` : "/throughput", { minutes }, signal),
    ...KEEP,
  });

export const runQuery = (run: number) => queryOptions({ queryKey: ["run", run], queryFn: ({ signal }) => get<RunDetail>(`/runs/${run}`, {}, signal) });

export const flowQuery = (run: number) =>
  queryOptions({ queryKey: ["run", run, "flow"], queryFn: ({ signal }) => get<Flow>(`/runs/${run}/flow`, { points: 400 }, signal) });

export const failuresQuery = (run: number) =>
  queryOptions({ queryKey: ["run", run, "failures"], queryFn: ({ signal }) => get<Failures>(`/runs/${run}/failures`, {}, signal) });

export const differenceQuery = (run: number) =>
  queryOptions({
    queryKey: ["difference", run],
    queryFn: ({ signal }) => get<Difference>(`/runs/${run}/difference`, {}, signal),
    refetchInterval: false,
  });

export const heldQuery = (run: number) =>
  queryOptions({ queryKey: ["run", run, "held"], queryFn: ({ signal }) => get<Held[]>(`/runs/${run}/held_by`, {}, signal) });

export const tasksQuery = (run: number, state: string, stage: string, filter: string) =>
  infiniteQueryOptions({
    queryKey: ["tasks", run, state, stage, filter],
    queryFn: ({ pageParam, signal }) => get<Page<TaskRow>>(`/runs/${run}/tasks`, { state, stage, filter, limit: 200, after: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
  });

export const itemsQuery = (run: number, filter: string) =>
  infiniteQueryOptions({
    queryKey: ["items", run, filter],
    queryFn: ({ pageParam, signal }) => get<Page<Item>>(`/runs/${run}/items`, { filter, limit: 200, after: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
  });

export const storyQuery = (task: string) =>
  queryOptions({ queryKey: ["task", task], queryFn: ({ signal }) => get<Story>(`/tasks/${task}/story`, {}, signal) });

export const attemptDifferenceQuery = (task: number, of: number, to: number) =>
  queryOptions({
    queryKey: ["difference", task, of, to],
    queryFn: ({ signal }) => get<AttemptDifference>(`/tasks/${task}/difference`, { of, to }, signal),
    staleTime: Infinity,
    refetchInterval: false,
  });

export const callQuery = (id: string) =>
  queryOptions({ queryKey: ["call", id], queryFn: ({ signal }) => get<WholeCall>(`/calls/${id}`, {}, signal), staleTime: Infinity, refetchInterval: false });

export const recordQuery = (id: string) =>
  queryOptions({ queryKey: ["records", id], queryFn: ({ signal }) => get<RecordDetail>(`/records/${id}`, {}, signal) });

export const lineageQuery = (id: string) =>
  queryOptions({ queryKey: ["records", id, "lineage"], queryFn: ({ signal }) => get<Lineage>(`/records/${id}/lineage`, {}, signal) });

export const recordsQuery = (run: number, kind: string, filter: string) =>
  infiniteQueryOptions({
    queryKey: ["records", "list", run, kind, filter],
    queryFn: ({ pageParam, signal }) => get<Page<RecordRow>>("/records", { run, kind, filter, limit: 200, after: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
  });

export const coverageQuery = (run: number) =>
  infiniteQueryOptions({
    queryKey: ["coverage", run],
    queryFn: ({ pageParam, signal }) => get<Page<CoverageRow>>("/records/coverage", { run, limit: 50, after: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
  });

export type Spread = "score" | "length" | "label" | "duplicates" | "confidence";
export const histogramQuery = (run: number, field: Spread) =>
  queryOptions({
    queryKey: ["coverage", run, "histogram", field],
    queryFn: ({ signal }) => get<Histogram>("/records/histogram", { run, field }, signal),
    refetchInterval: false,
    ...KEEP,
  });

export const workflowsQuery = queryOptions({
  queryKey: ["workflows"],
  queryFn: ({ signal }) => get<WorkflowInfo[]>("/workflows", {}, signal),
  staleTime: 60_000,
  refetchInterval: false,
});

export const uploadsQuery = queryOptions({ queryKey: ["uploads"], queryFn: ({ signal }) => get<KeptUpload[]>("/uploads", {}, signal) });

export const uploadQuery = (id: string) =>
  queryOptions({ queryKey: ["upload", id], queryFn: ({ signal }) => get<Upload>(`/uploads/${id}`, {}, signal), staleTime: Infinity, refetchInterval: false });

export const formatsQuery = queryOptions({
  queryKey: ["formats"],
  queryFn: ({ signal }) => get<FormatInfo[]>("/exports/formats", {}, signal),
  staleTime: Infinity,
  refetchInterval: false,
});

export const reviewStatsQuery = (run: number) =>
  queryOptions({ queryKey: ["review", run, "stats"], queryFn: ({ signal }) => get<ReviewFigures>("/reviews/stats", { run }, signal) });

export const assignmentsQuery = (run: number) =>
  queryOptions({ queryKey: ["review", run, "assignments"], queryFn: ({ signal }) => get<AssignmentRow[]>("/reviews/assignments", { run }, signal) });

export const waitingQuery = queryOptions({
  queryKey: ["review", "waiting"],
  queryFn: ({ signal }) => get<WaitingPieces[]>("/reviews/waiting", {}, signal),
});

/** What an action would be about; nothing is done. */
export const foreseenQuery = (wanted: Partial<WantedAction>) =>
  queryOptions({
    queryKey: ["action", JSON.stringify(wanted)],
    queryFn: () => change<ActionState>("POST", "/actions", wanted),
    gcTime: 0, // a count is true only when it is asked for
    staleTime: 0,
    refetchInterval: false,
    retry: false,
  });

export const actionQuery = (id: number) =>
  queryOptions({
    queryKey: ["action", id],
    queryFn: ({ signal }) => get<ActionState>(`/actions/${id}`, {}, signal),
    refetchInterval: (query) => (query.state.data?.ended_at ? false : 700),
  });

export const editorQuery = (run: number, record: number) =>
  queryOptions({
    queryKey: ["editor", run, record],
    queryFn: ({ signal }) => get<EditorTask>(`/reviews/${record}/editor`, { run }, signal),
    gcTime: 0, // what stands may have been changed meanwhile
    refetchInterval: false,
    refetchOnWindowFocus: false, // the person's work is in the editor
  });

/** wanted: the body of the request as text, which is its key too. */
export const previewQuery = (wanted: string) =>
  queryOptions({
    queryKey: ["preview", wanted],
    queryFn: () => change<Preview>("POST", "/exports/preview", JSON.parse(wanted)),
    refetchInterval: false,
    retry: false,
    ...KEEP,
  });

export const exportQuery = (id: number) =>
  queryOptions({
    queryKey: ["export", id],
    queryFn: ({ signal }) => get<ExportState>(`/exports/${id}`, {}, signal),
    refetchInterval: (query) => (["waiting", "running"].includes(query.state.data?.state ?? "waiting") ? 700 : false),
  });

export const exchangeQuery = (id: number) =>
  queryOptions({
    queryKey: ["exchange", id],
    queryFn: ({ signal }) => get<Exchange>(`/label-studio/${id}`, {}, signal),
    refetchInterval: (query) => (["waiting", "running"].includes(query.state.data?.state ?? "waiting") ? 700 : false),
  });
