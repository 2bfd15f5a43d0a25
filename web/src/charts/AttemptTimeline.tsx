/** One row per claim: who held it and for how long, its model calls, waits for a quota, and where a worker died and who took over. */
import { useMemo } from "react";
import type { AttemptRow, CallRow, Wait } from "../api/types";
import { Mark } from "../parts/Mark";
import { useReason, useWords } from "../words";
import { clock, duration } from "../words/numbers";
import { foldedTime, type FoldedTime } from "./foldedTime";

type Row = { n: number; from: number; to: number } & ({ kind: "attempt"; attempt: AttemptRow } | { kind: "wait"; wait: Wait; until: number });

function ms(iso: string | null | undefined, otherwise: number): number {
  return iso ? Date.parse(iso) : otherwise;
}

/** Attempts and what was given back between them, in the order of their claims. A wait ends at the latest with the next claim. */
function rowsOf(attempts: readonly AttemptRow[], waits: readonly Wait[], now: number): Row[] {
  const tries = attempts.map((attempt): Row => ({ kind: "attempt", attempt, n: attempt.n, from: ms(attempt.started_at, now), to: ms(attempt.ended_at, now) }));
  const given = waits.map((wait): Row => ({ kind: "wait", wait, n: wait.n, from: ms(wait.began_at, Date.parse(wait.since)), to: Date.parse(wait.since), until: Math.min(Date.parse(wait.until), now) }));
  const rows = [...tries, ...given].sort((one, other) => one.n - other.n || one.from - other.from);
  return rows.map((row, index) => {
    const next = rows[index + 1];
    return row.kind === "wait" && next ? { ...row, until: Math.max(row.to, Math.min(row.until, next.from)) } : row;
  });
}

function callSpan(call: CallRow): [number, number] | null {
  if (!call.made_at) return null;
  const to = new Date(call.made_at).getTime();
  return [to - (call.latency_ms ?? 0), to];
}

const percent = (part: number): string => `${(part * 100).toFixed(2)}%`;

function place(time: FoldedTime, from: number, to: number, least: number): React.CSSProperties {
  const [left, right] = [time.place(from), time.place(to)];
  return { left: percent(left), width: `max(${least}px, ${percent(right - left)})` };
}

function WaitLane({ row, time }: { row: Row & { kind: "wait" }; time: FoldedTime }): React.ReactNode {
  const { wait } = row;
  const reason = useReason();
  const quota = wait.reason.startsWith("quota: ");
  const took = duration((row.until - row.to) / 1000);
  return (
    <li className="attempt">
      <div className="attempt-name">
        <b>{row.n}</b>
        <span className="clip" title={wait.worker ?? ""}>{wait.worker ?? "–"}</span>
      </div>
      <div className="attempt-lane">
        <div className="attempt-bar attempt-released" style={place(time, row.from, row.to, 3)} />
        <div className="attempt-wait" style={place(time, row.to, row.until, 3)} title={`${clock(wait.since, true)} – ${clock(wait.until, true)}`} />
      </div>
      <div className="attempt-end">
        <Mark state={quota ? "quota" : "released"} />
        <span className="number">{took}</span>
      </div>
      <p className="attempt-note quiet">{reason(wait.reason)}</p>
    </li>
  );
}

function AttemptNotes({ attempt, next }: { attempt: AttemptRow; next: Row | undefined }): React.ReactNode {
  const say = useWords();
  const worker = attempt.worker ?? "–";
  const heir = next && (next.kind === "attempt" ? next.attempt.worker : next.wait.worker);
  return (
    <>
      {attempt.handed_on && <p className="attempt-note tone-failed">{heir ? say("piece.handed", { worker, next: heir }) : say("piece.handed.nobody", { worker })}</p>}
      {(attempt.message ?? attempt.error) && (
        <p className="attempt-note">
          {attempt.code && <code className="tone-failed">{attempt.code} </code>}
          {attempt.message ?? attempt.error}
        </p>
      )}
      {attempt.outcome === "running" && attempt.lease_until ? (
        <p className="attempt-note quiet">
          {say("piece.lease", { at: clock(attempt.lease_until, true) })}
          {attempt.beat_at && ` · ${say("piece.beat", { at: clock(attempt.beat_at, true) })}`}
        </p>
      ) : (
        attempt.handed_on && attempt.beat_at && <p className="attempt-note quiet">{say("piece.beat", { at: clock(attempt.beat_at, true) })}</p>
      )}
    </>
  );
}

function AttemptLane({ row, time, next }: { row: Row & { kind: "attempt" }; time: FoldedTime; next: Row | undefined }): React.ReactNode {
  const { attempt } = row;
  const worker = attempt.worker ?? "–";
  const took = duration((row.to - row.from) / 1000);
  return (
    <li className="attempt">
      <div className="attempt-name">
        <b>{row.n}</b>
        <span className="clip" title={worker}>{worker}</span>
      </div>
      <div className="attempt-lane">
        <div className={`attempt-bar attempt-${attempt.outcome}`} style={place(time, row.from, row.to, 3)} title={`${clock(attempt.started_at, true)}, ${took}`} />
        {attempt.calls.map((call) => {
          const spent = callSpan(call);
          return spent && <div key={call.id} className="attempt-call" style={place(time, Math.max(spent[0], row.from), Math.min(spent[1], row.to), 2)} title={`${call.model}, ${duration((call.latency_ms ?? 0) / 1000)}`} />;
        })}
        {attempt.beat_at && <i className="attempt-beat" style={{ left: percent(time.place(Math.min(Date.parse(attempt.beat_at), row.to))) }} title={clock(attempt.beat_at, true)} />}
        {attempt.handed_on && <div className="attempt-death" style={{ left: percent(time.place(row.to)) }} aria-hidden="true">✕</div>}
      </div>
      <div className="attempt-end">
        <Mark state={attempt.outcome} />
        <span className="number">{took}</span>
      </div>
      <AttemptNotes attempt={attempt} next={next} />
    </li>
  );
}

export function AttemptTimeline({ attempts, waits }: { attempts: readonly AttemptRow[]; waits: readonly Wait[] }): React.ReactNode {
  const say = useWords();
  const rows = useMemo(() => rowsOf(attempts, waits, Date.now()), [attempts, waits]);
  const time = useMemo(() => foldedTime(rows.map((row) => [row.from, row.kind === "wait" ? row.until : row.to])), [rows]);
  const last = rows.at(-1);
  const over = last && (last.kind === "attempt" ? last.attempt.ended_at : last.wait.until);
  return (
    <div className="attempts">
      <ol>
        {rows.map((row, index) =>
          row.kind === "wait" ? <WaitLane key={`w${row.n}`} row={row} time={time} /> : <AttemptLane key={row.n} row={row} time={time} next={rows[index + 1]} />,
        )}
      </ol>
      <div className="attempt-axis" aria-hidden="true">
        <span>{rows[0] && clock(new Date(rows[0].from).toISOString(), true)}</span>
        {time.folds.filter((fold) => fold.at > 0.08 && fold.at < 0.9).map((fold) => (
          <i key={fold.from} style={{ left: percent(fold.at + fold.width / 2) }}>
            ⁄⁄ {duration((fold.to - fold.from) / 1000)}
          </i>
        ))}
        <span>{over && Date.parse(over) <= Date.now() ? clock(over, true) : say("time.now")}</span>
      </div>
    </div>
  );
}
