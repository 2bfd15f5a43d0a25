/** One record: what stands in it, where it came from, what was made of it, and what people said. */
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { lineageQuery, recordQuery } from "../../api/queries";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { RecordBody } from "../../parts/RecordBody";
import { Same } from "../../parts/Same";
import { Figure, Figures, Section } from "../../parts/Section";
import { useWords } from "../../words";
import { clock } from "../../words/numbers";
import { LineageThread } from "./LineageThread";

export function RecordScreen(): React.ReactNode {
  const say = useWords();
  const { record: id } = useParams({ from: "/records/$record" });
  const [raw, setRaw] = useState(false);
  const record = useQuery(recordQuery(id));
  const lineage = useQuery(lineageQuery(id));
  return (
    <Ask query={record} lines={14}>
      {(answer) => (
        <>
          <p className="crumb">
            <Link to="/data">{say("nav.data")}</Link>
          </p>
          <div className="screen-title">
            <h1>{say("record.title", { id: answer.id })}</h1>
            <span className="chip">{answer.kind}</span>
            <Mark state={answer.state} />
          </div>
          <Figures>
            <Figure name={say("record.made")} value={<span className="figure-text">{clock(answer.made_at, true)}</span>} note={answer.operator ?? undefined} />
            <Figure name={say("record.hash")} value={<code className="figure-text">{answer.hash.slice(0, 16)}</code>} />
            {answer.reviewer && <Figure name={say("record.state")} value={<span className="figure-text">{answer.reviewer}</span>} note={clock(answer.decided_at)} />}
          </Figures>
          <div className="columns columns-even">
            <Section
              title={say("record.body")}
              side={
                <label>
                  <input type="checkbox" checked={raw} onChange={(event) => setRaw(event.target.checked)} /> {say("record.raw")}
                </label>
              }
            >
              {raw ? <pre className="json" tabIndex={0}>{JSON.stringify(answer.body, null, 2)}</pre> : <RecordBody body={answer.body} />}
            </Section>
            <Section title={say("piece.lineage")}>
              <Ask query={lineage} lines={8}>
                {(thread) => (
                  <>
                    <LineageThread thread={thread.thread} at={answer.id} />
                    {thread.verdicts.length > 0 && (
                      <ul className="verdicts" aria-label={say("record.verdicts")}>
                        {thread.verdicts.map((verdict) => (
                          <li key={`${verdict.record}-${verdict.at}`}>
                            <Mark state={verdict.decision === "accept" ? "accepted" : verdict.decision === "reject" ? "rejected" : verdict.decision === "edit" ? "edited" : "skipped"} />
                            <span>{verdict.reviewer}</span>
                            <span className="quiet">{clock(verdict.at)}</span>
                            {verdict.undone_at && <span className="quiet">{say("record.undone")}</span>}
                            {verdict.note && <span>{verdict.note}</span>}
                          </li>
                        ))}
                      </ul>
                    )}
                  </>
                )}
              </Ask>
            </Section>
          </div>
          <Same commands={[`gristmill why --record ${answer.id}`]} path={`/records/${answer.id}`} />
        </>
      )}
    </Ask>
  );
}
