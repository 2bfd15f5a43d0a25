/** Throughput ribbon: pieces per minute, stacked by stage, with marks for what happened. */
import { useMemo } from "react";
import type { EventMark, Throughput } from "../api/types";
import { sayKnown, useWords, type Say } from "../words";
import { useShownTheme } from "../words/choice";
import { Plot, type Band, type Mark } from "./Plot";
import { colour, stageColour } from "./paint";

const CROWD = 8; // with more marks than this, beginnings and ends of runs are left out

/** What happened, in the language that is chosen. */
function told({ event, text, facts = {} }: EventMark, say: Say): string {
  const words = Object.entries(facts).map(([name, value]) => [name, ["state", "what", "scope"].includes(name) ? sayKnown(say, name === "state" ? name : `mark.${name}`, String(value)) : (value ?? "")]);
  return sayKnown(say, "mark", event, { ...Object.fromEntries(words), worker: facts.worker ?? say("mark.worker"), n: facts.tasks ?? 0 }, text);
}

/** Which events are worth a line in a picture, and how they are meant. */
export function marksOf(marks: readonly EventMark[], say: Say): Mark[] {
  const loud = marks.filter((mark) => !/^worker\.(started|stopped)$/.test(mark.event));
  const shown = loud.length > CROWD ? loud.filter((mark) => !/^run\.(start|end)$/.test(mark.event)) : loud;
  return shown.map((mark) => ({
    at: new Date(mark.at).getTime() / 1000,
    text: told(mark, say),
    tone: /dead|died|fail|quarantin|lost|blacklist/.test(mark.event + mark.text) ? "failed" : /limit|quota|budget|pause|block/.test(mark.event) ? "paused" : "ink-2",
  }));
}

const LEAST = 15; // minutes in sight

/** How many minutes are worth showing: quiet ones before the first sign of life are not. */
export function minutesIn(throughput: Throughput): number {
  const length = throughput.minutes.length;
  const busy = throughput.minutes.findIndex((_, index) => throughput.series.some((series) => (series.completed[index] ?? 0) + (series.failed[index] ?? 0) > 0));
  const marked = throughput.marks.map((mark) => Date.parse(mark.at)).sort((a, b) => a - b)[0];
  const toldAt = marked === undefined ? -1 : throughput.minutes.findIndex((minute) => Date.parse(minute) + 60_000 > marked);
  const first = Math.min(...[busy, toldAt].filter((index) => index >= 0), length);
  return Math.max(Math.min(length, LEAST), length - Math.max(0, first - 1));
}

/** The last minutes of it. */
function lately(throughput: Throughput): Throughput {
  const from = throughput.minutes.length - minutesIn(throughput);
  return {
    ...throughput,
    minutes: throughput.minutes.slice(from),
    series: throughput.series.map((series) => ({ ...series, completed: series.completed.slice(from), failed: series.failed.slice(from) })),
  };
}

/** Steps need a point where the last one ends. */
function withEnd(values: readonly number[], end: (last: number) => number): number[] {
  const last = values.at(-1);
  return last === undefined ? [] : [...values, end(last)];
}

export function Ribbon({ throughput: whole, height = 190 }: { throughput: Throughput; height?: number }): React.ReactNode {
  const throughput = useMemo(() => lately(whole), [whole]);
  const say = useWords();
  const theme = useShownTheme();
  const times = useMemo(() => withEnd(throughput.minutes.map((minute) => new Date(minute).getTime() / 1000), (last) => last + 60), [throughput]);
  const bands = useMemo<Band[]>(() => {
    const done = throughput.series.map((series, place) => ({ name: series.stage, values: withEnd(series.completed, (last) => last), fill: stageColour(place) }));
    const failed = throughput.minutes.map((_, index) => throughput.series.reduce((sum, series) => sum + (series.failed[index] ?? 0), 0));
    return failed.some((value) => value > 0) ? [...done, { name: say("state.failed"), values: withEnd(failed, (last) => last), fill: colour("failed"), hatch: true }] : done;
  }, [throughput, theme, say]);
  const marks = useMemo(() => marksOf(throughput.marks, say), [throughput, say]);
  return (
    <>
      <Plot label={say("now.ribbon")} times={times} bands={bands} marks={marks} height={height} stepped />
      <Legend bands={bands} />
    </>
  );
}

export function Legend({ bands }: { bands: readonly Band[] }): React.ReactNode {
  return (
    <div className="legend">
      {bands.map((band) => (
        <span key={band.name}>
          <i className={band.hatch ? "bar-failed" : ""} style={band.hatch ? {} : { background: band.fill }} aria-hidden="true" />
          {band.name}
        </span>
      ))}
    </div>
  );
}
