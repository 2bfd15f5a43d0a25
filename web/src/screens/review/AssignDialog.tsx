/** Shares undecided rows out among people, and shows who has how many. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { assignmentsQuery } from "../../api/queries";
import type { Assign, Assigned } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Confirm } from "../../parts/Confirm";
import { PlainTable } from "../../parts/PlainTable";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { count } from "../../words/numbers";
import type { By } from "./queue";

interface Props {
  run: number;
  name: string;
  by: By;
  again: () => void; // the desk claims anew
  close: () => void;
}

export function AssignDialog({ run, name, by, again, close }: Props): React.ReactNode {
  const say = useWords();
  const given = useQuery(assignmentsQuery(run));
  const [people, setPeople] = useState("");
  const [most, setMost] = useState("");
  const [overlap, setOverlap] = useState("0");
  const reviewers = [...new Set(people.split(/[\n,，、]/).map((each) => each.trim()).filter(Boolean))];
  const assign = useMutation({
    mutationFn: async () => {
      await change("POST", "/reviews/release", { run: String(run) }); // what lies on this desk can be shared out too
      const wanted: Partial<Assign> = { run: String(run), reviewers, by, overlap: Number(overlap) / 100, ...(most ? { count: Number(most) } : {}) };
      return change<Assigned>("POST", "/reviews/assignments", wanted);
    },
    onSettled: () => {
      void cache.invalidateQueries({ queryKey: ["review", run] });
      again();
    },
  });
  const shared = Object.values(assign.data?.given ?? {}).reduce((sum, n) => sum + n, 0);
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("review.assign.title", { run: name })} action={say("review.assign.go")} cancel={say("close")} go={() => assign.mutate()} disabled={reviewers.length === 0 || assign.isPending}>
      <p>{say("review.assign.about")}</p>
      <label className="field">
        {say("review.assign.people")}
        <textarea rows={2} value={people} placeholder="ada, bob" spellCheck={false} onChange={(event) => setPeople(event.target.value)} />
      </label>
      <div className="form form-even">
        <label className="field">
          {say("review.assign.most")}
          <input type="number" min={1} step={1} value={most} placeholder={say("all")} onChange={(event) => setMost(event.target.value)} />
        </label>
        <label className="field">
          {say("review.assign.overlap")}
          <input type="number" min={0} max={100} step={1} value={overlap} onChange={(event) => setOverlap(event.target.value)} />
        </label>
      </div>
      {assign.data && <p role="status">{say("review.assign.given", { n: count(shared) })}</p>}
      {assign.error && <Trouble error={assign.error} />}
      <Ask query={given}>
        {(rows) => (
          <PlainTable
            heads={[say("review.reviewer"), say("review.open"), say("review.assign.decided")]}
            rows={rows.map((row) => [row.assignee, count(row.open), count(row.decided)])}
            none={say("review.assign.none")}
          />
        )}
      </Ask>
    </Confirm>
  );
}
