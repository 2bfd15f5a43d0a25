/** Who holds what; a lock can be taken away from whoever does not give it back. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { locksQuery } from "../../api/crewQueries";
import type { Lock } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Confirm } from "../../parts/Confirm";
import { Mark } from "../../parts/Mark";
import { PlainTable } from "../../parts/PlainTable";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { clock } from "../../words/numbers";

function holderOf(lock: Lock): string {
  return `${lock.holder_kind} ${lock.holder}`;
}

function TakeDialog({ lock, close }: { lock: Lock; close: () => void }): React.ReactNode {
  const say = useWords();
  const [reason, setReason] = useState("");
  const take = useMutation({
    mutationFn: () => change("POST", `/locks/${encodeURIComponent(lock.key)}/release`, { force: true, reason }),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["locks"] });
      close();
    },
  });
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("crew.lock.take.title", { key: lock.key })} action={say("crew.lock.take.go")} go={() => take.mutate()} disabled={take.isPending}>
      <p>{say("crew.lock.take.about", { holder: holderOf(lock) })}</p>
      <label className="field">
        {say("crew.lock.reason")}
        <input value={reason} maxLength={2000} onChange={(event) => setReason(event.target.value)} />
      </label>
      {take.error && <Trouble error={take.error} />}
    </Confirm>
  );
}

export function LocksTab(): React.ReactNode {
  const say = useWords();
  const locks = useQuery(locksQuery);
  const [taken, setTaken] = useState<Lock | null>(null);
  return (
    <>
      <Ask query={locks}>
        {(answer) => (
          <PlainTable
            heads={[say("crew.lock.key"), say("crew.lock.holder"), say("crew.lock.since"), say("crew.lock.expires"), say("crew.lock.fence"), ""]}
            rows={answer.items.map((lock) => [
              <code key="key">{lock.key}</code>, holderOf(lock), clock(lock.since, true), clock(lock.expires_at, true), lock.waits ? <Mark key="w" state="waiting" /> : lock.fence,
              !lock.waits && (
                <button key="take" type="button" className="link-button" onClick={() => setTaken(lock)}>
                  {say("crew.lock.take")}
                </button>
              ),
            ])}
            none={say("crew.locks.none")}
          />
        )}
      </Ask>
      {taken && <TakeDialog lock={taken} close={() => setTaken(null)} />}
    </>
  );
}
