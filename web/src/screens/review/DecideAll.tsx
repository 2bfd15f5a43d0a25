/** One decision about all undecided rows that match: the exact count first, then a durable run. */
import { useState } from "react";
import type { ActionState } from "../../api/types";
import { FilterLine } from "../../parts/FilterLine";
import { useWords } from "../../words";
import { BulkDialog, type Verb } from "../run/Bulk";

const DECISIONS = ["accept", "reject", "skip"] as const satisfies readonly Verb[];

interface Props {
  run: number;
  name: string;
  close: () => void;
  begun: (action: ActionState) => void;
}

export function DecideAll({ run, name, close, begun }: Props): React.ReactNode {
  const say = useWords();
  const [action, setAction] = useState<(typeof DECISIONS)[number]>("accept");
  const [filter, setFilter] = useState("");
  const [note, setNote] = useState("");
  const fields = (
    <>
      <div className="row" role="radiogroup" aria-label={say("review.all.decision")}>
        {DECISIONS.map((each) => (
          <label key={each}>
            <input type="radio" name="decision" checked={action === each} onChange={() => setAction(each)} /> {say(`bulk.${each}`)}
          </label>
        ))}
      </div>
      <FilterLine filter={filter} apply={setFilter} example={say("review.all.filter")} />
      <p className="field-note">{say("review.all.columns")}</p>
      <label className="field">
        {say("review.note")}
        <input value={note} maxLength={2000} onChange={(event) => setNote(event.target.value)} />
      </label>
    </>
  );
  return <BulkDialog name={name} wanted={{ action, run: String(run), ...(filter ? { filter } : {}) }} note={note.trim()} fields={fields} close={close} begun={begun} />;
}
