/** Tries failed pieces again: says how many, before it does. */
import { useMutation } from "@tanstack/react-query";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import type { Cause, RunDetail } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

export function RetryDialog({ run, cause, close }: { run: RunDetail; cause: Cause | null; close: () => void }): React.ReactNode {
  const say = useWords();
  const retry = useMutation({
    mutationFn: () => change("POST", `/runs/${run.id}/retry`, cause?.cause ? { cause: cause.cause } : {}),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["run"] });
      close();
    },
  });
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
      <p>{say("run.retry.about")}</p>
      {retry.error && <Trouble error={retry.error} />}
    </Confirm>
  );
}
