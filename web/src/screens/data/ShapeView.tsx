/** How the results are spread: scores, lengths, labels, duplicates, confidence. */
import { useQuery } from "@tanstack/react-query";
import { histogramQuery, type Spread } from "../../api/queries";
import { Bins } from "../../charts/Bins";
import { Ask } from "../../parts/Ask";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";
import { count } from "../../words/numbers";

const SPREADS: readonly Spread[] = ["score", "length", "label", "confidence", "duplicates"];

function figure(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value < 10 ? value.toFixed(2) : count(Math.round(value));
}

function One({ run, field }: { run: number; field: Spread }): React.ReactNode {
  const say = useWords();
  const histogram = useQuery(histogramQuery(run, field));
  const title = say(`data.shape.${field}`);
  return (
    <Section title={title}>
      <Ask query={histogram} lines={5}>
        {(answer) =>
          answer.n === 0 ? (
            <p className="quiet">{say("data.shape.none")}</p>
          ) : (
            <>
              <Bins histogram={answer} label={title} />
              <p className="quiet">
                {answer.bins.length > 0 && say("data.shape.about", { n: count(answer.n), median: figure(answer.median), mean: figure(answer.mean) })}
                {answer.sampled && ` · ${say("data.shape.sampled")}`}
              </p>
            </>
          )
        }
      </Ask>
    </Section>
  );
}

export function ShapeView({ run }: { run: number }): React.ReactNode {
  return (
    <div className="columns columns-even">
      {SPREADS.map((field) => (
        <One key={field} run={run} field={field} />
      ))}
    </div>
  );
}
