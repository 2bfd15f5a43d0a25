/** The same to all that match: the exact count and what it would take, then a durable run, and how far it is. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { actionQuery, foreseenQuery } from "../../api/queries";
import type { ActionState, RunDetail, WantedAction } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Confirm } from "../../parts/Confirm";
import { Mark } from "../../parts/Mark";
import { Figure, Figures } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { count, duration, money, short } from "../../words/numbers";

export type Verb = "retry" | "cancel";
export type Wanted = Partial<WantedAction> & { action: Verb };

function costOf(cost: Record<string, string>): string {
  const parts = Object.entries(cost).map(([currency, amount]) => (currency === "USD" ? money(amount) : `${amount} ${currency}`));
  return parts.join(" + ") || "–";
}

function known(value: number | null | undefined): string {
  return value == null ? "–" : short(value);
}

function Foreseen({ found }: { found: ActionState }): React.ReactNode {
  const say = useWords();
  const { forecast } = found;
  if (!forecast || found.action !== "retry") return null;
  return (
    <>
      <Figures>
        <Figure name={say("run.bulk.calls")} value={known(forecast.calls)} />
        <Figure name={say("run.bulk.tokens")} value={known(forecast.tokens)} />
        <Figure name={say("run.bulk.cost")} value={costOf(forecast.cost)} />
        <Figure name={say("run.bulk.time")} value={duration(forecast.seconds ?? null)} />
      </Figures>
      <p className="quiet">{say("run.bulk.basis", { basis: forecast.basis })}</p>
    </>
  );
}

interface Props {
  run: RunDetail;
  wanted: Wanted;
  close: () => void;
  begun: (action: ActionState) => void;
}

export function BulkDialog({ run, wanted, close, begun }: Props): React.ReactNode {
  const say = useWords();
  const foreseen = useQuery(foreseenQuery(wanted));
  const n = foreseen.isFetching ? undefined : foreseen.data?.count;
  const begin = useMutation({
    mutationFn: () => change<ActionState>("POST", "/actions", { ...wanted, confirm: n }),
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
      title={say(`run.bulk.${wanted.action}.title`)}
      action={say(`run.bulk.${wanted.action}.go`, { n: n === undefined ? "…" : count(n) })}
      cancel={say("run.bulk.keep")}
      go={() => begin.mutate()}
      disabled={!n || begin.isPending}
    >
      <p>
        <code className="quiet">{narrowed || say("run.bulk.all")}</code>
      </p>
      <Ask query={foreseen}>
        {(found) => (
          <>
            <p aria-live="polite">
              <b>{say(`run.bulk.${wanted.action}.count`, { n: count(found.count), run: run.name })}</b>
            </p>
            <Foreseen found={found} />
            <p>{say("run.bulk.about")}</p>
          </>
        )}
      </Ask>
      {begin.error && <Trouble error={begin.error} />}
    </Confirm>
  );
}

/** How far a bulk action is, with a link to the run that does it. */
export function BulkState({ id }: { id: number }): React.ReactNode {
  const say = useWords();
  const action = useQuery(actionQuery(id));
  if (!action.data) return null;
  const { action: verb, count: n, parts, done, state } = action.data;
  return (
    <p className="row bulk-state" role="status">
      <Mark state={state} />
      <span>{say(`run.bulk.${verb as Verb}.doing`, { n: count(n) })}</span>
      <span className="quiet">{say("run.bulk.parts", { done: count(done), n: count(parts) })}</span>
      <Link to="/runs/$run" params={{ run: String(id) }} className="link">
        {say("run.bulk.open")}
      </Link>
    </p>
  );
}
