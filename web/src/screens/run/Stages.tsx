/** The ladder of stages: where the work is, how fast it goes, and the slow ones' time. */
import type { RunDetail } from "../../api/types";
import { Bar } from "../../parts/Bar";
import { useWords } from "../../words";
import { count, duration, rate } from "../../words/numbers";
import { stageColour } from "../../charts/paint";

export function Stages({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  return (
    <div className="scroll-x">
      <table className="plain-table stage-table">
        <thead>
          <tr>
            <th>{say("run.stage")}</th>
            <th className="run-bar" aria-hidden="true" />
            <th className="number">{say("run.stage.done")}</th>
            <th className="number">{say("run.stage.running")}</th>
            <th className="number">{say("run.stage.waiting")}</th>
            <th className="number">{say("run.stage.failed")}</th>
            <th className="number">{say("run.stage.rate")}</th>
            <th className="number">{say("run.stage.p95")}</th>
          </tr>
        </thead>
        <tbody>
          {run.stages.map((stage, place) => (
            <tr key={stage.name}>
              <td title={stage.barrier ? say("run.stage.barrier") : stage.operator}>
                <i className="stage-dot" style={{ background: stageColour(place) }} aria-hidden="true" />
                {stage.name}
                {stage.model && <span className="quiet"> {stage.model}</span>}
              </td>
              <td className="run-bar">
                <Bar
                  parts={[
                    { state: "done", value: stage.done },
                    { state: "running", value: stage.running },
                    { state: "failed", value: stage.failed },
                    { state: "skipped", value: stage.skipped },
                  ]}
                  total={stage.total}
                />
              </td>
              <Number value={stage.done} />
              <Number value={stage.running} />
              <Number value={stage.waiting} />
              <Number value={stage.failed} bad />
              <td className="number">{rate(stage.rate * 60)}</td>
              <td className="number">{duration(stage.p95)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Number({ value, bad = false }: { value: number; bad?: boolean }): React.ReactNode {
  return <td className={`number ${value === 0 ? "quiet" : bad ? "tone-failed" : ""}`}>{count(value)}</td>;
}
