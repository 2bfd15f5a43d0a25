/** Who works, and orders to each: pause, go on, drain. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { workersQuery } from "../../api/crewQueries";
import type { Worker } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Confirm } from "../../parts/Confirm";
import { Mark } from "../../parts/Mark";
import { Section } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { count, duration } from "../../words/numbers";

/** Left in order: of no interest any more. Who died stays in sight. */
function isGone(worker: Worker): boolean {
  return worker.state === "stopped";
}

export function WorkerTable(): React.ReactNode {
  const say = useWords();
  const workers = useQuery(workersQuery);
  const [draining, setDraining] = useState<Worker | null>(null);
  const order = useMutation({
    mutationFn: ({ id, verb }: { id: number; verb: "pause" | "resume" | "drain" }) => change("POST", `/workers/${id}/${verb}`),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["workers"] }),
  });
  if (workers.data?.items.every(isGone)) return null;
  return (
    <Section title={say("crew.workers")}>
      {order.error && <Trouble error={order.error} />}
      <Ask query={workers}>
        {(answer) => (
          <div className="scroll-x">
            <table className="plain-table">
              <thead>
                <tr>
                  <th>{say("crew.worker")}</th>
                  <th>{say("crew.state")}</th>
                  <th>{say("crew.pools")}</th>
                  <th className="number">{say("crew.tasks")}</th>
                  <th className="number">{say("crew.beat")}</th>
                  <td />
                </tr>
              </thead>
              <tbody>
                {answer.items.filter((worker) => !isGone(worker)).map((worker) => {
                  const live = ["alive", "paused", "draining", "late"].includes(worker.state);
                  return (
                    <tr key={worker.id}>
                      <td>
                        {worker.name} <span className="quiet">{worker.host} {worker.pid}</span>
                      </td>
                      <td title={worker.cause ?? ""}>
                        <Mark state={worker.state} />
                      </td>
                      <td className="quiet">{Object.entries(worker.pools).map(([pool, slots]) => `${pool} ${slots}`).join(", ")}</td>
                      <td className="number">{count(worker.tasks)}</td>
                      <td className="number">{live ? duration(worker.beat_age) : <span className="quiet">{worker.cause ?? "–"}</span>}</td>
                      <td className="number">
                        {live && (
                          <span className="row row-right">
                            <button type="button" className="link-button" onClick={() => order.mutate({ id: worker.id, verb: worker.state === "paused" ? "resume" : "pause" })}>
                              {say(worker.state === "paused" ? "crew.resume" : "crew.pause")}
                            </button>
                            <button type="button" className="link-button" onClick={() => setDraining(worker)}>
                              {say("crew.drain")}
                            </button>
                          </span>
                        )}
                      </td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </div>
        )}
      </Ask>
      <Confirm
        open={draining !== null}
        setOpen={(open) => !open && setDraining(null)}
        title={`${say("crew.drain")} ${draining?.name ?? ""}`}
        action={say("crew.drain")}
        go={() => draining && order.mutate({ id: draining.id, verb: "drain" })}
      >
        <p>{say("crew.drain.about", { worker: draining?.name ?? "" })}</p>
      </Confirm>
    </Section>
  );
}
