/** One row per attempt: who held it, for how long, its model calls, and where a worker died and who took over. */
import { useMemo } from "react";
import type { AttemptRow, CallRow } from "../api/types";
import { Mark } from "../parts/Mark";
import { useWords } from "../words";
import { clock, duration } from "../words/numbers";
import { foldedTime, type FoldedTime } from "./foldedTime";

function spanOf(attempt: AttemptRow, now: number): [number, number] {
  const from = attempt.started_at ? new Date(attempt.started_at).getTime() : now;
  return [from, attempt.ended_at ? new Date(attempt.ended_at).getTime() : now];
}

function callSpan(call: CallRow): [number, number] | null {
  if (!call.made_at) return null;
  const to = new Date(call.made_at).getTime();
  return [to - (call.latency_ms ?? 0), to];
}

const percent = (part: number): string => `${(part * 100).toFixed(2)}%`;

function Lane({ attempt, time, span, next }: { attempt: AttemptRow; time: FoldedTime; span: [number, number]; next: AttemptRow | undefined }): React.ReactNode {
  const say = useWords();
  const [from, to] = [time.place(span[0]), time.place(span[1])];
  const worker = attempt.worker ?? "–";
  const took = duration((span[1] - span[0]) / 1000);
  return (
    <li className="attempt">
      <div className="attempt-name">
        <b>{attempt.n}</b>
        <span className="clip" title={worker}>{worker}</span>
      </div>
      <div className="attempt-lane">
        <div className={`attempt-bar attempt-${attempt.outcome}`} style={{ left: percent(from), width: `max(3px, ${percent(to - from)})` }} title={`${clock(attempt.started_at, true)}, ${took}`} />
        {attempt.calls.map((call) => {
          const spent = callSpan(call);
          if (!spent) return null;
          const [start, end] = [time.place(Math.max(spent[0], span[0])), time.place(Math.min(spent[1], span[1]))];
          return <div key={call.id} className="attempt-call" style={{ left: percent(start), width: `max(2px, ${percent(end - start)})` }} title={`${call.model}, ${duration((call.latency_ms ?? 0) / 1000)}`} />;
        })}
        {attempt.handed_on && <div className="attempt-death" style={{ left: percent(to) }} aria-hidden="true">✕</div>}
      </div>
      <div className="attempt-end">
        <Mark state={attempt.outcome} />
        <span className="number">{took}</span>
      </div>
      {attempt.handed_on && (
        <p className="attempt-note tone-failed">
          {next?.worker ? say("piece.handed", { worker, next: next.worker }) : say("piece.handed.nobody", { worker })}
        </p>
      )}
      {(attempt.message ?? attempt.error) && (
        <p className="attempt-note">
          {attempt.code && <code className="tone-failed">{attempt.code} </code>}
          {attempt.message ?? attempt.error}
        </p>
      )}
      {attempt.outcome === "running" && attempt.lease_until && (
        <p className="attempt-note quiet">
          {say("piece.lease", { at: clock(attempt.lease_until, true) })}
          {attempt.beat_at && ` · ${say("piece.beat", { at: clock(attempt.beat_at, true) })}`}
        </p>
      )}
    </li>
  );
}

export function AttemptTimeline({ attempts }: { attempts: readonly AttemptRow[] }): React.ReactNode {
  const say = useWords();
  const now = Date.now();
  const spans = attempts.map((attempt) => spanOf(attempt, now));
  const time = useMemo(() => foldedTime(spans), [attempts]);
  const first = attempts[0]?.started_at;
  const last = attempts.at(-1);
  return (
    <div className="attempts">
      <ol>
        {attempts.map((attempt, index) => (
          <Lane key={attempt.n} attempt={attempt} time={time} span={spans[index] ?? [now, now]} next={attempts[index + 1]} />
        ))}
      </ol>
      <div className="attempt-axis" aria-hidden="true">
        <span>{clock(first, true)}</span>
        {time.folds.map((fold) => (
          <i key={fold.from} style={{ left: percent(fold.at + fold.width / 2) }}>
            ⁄⁄ {duration((fold.to - fold.from) / 1000)}
          </i>
        ))}
        <span>{last?.ended_at ? clock(last.ended_at, true) : say("time.now")}</span>
      </div>
    </div>
  );
}
