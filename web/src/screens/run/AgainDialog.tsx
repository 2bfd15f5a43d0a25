/** Another run over the same inputs with another model: says what is not done again, then goes to the new run. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { modelsQuery } from "../../api/crewQueries";
import type { OnceMore, RunDetail } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

export function AgainDialog({ run, close }: { run: RunDetail; close: () => void }): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  const models = useQuery(modelsQuery);
  const [model, setModel] = useState("");
  const [stage, setStage] = useState("");
  const [budget, setBudget] = useState("");
  const users = run.stages.filter((each) => each.model);
  const again = useMutation({
    mutationFn: () => {
      const wanted: Partial<OnceMore> = { model, ...(stage ? { stage } : {}), ...(budget ? { budget } : {}) };
      return change<RunDetail>("POST", `/runs/${run.id}/again`, wanted);
    },
    onSuccess: (made) => {
      void cache.invalidateQueries({ queryKey: ["runs"] });
      close();
      void navigate({ to: "/runs/$run", params: { run: String(made.id) } });
    },
  });
  const uses = (name: string): boolean => users.filter((each) => !stage || each.name === stage).every((each) => each.model === name);
  const names = [...(models.data?.free ?? []).map((name) => [name, say("start.model.free")]), ...(models.data?.items ?? []).map((each) => [each.name, each.model])] as const;
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("run.again.title", { run: run.name })} action={say("run.again.go")} go={() => again.mutate()} disabled={!model || again.isPending}>
      <p>{say("run.again.about", { run: run.name })}</p>
      <label className="field">
        {say("start.model")}
        <select value={model} onChange={(event) => setModel(event.target.value)}>
          <option value="">–</option>
          {names.map(([name, about]) => (
            <option key={name} value={name} disabled={uses(name ?? "")}>{`${name} (${uses(name ?? "") ? say("run.retry.same") : about})`}</option>
          ))}
        </select>
      </label>
      {users.length > 1 && (
        <label className="field">
          {say("run.again.stage")}
          <select value={stage} onChange={(event) => setStage(event.target.value)}>
            <option value="">{say("run.again.stages")}</option>
            {users.map((each) => (
              <option key={each.name} value={each.name}>{`${each.name} (${each.model})`}</option>
            ))}
          </select>
        </label>
      )}
      <label className="field">
        {say("start.budget")}
        <input type="number" min={0} step="any" placeholder={say("start.budget.none")} value={budget} onChange={(event) => setBudget(event.target.value)} />
      </label>
      {again.error && <Trouble error={again.error} />}
    </Confirm>
  );
}
