/** What a run is made of, as many as there are: its pieces of work, or its inputs. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { usePages } from "../../api/pages";
import { tasksQuery } from "../../api/queries";
import type { Item, RunDetail, TaskRow } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { FilterLine } from "../../parts/FilterLine";
import { Mark } from "../../parts/Mark";
import { Rows, type Column } from "../../parts/Rows";
import { Section } from "../../parts/Section";
import { sayKnown, useWords } from "../../words";
import { clock } from "../../words/numbers";
import { BulkDialog, BulkState, type Verb, type Wanted } from "./Bulk";
import { Inputs } from "./Inputs";

const states = ["", "failed", "quarantined", "running", "available", "waiting", "completed", "cancelled"] as const;

const VERBS = ["retry", "cancel"] as const;
const MEANT: Record<(typeof VERBS)[number], readonly string[]> = { retry: ["", "failed", "quarantined"], cancel: ["", "running", "available", "waiting"] };

/** What is in sight, as words of an action. */
function wantedOf(run: number, action: Verb, state: string, stage: string, filter: string): Wanted {
  const parts = [state && `state = '${state}'`, filter && (state ? `(${filter})` : filter)].filter(Boolean);
  return { action, run: String(run), ...(stage ? { stage } : {}), ...(parts.length ? { filter: parts.join(" and ") } : {}) };
}

interface Seen {
  state: string;
  stage: string;
  filter: string;
}

function Tasks({ run, seen, setFilter }: { run: RunDetail; seen: Seen; setFilter: (filter: string) => void }): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  const { state, stage, filter } = seen;
  const [bulk, setBulk] = useState<Verb | null>(null);
  const [begun, setBegun] = useState<number | null>(null);
  const tasks = useInfiniteQuery(tasksQuery(run.id, state, stage, filter));
  const { rows, atEnd } = usePages(tasks);
  const columns: readonly Column<TaskRow>[] = [
    { name: say("run.piece.id"), width: "72px", number: true, cell: (row) => <span className="quiet">{row.id}</span> },
    { name: say("run.piece.stage"), width: "minmax(70px, 0.7fr)", cell: (row) => row.stage },
    { name: say("run.piece.item"), width: "minmax(90px, 1.6fr)", cell: (row) => row.item ?? "–" },
    { name: say("run.piece.state"), width: "126px", cell: (row) => <Mark state={row.state} /> },
    { name: say("run.piece.tries"), width: "40px", number: true, cell: (row) => row.attempt },
    { name: say("run.piece.when"), width: "76px", number: true, cell: (row) => clock(row.ended_at ?? row.claimed_at ?? row.run_at, true) },
    { name: say("run.piece.note"), width: "minmax(60px, 2fr)", cell: (row) => row.message ?? row.held ?? row.worker ?? "" },
  ];
  const { failed, running, waiting } = run.progress;
  const verbs = VERBS.filter((verb) => MEANT[verb].includes(state) && (verb === "retry" ? failed : running + waiting) > 0);
  return (
    <>
      <FilterLine filter={filter} apply={setFilter} example={say("run.filter.example")}>
        {(settled) =>
          verbs.map((verb) => (
            <button key={verb} type="button" className={verb === "cancel" ? "button button-danger" : "button"} disabled={!settled} onClick={() => setBulk(verb)}>
              {say(`bulk.${verb}`)}
            </button>
          ))
        }
      </FilterLine>
      {begun !== null && <BulkState id={begun} />}
      {bulk && <BulkDialog name={run.name} wanted={wantedOf(run.id, bulk, state, stage, filter)} close={() => setBulk(null)} begun={(action) => setBegun(action.id)} />}
      <Ask query={tasks} lines={10}>
        {() =>
          rows.length === 0 ? (
            <p className="quiet">{say("run.pieces.none")}</p>
          ) : (
            <Rows
              label={say("run.pieces")}
              rows={rows}
              columns={columns}
              keyOf={(row) => row.id}
              open={(row) => void navigate({ to: "/tasks/$task", params: { task: String(row.id) } })}
              atEnd={atEnd}
            />
          )
        }
      </Ask>
    </>
  );
}

export function Pieces({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const { filter: wanted = "" } = useSearch({ from: "/runs/$run" });
  const [what, setWhat] = useState<"tasks" | "inputs">("tasks");
  const [seen, setSeen] = useState<Seen>({ state: run.progress.failed > 0 && !wanted ? "failed" : "", stage: "", filter: wanted });
  useEffect(() => {
    if (wanted) setSeen({ state: "", stage: "", filter: wanted });
  }, [wanted]);
  const set = (changed: Partial<Seen>): void => setSeen((before) => ({ ...before, ...changed }));
  const look = (item: Item): void => {
    setSeen({ state: "", stage: "", filter: `item = '${item.name.replaceAll("'", "''")}'` });
    setWhat("tasks");
  };
  const side = (
    <>
      {what === "tasks" && (
        <>
          <label>
            {say("run.filter.state")}{" "}
            <select value={seen.state} onChange={(event) => set({ state: event.target.value })}>
              {states.map((each) => (
                <option key={each} value={each}>
                  {each ? sayKnown(say, "state", each) : say("all")}
                </option>
              ))}
            </select>
          </label>
          <label>
            {say("run.flow.stage")}{" "}
            <select value={seen.stage} onChange={(event) => set({ stage: event.target.value })}>
              <option value="">{say("all")}</option>
              {run.stages.map((each) => (
                <option key={each.name}>{each.name}</option>
              ))}
            </select>
          </label>
        </>
      )}
      <span className="switch" role="group" aria-label={say("run.rows")}>
        {(["tasks", "inputs"] as const).map((each) => (
          <button key={each} type="button" aria-pressed={what === each} onClick={() => setWhat(each)}>
            {say(`run.rows.${each}`)}
          </button>
        ))}
      </span>
    </>
  );
  return (
    <Section title={say("run.pieces")} side={side}>
      {what === "tasks" ? <Tasks run={run} seen={seen} setFilter={(filter) => set({ filter })} /> : <Inputs run={run} look={look} />}
    </Section>
  );
}
