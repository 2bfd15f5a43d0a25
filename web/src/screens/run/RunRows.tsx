/** Runs as a table: one bar each, when it is ready, what it costs, and what holds it. */
import { Link } from "@tanstack/react-router";
import type { Money, RunSummary } from "../../api/types";
import { Bar } from "../../parts/Bar";
import { Mark } from "../../parts/Mark";
import { useReason, useWords } from "../../words";
import { useChoice } from "../../words/choice";
import { clock, count, duration, money, percent, relative } from "../../words/numbers";

export function spent(cost: readonly Money[]): string {
  if (cost.length === 0) return "–";
  return cost.map((part) => (part.currency === "USD" ? money(part.amount) : `${part.amount} ${part.currency}`)).join(" + ");
}

export function isOpen(run: RunSummary): boolean {
  return !["completed", "partial", "failed", "cancelled"].includes(run.state);
}

export function partsOf(run: { progress: RunSummary["progress"] }): { state: string; value: number }[] {
  const { done, running, failed, skipped } = run.progress;
  return [{ state: "done", value: done }, { state: "running", value: running }, { state: "failed", value: failed }, { state: "skipped", value: skipped }];
}

export function RunRows({ runs }: { runs: readonly RunSummary[] }): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const { language } = useChoice();
  return (
    <div className="scroll-x">
      <table className="plain-table run-table">
        <thead>
          <tr>
            <th>{say("now.run")}</th>
            <th>{say("now.state")}</th>
            <th className="run-bar">{say("now.progress")}</th>
            <th className="number">{say("now.done")}</th>
            <th className="number">{say("now.ready")}</th>
            <th className="number">{say("now.cost")}</th>
            <th>{say("now.held")}</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => {
            const { done, total, failed, skipped } = run.progress;
            return (
              <tr key={run.id}>
                <td className="nowrap">
                  <Link to="/runs/$run" params={{ run: String(run.id) }} className="strong-link">
                    {run.name}
                  </Link>
                </td>
                <td>
                  <Mark state={run.state} />
                </td>
                <td className="run-bar">
                  <Bar parts={partsOf(run)} total={total} />
                </td>
                <td className="number">
                  {count(done)}
                  <span className="quiet"> / {count(total)}</span>
                  <span className="run-percent">{percent(total ? (done + failed + skipped) / total : null)}</span>
                </td>
                <td className="number" title={clock(run.ready_at ?? run.ended_at)}>
                  {isOpen(run) ? relative(run.ready_at, language) : <span className="quiet">{say("now.ended", { at: clock(run.ended_at) })}</span>}
                </td>
                <td className="number">
                  {spent(run.cost)}
                  {run.budget && <span className="quiet"> / {spent([run.budget])}</span>}
                </td>
                <td className="held clip" title={run.held_by ? reason(run.held_by) : ""}>
                  {isOpen(run) ? (run.held_by ? reason(run.held_by) : <span className="quiet">–</span>) : <span className="quiet">{say("now.took", { time: duration(run.seconds) })}</span>}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
