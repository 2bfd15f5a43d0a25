/** Changes what a provider allows, for all workers at once, or adds a limit. */
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import type { Limit, LimitChange } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords, type Word } from "../../words";

const FIELDS = [
  ["requests_per_minute", "crew.quota.rpm"],
  ["tokens_per_minute", "crew.quota.tpm"],
  ["requests_per_day", "crew.quota.day"],
  ["concurrency", "crew.quota.flight"],
] as const satisfies readonly (readonly [keyof LimitChange, Word])[];

type Name = (typeof FIELDS)[number][0];

export function LimitDialog({ limit, close }: { limit: Limit | null; close: () => void }): React.ReactNode {
  const say = useWords();
  const before: Record<Name, string> = {
    requests_per_minute: String(limit?.requests_per_minute ?? ""),
    tokens_per_minute: String(limit?.tokens_per_minute ?? ""),
    requests_per_day: String(limit?.quota_limit ?? ""),
    concurrency: String(limit?.concurrency ?? ""),
  };
  const [values, setValues] = useState(before);
  const [name, setName] = useState(limit?.name ?? "");
  const save = useMutation({
    mutationFn: () => {
      const changes = FIELDS.filter(([field]) => values[field] !== before[field]).map(([field]) => [field, values[field] === "" ? null : Number(values[field])]);
      return change("PUT", `/limits/${encodeURIComponent(name.trim())}`, Object.fromEntries(changes));
    },
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["limits"] });
      close();
    },
  });
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={limit ? say("crew.quota.title", { name }) : say("limit.add.title")} action={say(limit ? "crew.quota.save" : "crew.schedule.add.go")} go={() => save.mutate()} disabled={save.isPending || !name.trim() || (limit === null && FIELDS.every(([field]) => values[field] === ""))}>
      <p>{say("crew.quota.about")}</p>
      {!limit && (
        <label className="field">
          {say("limit.name")}
          <input value={name} spellCheck={false} className="mono" onChange={(event) => setName(event.target.value)} />
        </label>
      )}
      {FIELDS.map(([field, word]) => (
        <label key={field} className="field">
          {say(word)}
          <input type="number" min={0} step="any" value={values[field]} onChange={(event) => setValues({ ...values, [field]: event.target.value })} />
        </label>
      ))}
      {save.error && <Trouble error={save.error} />}
    </Confirm>
  );
}
