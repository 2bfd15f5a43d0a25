/** Who changed what: every call that could, the newest first. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { usePages } from "../../api/pages";
import { auditQuery } from "../../api/crewQueries";
import type { AuditEntry } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Rows, type Column } from "../../parts/Rows";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";
import { clock } from "../../words/numbers";

export function AuditTab(): React.ReactNode {
  const say = useWords();
  const audit = useInfiniteQuery(auditQuery);
  const { rows, atEnd } = usePages(audit);
  const columns: readonly Column<AuditEntry>[] = [
    { name: say("audit.at"), width: "150px", cell: (row) => clock(row.at, true) },
    { name: say("audit.who"), width: "minmax(80px, 1fr)", cell: (row) => row.caller },
    { name: say("audit.role"), width: "84px", cell: (row) => <span className="quiet">{row.role}</span> },
    { name: say("audit.what"), width: "minmax(160px, 3fr)", cell: (row) => <code title={`${row.method} ${row.path}`}>{`${row.method} ${row.path}`}</code> },
    { name: say("audit.from"), width: "minmax(90px, 1fr)", cell: (row) => <span className="quiet">{row.address}</span> },
    {
      name: say("audit.answer"), width: "110px",
      cell: (row) => <span className={row.status !== null && row.status !== undefined && row.status < 400 ? "" : "tone-failed"}>{row.status === null || row.status === undefined ? say("audit.open") : [row.status, row.code].filter(Boolean).join(" ")}</span>,
    },
  ];
  return (
    <Section title={say("crew.tab.audit")} about={say("audit.about")}>
      <Ask query={audit} lines={10}>
        {() => (rows.length === 0 ? <p className="quiet">{say("audit.none")}</p> : <Rows label={say("crew.tab.audit")} rows={rows} columns={columns} keyOf={(row) => row.id} atEnd={atEnd} height={640} />)}
      </Ask>
    </Section>
  );
}
