/** What was set differently from the run of the same workflow before this one. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { differenceQuery } from "../../api/queries";
import { Ask } from "../../parts/Ask";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";

function shown(value: unknown): string {
  if (value === null || value === undefined) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function DifferencePart({ run }: { run: number }): React.ReactNode {
  const say = useWords();
  const difference = useQuery(differenceQuery(run));
  const before = difference.data?.previous_name;
  if (difference.data && difference.data.previous === null) return null;
  return (
    <Section
      title={before ? say("run.difference", { run: before }) : say("run.difference", { run: "…" })}
      side={difference.data?.previous ? <Link to="/runs/$run" params={{ run: String(difference.data.previous) }} className="link">{say("now.look")}</Link> : undefined}
    >
      <Ask query={difference}>
        {(answer) => (
          <>
            {answer.changes.length === 0 && <p className="quiet">{say("run.difference.none")}</p>}
            <ul className="changes">
              {answer.changes.map((change) => (
                <li key={`${change.stage}-${change.what}-${change.name}`}>
                  <span className="chip">{change.stage}</span> {change.what} {change.name !== change.what && change.name}
                  <del>{shown(change.before)}</del>
                  <ins>{shown(change.now)}</ins>
                </li>
              ))}
            </ul>
            {answer.inputs_added.length + answer.inputs_removed.length > 0 && (
              <p className="quiet">{say("run.difference.inputs", { added: answer.inputs_added.length, removed: answer.inputs_removed.length })}</p>
            )}
          </>
        )}
      </Ask>
    </Section>
  );
}
