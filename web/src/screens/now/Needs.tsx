/** What waits for a person, most urgent first: each line says what, and leads to where it is settled. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { budgetsQuery } from "../../api/crewQueries";
import { waitingQuery } from "../../api/queries";
import type { Budget, RunSummary, WaitingPieces } from "../../api/types";
import { Shape } from "../../parts/Mark";
import { useWords, type Say } from "../../words";
import { count } from "../../words/numbers";
import { isOpen, spent } from "../run/RunRows";

const MOST = 10;

interface Need {
  key: string;
  state: string;
  text: string;
  run?: number; // none: it is settled among the quotas
  review?: boolean;
}

function needsOf(runs: readonly RunSummary[], waiting: readonly WaitingPieces[], budgets: readonly Budget[], say: Say): Need[] {
  const needs: Need[] = [];
  for (const run of runs) {
    const { failed } = run.progress;
    if (failed > 0) needs.push({ key: `f${run.id}`, state: "failed", text: say("now.needs.failed", { n: count(failed), run: run.name }), run: run.id });
    if (run.state === "paused") needs.push({ key: `p${run.id}`, state: "paused", text: say("now.needs.paused", { run: run.name }), run: run.id });
    const same = run.budget && run.cost.find((cost) => cost.currency === run.budget?.currency);
    if (run.budget && same && isOpen(run) && Number(same.amount) >= 0.8 * Number(run.budget.amount)) {
      needs.push({ key: `b${run.id}`, state: "quota", text: say("now.needs.budget", { run: run.name, spent: spent([same]), budget: spent([run.budget]) }), run: run.id });
    }
  }
  for (const budget of budgets) {
    if (budget.scope !== "run" && budget.cap !== null && Number(budget.spent) + Number(budget.held) >= 0.8 * Number(budget.cap)) {
      const scope = say(`crew.budget.${budget.scope}`, { name: budget.name });
      needs.push({ key: `b-${budget.scope}-${budget.currency}`, state: "quota", text: say("now.needs.budget", { run: scope, spent: spent([{ amount: budget.spent, currency: budget.currency }]), budget: spent([{ amount: budget.cap, currency: budget.currency }]) }) });
    }
  }
  // What was begun comes before what nobody has opened yet; both after what stands still.
  for (const { run, name, pieces, more } of [...waiting].sort((one, other) => Number(one.pieces === null) - Number(other.pieces === null))) {
    const text = pieces === null ? say("now.needs.unseen", { run: name }) : say("now.needs.review", { n: count(pieces) + (more ? "+" : ""), run: name });
    needs.push({ key: `r${run}`, state: "proposed", text, run, review: true });
  }
  return needs.slice(0, MOST);
}

export function Needs({ runs }: { runs: readonly RunSummary[] }): React.ReactNode {
  const say = useWords();
  const waiting = useQuery(waitingQuery);
  const budgets = useQuery(budgetsQuery);
  const needs = needsOf(runs, waiting.data ?? [], budgets.data?.items ?? [], say);
  if (needs.length === 0) return <p className="quiet">{say("now.needs.none")}</p>;
  return (
    <ul className="needs">
      {needs.map((need) => (
        <li key={need.key}>
          <Shape state={need.state} />
          <span>{need.text}</span>
          {need.run === undefined ? (
            <Link to="/crew" className="link">
              {say("now.look")}
            </Link>
          ) : need.review ? (
            <Link to="/review" search={{ run: need.run }} className="link">
              {say("now.review")}
            </Link>
          ) : (
            <Link to="/runs/$run" params={{ run: String(need.run) }} className="link">
              {say("now.look")}
            </Link>
          )}
        </li>
      ))}
    </ul>
  );
}
