/** Changes what a provider allows, for all workers at once. */
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

export function LimitDialog({ limit, close }: { limit: Limit; close: () => void }): React.ReactNode {
  const say = useWords();
  const before: Record<Name, string> = {
    requests_per_minute: String(limit.requests_per_minute ?? ""),
    tokens_per_minute: String(limit.tokens_per_minute ?? ""),
    requests_per_day: String(limit.quota_limit ?? ""),
    concurrency: String(limit.concurrency ?? ""),
  };
  const [values, setValues] = useState(before);
  const save = useMutation({
    mutationFn: () => {
      const changes = FIELDS.filter(([name]) => values[name] !== before[name]).map(([name]) => [name, values[name] === "" ? null : Number(values[name])]);
      return change("PUT", `/limits/${encodeURIComponent(limit.name)}`, Object.fromEntries(changes));
    },
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["limits"] });
      close();
    },
  });
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("crew.quota.title", { name: limit.name })} action={say("crew.quota.save")} go={() => save.mutate()} disabled={save.isPending}>
      <p>{say("crew.quota.about")}</p>
      {FIELDS.map(([name, word]) => (
        <label key={name} className="field">
          {say(word)}
          <input type="number" min={0} step="any" value={values[name]} onChange={(event) => setValues({ ...values, [name]: event.target.value })} />
        </label>
      ))}
      {save.error && <Trouble error={save.error} />}
    </Confirm>
  );
}
