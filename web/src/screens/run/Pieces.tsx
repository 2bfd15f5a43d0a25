/** The tasks of a run, as many as there are: only those in sight are drawn, the next page is fetched on the way. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useCallback, useEffect, useMemo, useState } from "react";
import { tasksQuery } from "../../api/queries";
import type { RunDetail, TaskRow } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Rows, type Column } from "../../parts/Rows";
import { Section } from "../../parts/Section";
import { sayKnown, useWords } from "../../words";
import { clock } from "../../words/numbers";
import { BulkDialog, BulkState, type Verb, type Wanted } from "./Bulk";

const states = ["", "failed", "quarantined", "running", "available", "waiting", "completed", "cancelled"] as const;

const VERBS: readonly Verb[] = ["retry", "cancel"];
const MEANT: Record<Verb, readonly string[]> = { retry: ["", "failed", "quarantined"], cancel: ["", "running", "available", "waiting"] };

/** What is in sight, as words of an action. */
function wantedOf(run: number, action: Verb, state: string, stage: string, filter: string): Wanted {
  const parts = [state && `state = '${state}'`, filter && (state ? `(${filter})` : filter)].filter(Boolean);
  return { action, run: String(run), ...(stage ? { stage } : {}), ...(parts.length ? { filter: parts.join(" and ") } : {}) };
}

export function Pieces({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  const [state, setState] = useState<string>(run.progress.failed > 0 ? "failed" : "");
  const [stage, setStage] = useState("");
  const [text, setText] = useState("");
  const [filter, setFilter] = useState("");
  const [bulk, setBulk] = useState<Verb | null>(null);
  const [begun, setBegun] = useState<number | null>(null);
  const tasks = useInfiniteQuery(tasksQuery(run.id, state, stage, filter));
  const rows = useMemo(() => tasks.data?.pages.flatMap((page) => page.items) ?? [], [tasks.data]);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = tasks;
  const atEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  useEffect(() => {
    if (filter && rows.length === 0) atEnd(); // a page of a filter may be short, and the next one not
  }, [filter, rows.length, atEnd]);
  const columns: readonly Column<TaskRow>[] = [
    { name: say("run.piece.id"), width: "72px", number: true, cell: (row) => <span className="quiet">{row.id}</span> },
    { name: say("run.piece.stage"), width: "minmax(70px, 0.7fr)", cell: (row) => row.stage },
    { name: say("run.piece.item"), width: "minmax(90px, 1.6fr)", cell: (row) => row.item ?? "–" },
    { name: say("run.piece.state"), width: "126px", cell: (row) => <Mark state={row.state} /> },
    { name: say("run.piece.tries"), width: "40px", number: true, cell: (row) => row.attempt },
    { name: say("run.piece.when"), width: "76px", number: true, cell: (row) => clock(row.ended_at ?? row.claimed_at ?? row.run_at, true) },
    { name: say("run.piece.note"), width: "minmax(60px, 2fr)", cell: (row) => row.message ?? row.held ?? row.worker ?? "" },
  ];
  const filters = (
    <>
      <label>
        {say("run.filter.state")}{" "}
        <select value={state} onChange={(event) => setState(event.target.value)}>
          {states.map((each) => (
            <option key={each} value={each}>
              {each ? sayKnown(say, "state", each) : say("all")}
            </option>
          ))}
        </select>
      </label>
      <label>
        {say("run.flow.stage")}{" "}
        <select value={stage} onChange={(event) => setStage(event.target.value)}>
          <option value="">{say("all")}</option>
          {run.stages.map((each) => (
            <option key={each.name}>{each.name}</option>
          ))}
        </select>
      </label>
    </>
  );
  const verbs = VERBS.filter((verb) => MEANT[verb].includes(state) && (verb === "retry" ? run.progress.failed : run.progress.running + run.progress.waiting) > 0);
  return (
    <Section title={say("run.pieces")} side={filters}>
      <form
        className="row filter"
        onSubmit={(event) => {
          event.preventDefault();
          setFilter(text.trim());
        }}
      >
        <label className="filter-text">
          <span className="hidden-text">{say("filter.label")}</span>
          <input value={text} onChange={(event) => setText(event.target.value)} placeholder={say("run.filter.example")} spellCheck={false} className="mono" />
        </label>
        <button type="submit" className="button">
          {say("filter.apply")}
        </button>
        {verbs.map((verb) => (
          <button key={verb} type="button" className={verb === "cancel" ? "button button-danger" : "button"} disabled={text.trim() !== filter} onClick={() => setBulk(verb)}>
            {say(`run.bulk.${verb}`)}
          </button>
        ))}
      </form>
      {begun !== null && <BulkState id={begun} />}
      {bulk && <BulkDialog run={run} wanted={wantedOf(run.id, bulk, state, stage, filter)} close={() => setBulk(null)} begun={(action) => setBegun(action.id)} />}
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
    </Section>
  );
}
