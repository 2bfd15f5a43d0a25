/** Is all well, when is it ready, what does it cost? */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { runsQuery, throughputQuery } from "../../api/queries";
import type { RunSummary, Throughput } from "../../api/types";
import { minutesIn, Ribbon } from "../../charts/Ribbon";
import { Ask } from "../../parts/Ask";
import { Figure, Figures, Section } from "../../parts/Section";
import { Same } from "../../parts/Same";
import { useWords } from "../../words";
import { count, money, seconds, short } from "../../words/numbers";
import { isOpen, RunRows, spent } from "../run/RunRows";
import { FirstRun } from "./FirstRun";
import { Needs } from "./Needs";

/** What was done in the last sixty seconds, nearly: the minute that goes on, and the part of the one before that they reach into. */
function lastOf(throughput: Throughput): { minute: number; hour: number } {
  const per = throughput.minutes.map((_, index) => throughput.series.reduce((sum, series) => sum + (series.completed[index] ?? 0), 0));
  const gone = Math.min(1, Math.max(0, seconds(throughput.minutes.at(-1) ?? "", null) / 60));
  return { minute: Math.round((per.at(-1) ?? 0) + (per.at(-2) ?? 0) * (1 - gone)), hour: per.reduce((sum, value) => sum + value, 0) };
}

function Totals({ throughput, runs }: { throughput: Throughput; runs: readonly RunSummary[] }): React.ReactNode {
  const say = useWords();
  const open = runs.filter(isOpen);
  const { minute, hour } = lastOf(throughput);
  const costs = open.flatMap((run) => run.cost);
  const dollars = costs.filter((cost) => cost.currency === "USD").reduce((sum, cost) => sum + Number(cost.amount), 0);
  return (
    <Figures>
      <Figure name={say("now.total.active")} value={count(open.length)} />
      <Figure name={say("now.total.per_minute")} value={short(minute)} />
      <Figure name={say("now.total.hour")} value={short(hour)} />
      <Figure name={say("now.total.spent")} value={costs.every((cost) => cost.currency === "USD") ? money(dollars) : spent(costs)} />
    </Figures>
  );
}

export function Now(): React.ReactNode {
  const say = useWords();
  const runs = useQuery(runsQuery(30));
  const throughput = useQuery(throughputQuery(60));
  if (runs.data?.items.length === 0) return <FirstRun />;
  const all = runs.data?.items ?? [];
  const shown = [...all.filter(isOpen), ...all.filter((run) => !isOpen(run)).slice(0, 12)];
  return (
    <>
      <div className="screen-title">
        <h1>{say("now.title")}</h1>
      </div>
      {throughput.data && <Totals throughput={throughput.data} runs={all} />}
      <Section title={say("now.ribbon")} about={throughput.data && say("now.ribbon.about", { n: minutesIn(throughput.data) })}>
        <Ask query={throughput} lines={8}>
          {(answer) => (lastOf(answer).hour === 0 && answer.marks.length === 0 ? <p className="quiet">{say("now.ribbon.empty")}</p> : <Ribbon throughput={answer} />)}
        </Ask>
      </Section>
      <Section title={say("now.needs")}>
        <Needs runs={all} />
      </Section>
      <Section title={say("now.runs")} side={<Link to="/runs" className="link">{say("now.older")}</Link>}>
        <Ask query={runs} lines={6}>{() => <RunRows runs={shown} />}</Ask>
      </Section>
      <Same commands={["gristmill watch", "gristmill watch --list"]} path="/throughput" query={{ minutes: 60 }} />
    </>
  );
}
