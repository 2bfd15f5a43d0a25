/** Changes what may be spent. */
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import type { Budget } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

export function BudgetDialog({ budget, close }: { budget: Budget; close: () => void }): React.ReactNode {
  const say = useWords();
  const [cap, setCap] = useState(budget.cap === null ? "" : String(budget.cap));
  const save = useMutation({
    mutationFn: () =>
      change("PUT", `/budgets/${budget.scope}`, {
        cap: cap === "" ? null : cap,
        currency: budget.currency,
        ...(budget.scope === "run" ? { run: Number(budget.name) } : {}),
      }),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["budgets"] });
      close();
    },
  });
  const name = say(`crew.budget.${budget.scope}`, { name: budget.name });
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("crew.quota.title", { name })} action={say("crew.quota.save")} go={() => save.mutate()} disabled={save.isPending}>
      <p>{say("crew.quota.about")}</p>
      <label className="field">
        {say("crew.budget.cap")} ({budget.currency})
        <input type="number" min={0} step="any" value={cap} onChange={(event) => setCap(event.target.value)} />
      </label>
      {save.error && <Trouble error={save.error} />}
    </Confirm>
  );
}
