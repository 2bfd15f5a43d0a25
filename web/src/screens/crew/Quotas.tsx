/** Quota bars: used, reserved, limit, reset; and money. A full bar is where the work waits. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { budgetsQuery, limitsQuery } from "../../api/crewQueries";
import type { Budget, Limit } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Bar } from "../../parts/Bar";
import { Remove } from "../../parts/Remove";
import { Section } from "../../parts/Section";
import { useWords, type Say, type Word } from "../../words";
import { useChoice } from "../../words/choice";
import { clock, count, duration, money, percent, relative } from "../../words/numbers";
import { BudgetDialog } from "./BudgetDialog";
import { LimitDialog } from "./LimitDialog";

interface Line {
  key: string;
  name: Word;
  used: number;
  most: number;
  figure: string;
  note: string;
}

function of(used: number, most: number): string {
  return `${count(Math.round(used))} / ${count(Math.round(most))}`;
}

function linesOf(limit: Limit, say: Say): Line[] {
  const lines: Line[] = [];
  const { quota_limit: day, requests_today: today, concurrency, in_flight: flight } = limit;
  const rpm = limit.requests_per_minute_now ?? limit.requests_per_minute;
  const tpm = limit.tokens_per_minute_now ?? limit.tokens_per_minute;
  if (day) lines.push({ key: "day", name: "crew.quota.day", used: today, most: day, figure: of(today, day), note: "" });
  if (rpm && limit.tokens_available !== null) {
    const most = Math.max(limit.burst ?? 1, 1);
    const left = Math.max(0, limit.tokens_available);
    lines.push({ key: "rpm", name: "crew.quota.rpm", used: Math.max(0, most - left), most, figure: `${count(Math.round(rpm))}/min`, note: say("crew.quota.left", { n: count(Math.floor(left)) }) });
  }
  if (tpm && limit.model_tokens_available !== null) {
    const used = Math.max(0, Math.min(tpm, tpm - limit.model_tokens_available));
    lines.push({ key: "tpm", name: "crew.quota.tpm", used, most: tpm, figure: of(used, tpm), note: "" });
  }
  if (concurrency) lines.push({ key: "flight", name: "crew.quota.flight", used: flight, most: concurrency, figure: of(flight, concurrency), note: "" });
  return lines;
}

function LimitRow({ limit, edit, remove }: { limit: Limit; edit: () => void; remove: () => void }): React.ReactNode {
  const say = useWords();
  const { language } = useChoice();
  const notes = [
    limit.blocked_until ? say("crew.quota.blocked", { at: clock(limit.blocked_until, true), why: limit.blocked_why ?? "" }) : "",
    !limit.can_make_request && limit.wait_time_seconds > 0 ? say("crew.quota.wait", { time: duration(limit.wait_time_seconds) }) : "",
    limit.pace < 1 ? say("crew.quota.slowed", { pace: percent(limit.pace) }) : "",
    limit.resets_at && limit.quota_limit ? say("crew.quota.resets", { at: relative(limit.resets_at, language) }) : "",
  ].filter(Boolean);
  return (
    <li className="quota">
      <p className="quota-name">
        <b>{limit.name}</b>
        <span className="quiet">{notes.join(" · ")}</span>
        <button type="button" className="link-button" onClick={edit} aria-label={`${say("crew.quota.change")} ${limit.name}`}>
          {say("crew.quota.change")}
        </button>
        <button type="button" className="link-button" onClick={remove} aria-label={`${say("limit.remove")} ${limit.name}`}>
          {say("limit.remove")}
        </button>
      </p>
      {linesOf(limit, say).map((line) => (
        <div key={line.key} className="quota-line">
          <span>{say(line.name)}</span>
          <Bar parts={[{ state: line.used >= line.most * 0.95 ? "full" : "running", value: Math.min(line.used, line.most) }]} total={line.most} />
          <span className="number">{line.figure}</span>
          <span className="quiet clip">{line.note}</span>
        </div>
      ))}
    </li>
  );
}

function BudgetRow({ budget, edit }: { budget: Budget; edit: () => void }): React.ReactNode {
  const say = useWords();
  const spent = Number(budget.spent);
  const held = Number(budget.held);
  const cap = budget.cap === null ? null : Number(budget.cap);
  return (
    <li className="quota">
      <div className="quota-line">
        <span>{say(`crew.budget.${budget.scope}`, { name: budget.name })}</span>
        {cap === null ? <span className="quiet">{say("crew.budget.none")}</span> : <Bar parts={[{ state: spent >= cap ? "full" : "running", value: spent }, { state: "reserved", value: held }]} total={cap} />}
        <span className="number">
          {money(spent)} {cap !== null && <span className="quiet">/ {money(cap)}</span>}
        </span>
        <button type="button" className="link-button" onClick={edit}>
          {say("crew.quota.change")}
        </button>
      </div>
    </li>
  );
}

export function Quotas(): React.ReactNode {
  const say = useWords();
  const limits = useQuery(limitsQuery);
  const budgets = useQuery(budgetsQuery);
  const [limit, setLimit] = useState<Limit | "new" | null>(null);
  const [removed, setRemoved] = useState<string | null>(null);
  const [budget, setBudget] = useState<Budget | null>(null);
  return (
    <>
      <Section
        title={say("crew.quotas")}
        side={
          <button type="button" className="link-button" onClick={() => setLimit("new")}>
            {say("limit.add")}
          </button>
        }
      >
        <Ask query={limits}>
          {(answer) =>
            answer.items.length === 0 ? (
              <p className="quiet">{say("crew.quotas.none")}</p>
            ) : (
              <ul>
                {answer.items.map((each) => (
                  <LimitRow key={each.name} limit={each} edit={() => setLimit(each)} remove={() => setRemoved(each.name)} />
                ))}
              </ul>
            )
          }
        </Ask>
      </Section>
      <Section title={say("crew.budgets")}>
        <Ask query={budgets}>
          {(answer) => (
            <ul>
              {answer.items.map((each) => (
                <BudgetRow key={`${each.scope}-${each.name}-${each.currency}`} budget={each} edit={() => setBudget(each)} />
              ))}
            </ul>
          )}
        </Ask>
      </Section>
      {limit && <LimitDialog limit={limit === "new" ? null : limit} close={() => setLimit(null)} />}
      {removed !== null && (
        <Remove path={`/limits/${encodeURIComponent(removed)}`} old="limits" title={say("limit.remove.title", { name: removed })} about={say("limit.remove.about")} action={say("limit.remove")} close={() => setRemoved(null)} />
      )}
      {budget && <BudgetDialog budget={budget} close={() => setBudget(null)} />}
    </>
  );
}
