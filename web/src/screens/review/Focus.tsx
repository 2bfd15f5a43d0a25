/** One candidate, big, beside its source. Every action is one key, printed on its button. */
import { useEffect, useState } from "react";
import type { Decision, ReviewPiece } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { useWords } from "../../words";
import { Candidate } from "./Candidate";
import { EditForm } from "./EditForm";
import { LabelStudio } from "./LabelStudio";
import { SourceView } from "./SourceView";
import { labelDecision, labelNames } from "./labels";
import type { Queue } from "./queue";

const IN_EDITOR = new Set(["entities", "relations", "boxes"]);

export function Focus({ queue, piece }: { queue: Queue; piece: ReviewPiece }): React.ReactNode {
  const say = useWords();
  const [editing, setEditing] = useState(false);
  useEffect(() => setEditing(false), [piece.record_id]);
  const { hold } = queue;
  useEffect(() => {
    hold(editing);
    return () => hold(false);
  }, [hold, editing]);
  const decide = (decision: Decision): void => {
    setEditing(false);
    queue.decide(piece, decision);
  };
  const labels = labelNames(piece);
  const actions = [
    { keys: "a", about: say("review.accept"), go: () => decide({ decision: "accept" }), main: true },
    { keys: "e", about: say("review.edit"), go: () => setEditing(true), main: false },
    { keys: "x", about: say("review.reject"), go: () => decide({ decision: "reject" }), main: false },
    { keys: "s", about: say("review.skip"), go: () => decide({ decision: "skip" }), main: false },
  ];
  useKeys("here", editing ? [] : [
    ...actions,
    ...labels.slice(0, 9).map((label, index) => ({
      keys: String(index + 1),
      about: label,
      go: () => {
        const decision = labelDecision(piece, index);
        if (decision) decide(decision);
      },
    })),
  ]);
  if (editing && IN_EDITOR.has(piece.kind)) return <LabelStudio key={piece.record_id} piece={piece} save={decide} cancel={() => setEditing(false)} />;
  return (
    <div className="focus">
      <SourceView source={piece.source} />
      <div className="focus-side">
        {editing ? (
          <EditForm key={piece.record_id} piece={piece} save={decide} cancel={() => setEditing(false)} />
        ) : (
          <>
            <div className="row focus-actions">
              {actions.map((action) => (
                <button key={action.keys} type="button" className={`button ${action.main ? "button-main" : ""}`} onClick={action.go}>
                  {action.about} <kbd>{action.keys}</kbd>
                </button>
              ))}
            </div>
            <Candidate piece={piece} />
          </>
        )}
      </div>
    </div>
  );
}
