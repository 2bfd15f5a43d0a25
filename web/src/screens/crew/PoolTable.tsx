/** Pools: how much waits in each, and how much of it may run at once. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { poolsQuery } from "../../api/crewQueries";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";
import { count } from "../../words/numbers";

export function PoolTable(): React.ReactNode {
  const say = useWords();
  const pools = useQuery(poolsQuery);
  const pause = useMutation({
    mutationFn: ({ name, paused }: { name: string; paused: boolean }) => change("PUT", `/pools/${encodeURIComponent(name)}`, { paused }),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["crew"] }),
  });
  if (pools.data?.items.length === 0) return null;
  return (
    <Section title={say("crew.poolList")}>
      <Ask query={pools}>
        {(answer) => (
          <div className="scroll-x">
            <table className="plain-table">
              <thead>
                <tr>
                  <th>{say("crew.pool")}</th>
                  <th className="number">{say("crew.pool.running")}</th>
                  <th className="number">{say("crew.pool.waiting")}</th>
                  <th className="number">{say("crew.pool.slots")}</th>
                  <th className="number">{say("crew.pool.limit")}</th>
                  <td />
                </tr>
              </thead>
              <tbody>
                {answer.items.map((pool) => (
                  <tr key={pool.name}>
                    <td>
                      {pool.name} {pool.paused && <Mark state="paused" />}
                    </td>
                    <td className="number">{count(pool.running)}</td>
                    <td className="number">{count(pool.waiting)}</td>
                    <td className="number">{count(pool.slots)}</td>
                    <td className="number">{count(pool.limit)}</td>
                    <td className="number">
                      <button type="button" className="link-button" onClick={() => pause.mutate({ name: pool.name, paused: !pool.paused })}>
                        {say(pool.paused ? "crew.resume" : "crew.pause")}
                      </button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </Ask>
    </Section>
  );
}
