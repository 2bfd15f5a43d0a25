/** Many at once: the same keys as for one, on all that are selected, or on the one under the cursor. */
import { useState } from "react";
import { useKeys } from "../../keyboard/keys";
import { useWords } from "../../words";
import { Candidate } from "./Candidate";
import type { Queue } from "./queue";

export function Grid({ queue }: { queue: Queue }): React.ReactNode {
  const say = useWords();
  const [chosen, setChosen] = useState<ReadonlySet<number>>(new Set());
  const toggle = (record: number): void => {
    const next = new Set(chosen);
    if (!next.delete(record)) next.add(record);
    setChosen(next);
  };
  const all = (decision: "accept" | "reject" | "skip"): void => {
    const at = queue.pieces[queue.at];
    const meant = queue.pieces.filter((piece) => chosen.has(piece.record_id));
    for (const piece of meant.length > 0 ? meant : at ? [at] : []) queue.decide(piece, { decision });
    setChosen(new Set());
  };
  useKeys("here", [
    { keys: "a", about: say("review.accept"), go: () => all("accept") },
    { keys: "x", about: say("review.reject"), go: () => all("reject") },
    { keys: "s", about: say("review.skip"), go: () => all("skip") },
    { keys: "Space", about: say("review.select"), go: () => queue.pieces[queue.at] && toggle(queue.pieces[queue.at]?.record_id ?? 0) },
  ]);
  return (
    <>
      <div className="row grid-actions">
        <button type="button" className="button" onClick={() => all("accept")}>
          {say("review.accept")} <kbd>a</kbd>
        </button>
        <button type="button" className="button" onClick={() => all("reject")}>
          {say("review.reject")} <kbd>x</kbd>
        </button>
        <button type="button" className="button" onClick={() => all("skip")}>
          {say("review.skip")} <kbd>s</kbd>
        </button>
        <span className="quiet">{say("review.selected", { n: chosen.size })}</span>
      </div>
      <ul className="grid">
        {queue.pieces.map((piece, index) => (
          <li key={piece.record_id} className={`${index === queue.at ? "grid-at" : ""} ${chosen.has(piece.record_id) ? "grid-on" : ""}`} onClick={() => queue.jump(index)}>
            <label className="grid-check">
              <input type="checkbox" checked={chosen.has(piece.record_id)} onChange={() => toggle(piece.record_id)} /> <span className="quiet">{piece.record_id}</span>
            </label>
            <Candidate piece={piece} />
          </li>
        ))}
      </ul>
    </>
  );
}
