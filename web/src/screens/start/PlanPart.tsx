/** What the run would take; every figure is the likely one, with its range. */
import type { Plan } from "../../api/types";
import { Figure, Figures, Section } from "../../parts/Section";
import { useReason, useWords } from "../../words";
import { bytes, count, duration, money, short } from "../../words/numbers";

type Range = readonly number[];

function likely(range: Range | null | undefined): number {
  return range?.[1] ?? range?.[0] ?? 0;
}

function spread(range: Range, show: (value: number) => string): string | undefined {
  const [low, , high] = range;
  return low === undefined || high === undefined || low === high ? undefined : `${show(low)} – ${show(high)}`;
}

function whole(value: number): string {
  return short(Math.round(value));
}

export function PlanPart({ plan }: { plan: Plan }): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const costs = Object.entries(plan.cost);
  const [currency, cost] = costs[0] ?? ["USD", [0, 0, 0]];
  const asMoney = (value: number): string => (currency === "USD" ? money(value) : `${value.toFixed(2)} ${currency}`);
  const tokens = plan.tokens_in.map((value, index) => value + (plan.tokens_out[index] ?? 0));
  return (
    <Section title={say("start.plan")} about={say("start.plan.about")}>
      <Figures>
        <Figure name={say("start.plan.files")} value={count(plan.files)} note={plan.unreadable > 0 ? say("start.plan.unreadable", { n: plan.unreadable }) : bytes(plan.bytes)} />
        <Figure name={say("start.plan.calls")} value={whole(likely(plan.calls))} note={spread(plan.calls, whole)} />
        <Figure name={say("start.plan.tokens")} value={whole(likely(tokens))} note={spread(tokens, whole)} />
        <Figure name={say("start.plan.cost")} value={likely(cost) === 0 ? say("start.plan.free") : asMoney(likely(cost))} note={spread(cost, asMoney)} />
        <Figure name={say("start.plan.time")} value={duration(likely(plan.seconds))} note={say("start.plan.bound", { what: reason(plan.bound_by) })} />
        <Figure name={say("start.plan.disk")} value={bytes(plan.disk_bytes)} />
      </Figures>
      {likely(plan.known) >= 1 && <p className="quiet">{say("start.plan.known", { n: whole(likely(plan.known)) })}</p>}
      <div className="scroll-x">
        <table className="plain-table plan-table">
          <thead>
            <tr>
              <th>{say("start.plan.step")}</th>
              <th className="number">{say("start.plan.in")}</th>
              <th className="number">{say("start.plan.out")}</th>
              <th className="number">{say("start.plan.calls")}</th>
              <th className="number">{say("start.plan.tokens")}</th>
              <th className="number">{say("start.plan.cost")}</th>
            </tr>
          </thead>
          <tbody>
            {plan.steps.map((step) => (
              <tr key={step.name}>
                <td>
                  {step.name} {step.model && <span className="quiet">{step.model}</span>}
                </td>
                <td className="number">{whole(likely(step.inputs))}</td>
                <td className="number">{whole(likely(step.outputs))}</td>
                <td className="number">{whole(likely(step.calls))}</td>
                <td className="number">{whole(likely(step.tokens_in) + likely(step.tokens_out))}</td>
                <td className="number">{step.cost ? asMoney(likely(step.cost)) : "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Section>
  );
}
