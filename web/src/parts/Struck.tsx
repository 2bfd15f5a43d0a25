/** The model's original struck against what stands now. */
import { useMemo } from "react";
import { wordDiff } from "./wordDiff";

export function Struck({ before, after }: { before: string; after: string }): React.ReactNode {
  const changes = useMemo(() => wordDiff(before, after), [before, after]);
  return (
    <p className="prose struck">
      {changes.map((change, index) =>
        change.kind === "gone" ? <del key={index}>{change.text}</del> : change.kind === "new" ? <ins key={index}>{change.text}</ins> : <span key={index}>{change.text}</span>,
      )}
    </p>
  );
}
