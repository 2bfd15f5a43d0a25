/** Where is every piece, and what is the bottleneck? */
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { flowQuery, heldQuery, runQuery, throughputQuery } from "../../api/queries";
import type { RunDetail } from "../../api/types";
import { FlowPicture } from "../../charts/FlowPicture";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Same } from "../../parts/Same";
import { Figure, Figures, Section } from "../../parts/Section";
import { useReason, useWords } from "../../words";
import { useChoice } from "../../words/choice";
import { clock, count, duration, percent, relative } from "../../words/numbers";
import { DifferencePart } from "./Difference";
import { FailureGroups } from "./Failures";
import { Pieces } from "./Pieces";
import { RunControls } from "./RunControls";
import { isOpen, spent } from "./RunRows";
import { Stages } from "./Stages";

function Heading({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const { language } = useChoice();
  const { done, total, reused } = run.progress;
  return (
    <>
      <div className="screen-title">
        <h1>{run.name}</h1>
        <Mark state={run.state} />
        <span className="crumb">
          {run.workflow} · {say("run.inputs", { n: run.inputs.length })}
          {run.epoch > 1 && ` · ${say("run.epoch", { n: run.epoch })}`}
        </span>
        <RunControls run={run} />
      </div>
      <Figures>
        <Figure name={say("run.finished")} value={count(done)} note={`${say("run.of", { n: count(total) })} · ${percent(total ? done / total : null)}`} />
        {isOpen(run) ? (
          <Figure name={say("run.ready")} value={relative(run.ready_at, language)} note={run.ready_at ? clock(run.ready_at) : undefined} />
        ) : (
          <Figure name={say("run.took")} value={duration(run.seconds)} note={clock(run.ended_at)} />
        )}
        <Figure name={say("run.spent")} value={spent(run.cost)} note={run.budget ? say("run.budget", { budget: spent([run.budget]) }) : undefined} />
        {run.held_by && <Figure name={say("run.held")} value={<span className="figure-text">{reason(run.held_by)}</span>} />}
        {reused > 0 && <Figure name={say("run.reused", { n: "" }).trim()} value={count(reused)} />}
      </Figures>
    </>
  );
}

function FlowPart({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const [chosen, setChosen] = useState("");
  const flow = useQuery(flowQuery(run.id));
  const minutes = Math.min(1440, Math.max(60, Math.ceil(run.seconds / 60) + 5));
  const throughput = useQuery(throughputQuery(minutes, run.id));
  const choice = (
    <label>
      {say("run.flow.stage")}{" "}
      <select value={chosen} onChange={(event) => setChosen(event.target.value)}>
        <option value="">{say("run.flow.all")}</option>
        {run.stages.map((stage) => (
          <option key={stage.name}>{stage.name}</option>
        ))}
      </select>
    </label>
  );
  return (
    <Section title={say("run.flow")} about={say("run.flow.about")} side={choice}>
      <Ask query={flow} lines={12}>
        {(answer) =>
          answer.times.length < 2 ? <p className="quiet">{say("run.flow.empty")}</p> : <FlowPicture flow={answer} marks={throughput.data?.marks ?? []} chosen={chosen} />
        }
      </Ask>
    </Section>
  );
}

function HeldPart({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const held = useQuery(heldQuery(run.id));
  if (!isOpen(run) || held.data?.length === 0) return null;
  return (
    <Section title={say("run.why")}>
      <Ask query={held}>
        {(answer) => (
          <ul className="causes">
            {answer.map((row) => (
              <li key={`${row.stage}-${row.reason}`}>
                <b className="number">{row.tasks ? count(row.tasks) : "–"}</b>
                <div className="cause-text">
                  <span className="chip">{row.stage}</span> {row.tasks ? reason(row.reason) : say("run.why.barrier")}
                </div>
              </li>
            ))}
          </ul>
        )}
      </Ask>
    </Section>
  );
}

export function Run(): React.ReactNode {
  const say = useWords();
  const { run: id } = useParams({ from: "/runs/$run" });
  const query = useQuery(runQuery(Number(id)));
  return (
    <>
      <p className="crumb">
        <Link to="/runs">{say("nav.runs")}</Link>
      </p>
      <Ask query={query} lines={16}>
        {(run) => (
          <>
            <Heading run={run} />
            <FlowPart run={run} />
            <div className="columns">
              <Section title={say("run.stages")}>
                <Stages run={run} />
              </Section>
              <div>
                <FailureGroups run={run} />
                <HeldPart run={run} />
                <DifferencePart run={run.id} />
              </div>
            </div>
            <Pieces key={run.id} run={run} />
            <Same commands={[run.command, `gristmill watch ${run.name}`, `gristmill why ${run.name}`].filter(Boolean)} path={`/runs/${run.id}`} />
          </>
        )}
      </Ask>
    </>
  );
}
