/** What failed, grouped by cause; each group can be tried again by itself. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { failuresQuery } from "../../api/queries";
import type { Cause, RunDetail } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";
import { count } from "../../words/numbers";
import { RetryDialog } from "./RetryDialog";

export function FailureGroups({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const failures = useQuery(failuresQuery(run.id));
  const [chosen, setChosen] = useState<Cause | null>(null);
  return (
    <Section title={say("run.failures")}>
      <Ask query={failures}>
        {(answer) =>
          answer.causes.length === 0 ? (
            <p className="quiet">{say("run.failures.none")}</p>
          ) : (
            <>
              <ul className="causes">
                {answer.causes.map((cause) => (
                  <li key={`${cause.cause}-${cause.stage}-${cause.code}`}>
                    <b className="number">{count(cause.count)}</b>
                    <div className="cause-text">
                      <p>
                        {cause.stage && <span className="chip">{cause.stage}</span>} {cause.message ?? cause.error} {cause.code && <code className="quiet">{cause.code}</code>}
                      </p>
                      {cause.sample_item && (
                        <p className="quiet">
                          {cause.sample_task ? (
                            <Link to="/tasks/$task" params={{ task: String(cause.sample_task) }}>
                              {say("run.failures.sample", { item: cause.sample_item })}
                            </Link>
                          ) : (
                            say("run.failures.sample", { item: cause.sample_item })
                          )}
                        </p>
                      )}
                    </div>
                    {cause.cause && (
                      <button type="button" className="button" onClick={() => setChosen(cause)}>
                        {say("run.retry.these", { n: cause.count })}
                      </button>
                    )}
                  </li>
                ))}
              </ul>
              {!answer.complete && <p className="quiet">{say("run.failures.more")}</p>}
            </>
          )
        }
      </Ask>
      {chosen && <RetryDialog run={run} cause={chosen} close={() => setChosen(null)} />}
    </Section>
  );
}
