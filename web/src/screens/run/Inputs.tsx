/** The inputs of a run; all that match are paused, go on, or are dropped together. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useCallback, useState } from "react";
import { usePages } from "../../api/pages";
import { itemsQuery } from "../../api/queries";
import type { Item, RunDetail } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { FilterLine } from "../../parts/FilterLine";
import { Mark } from "../../parts/Mark";
import { Rows, type Column } from "../../parts/Rows";
import { useWords } from "../../words";
import { clock } from "../../words/numbers";
import { BulkDialog, BulkState, type Verb } from "./Bulk";
import { isOpen } from "./RunRows";

const VERBS: readonly Verb[] = ["pause", "resume", "drop"];

function stateOf(item: Item): string {
  if (item.paused) return "paused";
  return item.outcome ?? (item.state === "active" ? "running" : item.state);
}

export function Inputs({ run, look }: { run: RunDetail; look: (item: Item) => void }): React.ReactNode {
  const say = useWords();
  const [filter, setFilter] = useState("");
  const [bulk, setBulk] = useState<Verb | null>(null);
  const [begun, setBegun] = useState<number | null>(null);
  const items = useInfiniteQuery(itemsQuery(run.id, filter));
  const { rows, atEnd } = usePages(items);
  const { refetch } = items;
  const ended = useCallback(() => void refetch(), [refetch]);
  const columns: readonly Column<Item>[] = [
    { name: say("run.piece.id"), width: "72px", number: true, cell: (row) => <span className="quiet">{row.id}</span> },
    { name: say("run.input.name"), width: "minmax(120px, 2fr)", cell: (row) => row.name },
    { name: say("run.piece.state"), width: "126px", cell: (row) => <Mark state={stateOf(row)} /> },
    { name: say("run.input.since"), width: "76px", number: true, cell: (row) => clock(row.ended_at ?? row.created_at, true) },
    { name: say("run.input.reason"), width: "minmax(60px, 2fr)", cell: (row) => [row.code, row.reason].filter(Boolean).join(" ") },
  ];
  return (
    <>
      <FilterLine filter={filter} apply={setFilter} example={say("run.input.filter")}>
        {(settled) =>
          isOpen(run) &&
          VERBS.map((verb) => (
            <button key={verb} type="button" className={verb === "drop" ? "button button-danger" : "button"} disabled={!settled} onClick={() => setBulk(verb)}>
              {say(`bulk.${verb}`)}
            </button>
          ))
        }
      </FilterLine>
      {begun !== null && <BulkState id={begun} ended={ended} />}
      {bulk && <BulkDialog name={run.name} wanted={{ action: bulk, run: String(run.id), ...(filter ? { filter } : {}) }} close={() => setBulk(null)} begun={(action) => setBegun(action.id)} />}
      <Ask query={items} lines={8}>
        {() =>
          rows.length === 0 ? (
            <p className="quiet">{say("run.inputs.none")}</p>
          ) : (
            <Rows label={say("run.rows.inputs")} rows={rows} columns={columns} keyOf={(row) => row.id} open={look} atEnd={atEnd} />
          )
        }
      </Ask>
    </>
  );
}
