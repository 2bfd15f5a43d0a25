/** The same to all that match: the exact count and what it would take, then a durable run, and how far it is. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { actionQuery, foreseenQuery } from "../../api/queries";
import type { ActionState, WantedAction } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Confirm } from "../../parts/Confirm";
import { Mark } from "../../parts/Mark";
import { Figure, Figures } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { count, duration, money, short } from "../../words/numbers";

export type Verb = "retry" | "cancel" | "pause" | "resume" | "drop" | "accept" | "reject" | "skip";
export type Wanted = Partial<WantedAction> & { action: Verb };

function costOf(cost: Record<string, string>): string {
  const parts = Object.entries(cost).map(([currency, amount]) => (currency === "USD" ? money(amount) : `${amount} ${currency}`));
  return parts.join(" + ") || "–";
}

function known(value: number | null | undefined): string {
  return value == null ? "–" : short(value);
}

export function Foreseen({ found }: { found: ActionState }): React.ReactNode {
  const say = useWords();
  const { forecast } = found;
  if (!forecast || found.action !== "retry") return <p className="quiet">{say("bulk.free")}</p>;
  return (
    <>
      <Figures>
        <Figure name={say("bulk.calls")} value={known(forecast.calls)} />
        <Figure name={say("bulk.tokens")} value={known(forecast.tokens)} />
        <Figure name={say("bulk.cost")} value={costOf(forecast.cost)} />
        <Figure name={say("bulk.time")} value={duration(forecast.seconds ?? null)} />
      </Figures>
      <p className="quiet">{say("bulk.basis", { basis: forecast.basis })}</p>
    </>
  );
}

interface Props {
  name: string; // of the run
  wanted: Wanted;
  note?: string; // goes with the decision; nothing is counted anew for it
  fields?: React.ReactNode; // where the action itself is chosen in the dialog
  close: () => void;
  begun: (action: ActionState) => void;
}

export function BulkDialog({ name, wanted, note, fields, close, begun }: Props): React.ReactNode {
  const say = useWords();
  const foreseen = useQuery(foreseenQuery(wanted));
  const n = foreseen.isFetching ? undefined : foreseen.data?.count;
  const begin = useMutation({
    mutationFn: () => change<ActionState>("POST", "/actions", { ...wanted, ...(note ? { note } : {}), confirm: n }),
    onSuccess: (action) => {
      void cache.invalidateQueries({ queryKey: ["run"] });
      begun(action);
      close();
    },
    onError: () => void foreseen.refetch(), // another number matches by now
  });
  const narrowed = [wanted.stage && `stage = '${wanted.stage}'`, wanted.filter].filter(Boolean).join(" and ");
  return (
    <Confirm
      open
      stay
      setOpen={(open) => !open && close()}
      title={say(`bulk.${wanted.action}.title`)}
      action={say(`bulk.${wanted.action}.go`, { n: n === undefined ? "…" : count(n) })}
      cancel={say("bulk.keep")}
      go={() => begin.mutate()}
      disabled={!n || begin.isPending}
    >
      {fields ?? (
        <p>
          <code className="quiet">{narrowed || say("bulk.all")}</code>
        </p>
      )}
      <Ask query={foreseen}>
        {(found) => (
          <>
            <p aria-live="polite">
              <b>{say(`bulk.${wanted.action}.count`, { n: count(found.count), run: name })}</b>
            </p>
            <Foreseen found={found} />
            <p>{say("bulk.about")}</p>
          </>
        )}
      </Ask>
      {begin.error && <Trouble error={begin.error} />}
    </Confirm>
  );
}

/** How far a bulk action is, with a link to the run that does it. */
export function BulkState({ id, ended }: { id: number; ended?: () => void }): React.ReactNode {
  const say = useWords();
  const action = useQuery(actionQuery(id));
  const over = Boolean(action.data?.ended_at);
  useEffect(() => {
    if (over) ended?.();
  }, [over, ended]);
  if (!action.data) return null;
  const { action: verb, count: n, parts, done, state } = action.data;
  return (
    <p className="row bulk-state" role="status">
      <Mark state={state} />
      <span>{say(`bulk.${verb as Verb}.doing`, { n: count(n) })}</span>
      <span className="quiet">{say("bulk.parts", { done: count(done), n: count(parts) })}</span>
      <Link to="/runs/$run" params={{ run: String(id) }} className="link">
        {say("bulk.open")}
      </Link>
    </p>
  );
}
