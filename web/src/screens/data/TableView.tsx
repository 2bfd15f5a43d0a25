/** All records of a run, filtered by the grammar that exports use too. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { usePages } from "../../api/pages";
import { recordsQuery } from "../../api/queries";
import type { RecordRow } from "../../api/types";
import { FilterLine } from "../../parts/FilterLine";
import { Mark } from "../../parts/Mark";
import { headline } from "../../parts/RecordBody";
import { Rows, type Column } from "../../parts/Rows";
import { Section } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import type { DataSearch } from "../../router";
import { useWords } from "../../words";

export const KINDS = [
  "example", "conversation", "question", "chunk", "document", "source", "image", "evaluation", "classes", "rating", "entities", "relations", "boxes",
  "test_item", "judgement", "rejection", "duplicate", "label_tree", "topic", "ga_pair", "agreement", "action_result",
] as const;

/** The words of the filter grammar for "contains this text". */
export function containing(text: string): string {
  const escaped = text.replaceAll("\\", "\\\\").replaceAll("%", "\\%").replaceAll("_", "\\_").replaceAll('"', '""');
  return `body like "%${escaped}%"`;
}

export function TableView({ run, search }: { run: number; search: DataSearch }): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate({ from: "/data" });
  const filter = search.filter ?? (search.contains ? containing(search.contains) : "");
  const records = useInfiniteQuery(recordsQuery(run, search.kind ?? "", filter));
  const { rows, atEnd } = usePages(records);
  const columns: readonly Column<RecordRow>[] = [
    { name: say("data.id"), width: "72px", number: true, cell: (row) => <span className="quiet">{row.id}</span> },
    { name: say("data.kind"), width: "100px", cell: (row) => row.kind },
    { name: say("data.stage"), width: "84px", cell: (row) => <span className="quiet">{row.stage}</span> },
    { name: say("data.content"), width: "minmax(120px, 3fr)", cell: (row) => row.title || headline(row.kind, row.body) },
    { name: say("data.item"), width: "minmax(70px, 1fr)", cell: (row) => <span className="quiet">{row.item}</span> },
    { name: say("data.state"), width: "100px", cell: (row) => <Mark state={row.state} /> },
  ];
  return (
    <Section title={say("data.table")}>
      <FilterLine
        filter={filter}
        apply={(text) => void navigate({ search: ({ contains: _, filter: __, ...rest }) => (text ? { ...rest, filter: text } : rest) })}
        example={say("data.filter.example")}
        before={
          <label>
            {say("data.kind")}{" "}
            <select
              value={search.kind ?? ""}
              onChange={(event) => {
                const kind = event.target.value;
                void navigate({ search: ({ kind: _, ...rest }) => (kind ? { ...rest, kind } : rest) });
              }}
            >
              <option value="">{say("all")}</option>
              {KINDS.map((kind) => (
                <option key={kind}>{kind}</option>
              ))}
            </select>
          </label>
        }
      />
      {records.error && <Trouble error={records.error} />}
      {rows.length > 0 ? (
        <Rows label={say("data.table")} rows={rows} columns={columns} keyOf={(row) => `${row.stage}-${row.id}`} open={(row) => void navigate({ to: "/records/$record", params: { record: String(row.id) } })} atEnd={atEnd} height={640} />
      ) : (
        !records.isFetching && !records.error && <p className="quiet">{say("data.table.none")}</p>
      )}
    </Section>
  );
}
