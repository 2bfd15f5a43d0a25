/** A frame of a run carries its state and totals: they are shown at once, before anything is asked again. */
import type { QueryClient } from "@tanstack/react-query";
import type { RunDetail, RunSummary } from "../api/types";
import type { Frame } from "./frames";

interface Counted {
  waiting: number;
  running: number;
  done: number;
  failed: number;
  cancelled: number;
  empty: number;
  reused: number;
}

interface RollUp {
  state: string;
  epoch: number;
  stages: (Counted & { name: string })[];
}

type Counts = RunSummary["progress"];

function countsOf(stages: readonly Counted[]): Counts {
  const sum = (name: keyof Counted): number => stages.reduce((whole, stage) => whole + stage[name], 0);
  const [done, running, waiting, failed] = [sum("done"), sum("running"), sum("waiting"), sum("failed")];
  return { done, running, waiting, failed, total: done + running + waiting + failed, empty: sum("empty"), reused: sum("reused"), skipped: sum("cancelled") };
}

function withTotals<T extends RunSummary>(run: T, told: RollUp): T {
  return { ...run, state: told.state, epoch: told.epoch, progress: told.stages.length > 0 ? countsOf(told.stages) : run.progress };
}

interface Listed {
  items?: RunSummary[];
  pages?: Listed[];
}

function inList(list: Listed, id: number, told: RollUp): Listed {
  return {
    ...list,
    ...(list.items ? { items: list.items.map((run) => (run.id === id ? withTotals(run, told) : run)) } : {}),
    ...(list.pages ? { pages: list.pages.map((page) => inList(page, id, told)) } : {}),
  };
}

export function showRun(client: QueryClient, frame: Frame): void {
  const told = frame.data as Partial<RollUp>;
  if (frame.run === null || told.state === undefined || told.stages === undefined || told.epoch === undefined) return;
  const id = frame.run;
  const whole = told as RollUp;
  client.setQueriesData<Listed>({ queryKey: ["runs"] }, (list) => list && inList(list, id, whole));
  client.setQueryData<RunDetail>(["run", id], (run) => {
    if (!run) return run;
    const stages = run.stages.map((stage) => {
      const now = whole.stages.find((each) => each.name === stage.name);
      return now ? { ...stage, ...countsOf([now]) } : stage;
    });
    return { ...withTotals(run, whole), stages };
  });
}
