/** A state as shape, word and colour: none of the three is needed to read the other two. */
import { sayKnown, useWords } from "../words";

type Tone = "done" | "running" | "waiting" | "failed" | "reviewed" | "paused" | "skipped";
type Shape = "check" | "dot" | "ring" | "cross" | "bars" | "dash" | "diamond" | "half" | "pen";

const looks: Record<string, readonly [Tone, Shape]> = {
  waiting: ["waiting", "ring"], available: ["waiting", "ring"], proposed: ["waiting", "ring"], starting: ["waiting", "ring"],
  running: ["running", "half"], work: ["running", "half"], active: ["running", "half"], alive: ["running", "half"],
  completed: ["done", "check"], done: ["done", "check"], accepted: ["done", "check"],
  reviewed: ["reviewed", "check"], edited: ["reviewed", "pen"],
  partial: ["failed", "diamond"], failed: ["failed", "cross"], rejected: ["failed", "cross"], dead: ["failed", "cross"],
  crashed: ["failed", "cross"], lost: ["failed", "cross"], quarantined: ["failed", "diamond"], blacklisted: ["failed", "diamond"],
  paused: ["paused", "bars"], draining: ["paused", "bars"], quota: ["paused", "bars"], snoozed: ["paused", "bars"],
  cancelled: ["skipped", "dash"], skipped: ["skipped", "dash"], empty: ["skipped", "dash"], stopped: ["skipped", "dash"],
  in_use: ["running", "half"], used: ["done", "check"], unused: ["waiting", "ring"],
  idle: ["skipped", "dot"], released: ["skipped", "dot"],
};

const paths: Record<Shape, React.ReactNode> = {
  check: <path d="M2.2 6.4 5 9.2 10 3.4" fill="none" strokeWidth="2" />,
  cross: <path d="M2.8 2.8l6.4 6.4M9.2 2.8 2.8 9.2" fill="none" strokeWidth="2" />,
  ring: <circle cx="6" cy="6" r="3.8" fill="none" strokeWidth="1.8" />,
  dot: <circle cx="6" cy="6" r="2.4" stroke="none" />,
  half: <path d="M3.2 1.8v8.4L10 6z" strokeWidth="0.8" />,
  bars: <path d="M3.6 2.4v7.2M8.4 2.4v7.2" fill="none" strokeWidth="2.2" />,
  dash: <path d="M2 6h8" fill="none" strokeWidth="2" />,
  diamond: <path d="M6 1 11 6 6 11 1 6z" stroke="none" />,
  pen: <path d="M2.2 9.8l.6-2.6 5-5 2 2-5 5z" fill="none" strokeWidth="1.5" />,
};

export function toneOf(state: string): Tone {
  return looks[state]?.[0] ?? "skipped";
}

export function Shape({ state }: { state: string }): React.ReactNode {
  const [tone, shape] = looks[state] ?? (["skipped", "dot"] as const);
  return (
    <svg className={`shape tone-${tone}`} viewBox="0 0 12 12" width="11" height="11" aria-hidden="true">
      {paths[shape]}
    </svg>
  );
}

export function Mark({ state, count }: { state: string; count?: string }): React.ReactNode {
  const say = useWords();
  return (
    <span className="mark">
      <Shape state={state} />
      {count !== undefined && <b>{count}</b>}
      {sayKnown(say, "state", state)}
    </span>
  );
}
