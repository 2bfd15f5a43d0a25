/** Cumulative flow: what is done lies at the bottom, the latest stage lowest; above it what runs, failed and waits. */
import { useMemo } from "react";
import type { EventMark, Flow } from "../api/types";
import { sayKnown, useWords, type Say } from "../words";
import { useShownTheme } from "../words/choice";
import { Plot, type Band } from "./Plot";
import { Legend, marksOf } from "./Ribbon";
import { colour, stageColour } from "./paint";

type Kind = "waiting" | "running" | "done" | "failed";

function sum(flow: Flow, kind: Kind): number[] {
  return flow.times.map((_, index) => flow.stages.reduce((total, stage) => total + (stage[kind][index] ?? 0), 0));
}

function bandsOf(flow: Flow, chosen: string, say: Say): Band[] {
  const stage = flow.stages.find((other) => other.name === chosen);
  const done: Band[] = stage
    ? [{ name: sayKnown(say, "state", "done"), values: stage.done, fill: colour("done") }]
    : flow.stages.map((each, place) => ({ name: each.name, values: each.done, fill: stageColour(place) })).reverse();
  const values = (kind: Kind): number[] => (stage ? stage[kind] : sum(flow, kind));
  const failed: Band = { name: say("state.failed"), values: values("failed"), fill: colour("failed"), hatch: true };
  return [
    ...done,
    { name: say("state.running"), values: values("running"), fill: colour("ink-3") },
    ...(failed.values.some((value) => value > 0) ? [failed] : []),
    { name: say("state.waiting"), values: values("waiting"), fill: colour("waiting") },
  ];
}

export function FlowPicture({ flow, marks, chosen }: { flow: Flow; marks: readonly EventMark[]; chosen: string }): React.ReactNode {
  const say = useWords();
  const theme = useShownTheme();
  const times = useMemo(() => flow.times.map((time) => new Date(time).getTime() / 1000), [flow]);
  const bands = useMemo(() => bandsOf(flow, chosen, say), [flow, chosen, say, theme]);
  const lines = useMemo(() => marksOf(marks, say), [marks, say]);
  return (
    <>
      <Plot label={say("run.flow")} times={times} bands={bands} marks={lines} height={300} />
      <Legend bands={[...bands].reverse()} />
    </>
  );
}
