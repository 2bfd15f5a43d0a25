/** The thread from the file to the reviewer, one knot each; a knot leads to its record. */
import { Link } from "@tanstack/react-router";
import type { Thread } from "../../api/types";
import { Empty } from "../../parts/Section";
import { useWords } from "../../words";

const WHOLE = new Set(["source", "document", "image"]); // their name says more than their fields

export function LineageThread({ thread, at }: { thread: readonly Thread[]; at?: number }): React.ReactNode {
  const say = useWords();
  if (thread.length === 0) return <Empty title={say("piece.lineage.none")} />;
  return (
    <ol className="thread">
      {thread.map((knot) => (
        <li key={knot.record} className={`knot ${knot.record === at ? "knot-here" : ""}`}>
          <p className="knot-head">
            <b>{knot.kind}</b>
            {knot.stage && <span className="quiet">{knot.stage}</span>}
            {knot.score !== null && knot.score !== undefined && <span className="chip">{knot.score}</span>}
            {knot.place?.page_start && <span className="quiet">{say("record.page", { n: knot.place.page_start })}</span>}
            <Link to="/records/$record" params={{ record: String(knot.record) }} className="link knot-id">
              {knot.record}
            </Link>
          </p>
          <p className="knot-text" title={knot.title}>
            {WHOLE.has(knot.kind) ? knot.title : knot.text || knot.title}
          </p>
          {knot.image && <img src={`/api/blobs/${knot.image}`} alt="" className="knot-image" loading="lazy" />}
        </li>
      ))}
    </ol>
  );
}
