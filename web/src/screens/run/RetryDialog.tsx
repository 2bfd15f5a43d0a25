/** Tries failed pieces again: says how many, before it does. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { foreseenQuery } from "../../api/queries";
import type { Cause, RunDetail } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { Foreseen } from "./Bulk";
import { useWords } from "../../words";

export function RetryDialog({ run, cause, close }: { run: RunDetail; cause: Cause | null; close: () => void }): React.ReactNode {
  const say = useWords();
  const [degraded, setDegraded] = useState(false);
  const retry = useMutation({
    mutationFn: () => change("POST", `/runs/${run.id}/retry`, cause?.cause ? { cause: cause.cause } : { degraded }),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["run"] });
      close();
    },
  });
  const foreseen = useQuery({ ...foreseenQuery({ action: "retry", run: String(run.id), ...(cause?.cause ? { cause: cause.cause } : {}) }), enabled: run.progress.failed > 0 });
  const n = cause?.count ?? run.progress.failed;
  return (
    <Confirm
      open
      setOpen={(open) => !open && close()}
      title={say("run.retry.title", { n })}
      action={say("run.retry.these", { n })}
      go={() => retry.mutate()}
      disabled={retry.isPending}
      stay
    >
      {cause?.message && <p>{cause.message}</p>}
      {foreseen.data && <Foreseen found={foreseen.data} />}
      <p>{say("run.retry.about")}</p>
      {cause === null && (
        <label>
          <input type="checkbox" checked={degraded} onChange={(event) => setDegraded(event.target.checked)} /> {say("run.retry.degraded")}
        </label>
      )}
      {retry.error && <Trouble error={retry.error} />}
    </Confirm>
  );
}
