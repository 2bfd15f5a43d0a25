/** What starts by itself, and when: added, paused, removed. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { schedulesQuery } from "../../api/crewQueries";
import type { Schedule } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { PlainTable } from "../../parts/PlainTable";
import { Remove } from "../../parts/Remove";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { clock, duration } from "../../words/numbers";
import { ScheduleDialog } from "./ScheduleDialog";

function Orders({ schedule, remove }: { schedule: Schedule; remove: () => void }): React.ReactNode {
  const say = useWords();
  const verb = schedule.paused ? "resume" : "pause";
  const order = useMutation({
    mutationFn: () => change("POST", `/schedules/${encodeURIComponent(schedule.name)}/${verb}`),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["schedules"] }),
  });
  return (
    <span className="row">
      <button type="button" className="link-button" disabled={order.isPending} onClick={() => order.mutate()}>
        {say(`crew.${verb}`)}
      </button>
      <button type="button" className="link-button" onClick={remove}>
        {say("crew.schedule.remove")}
      </button>
      {order.error && <Trouble error={order.error} />}
    </span>
  );
}

export function SchedulesTab(): React.ReactNode {
  const say = useWords();
  const schedules = useQuery(schedulesQuery);
  const [adding, setAdding] = useState(false);
  const [removed, setRemoved] = useState<string | null>(null);
  return (
    <>
      <Ask query={schedules}>
        {(answer) => (
          <PlainTable
            heads={[say("crew.model.name"), say("crew.schedule.when"), say("crew.schedule.next"), say("crew.schedule.last"), say("crew.state"), ""]}
            rows={answer.items.map((one) => [
              one.name, one.cron ? <code key="cron">{one.cron} {one.timezone}</code> : duration(one.every), clock(one.next_at), clock(one.last_at),
              one.paused ? <Mark key="state" state="paused" /> : one.outcome ? <Mark key="state" state={one.outcome} /> : (one.message ?? "–"),
              <Orders key="orders" schedule={one} remove={() => setRemoved(one.name)} />,
            ])}
            none={<>{say("crew.schedules.none")} <code>gristmill schedule add</code></>}
          />
        )}
      </Ask>
      <p className="row section">
        <button type="button" className="button" onClick={() => setAdding(true)}>
          {say("crew.schedule.add")}
        </button>
      </p>
      {adding && <ScheduleDialog close={() => setAdding(false)} />}
      {removed !== null && (
        <Remove path={`/schedules/${encodeURIComponent(removed)}`} old="schedules" title={say("crew.schedule.remove.title", { name: removed })} about={say("crew.schedule.remove.about")} action={say("crew.schedule.remove.go")} close={() => setRemoved(null)} />
      )}
    </>
  );
}
