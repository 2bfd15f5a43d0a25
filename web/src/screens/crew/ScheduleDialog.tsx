/** A run over places of the server, again and again. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { modelsQuery } from "../../api/crewQueries";
import { workflowsQuery } from "../../api/queries";
import type { NewSchedule } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

const MISSED = ["last", "all", "none"] as const;

export function ScheduleDialog({ close }: { close: () => void }): React.ReactNode {
  const say = useWords();
  const workflows = useQuery(workflowsQuery);
  const models = useQuery(modelsQuery);
  const [wish, setWish] = useState<Partial<NewSchedule>>({ name: "", workflow: "qa", model: "extractive", timezone: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC", catch_up: "last" });
  const [timed, setTimed] = useState<"cron" | "every">("cron");
  const [when, setWhen] = useState("0 3 * * *");
  const [places, setPlaces] = useState("");
  const set = (changed: Partial<NewSchedule>): void => setWish((before) => ({ ...before, ...changed }));
  const paths = places.split("\n").map((line) => line.trim()).filter(Boolean);
  const add = useMutation({
    mutationFn: () => change("POST", "/schedules", { ...wish, paths, ...(timed === "cron" ? { cron: when.trim() } : { every: Number(when), timezone: "UTC" }) }),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["schedules"] });
      close();
    },
  });
  const ready = wish.name?.trim() && when.trim() && paths.length > 0;
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={say("crew.schedule.add.title")} action={say("crew.schedule.add.go")} go={() => add.mutate()} disabled={!ready || add.isPending}>
      <p>{say("crew.schedule.add.about")}</p>
      <div className="form form-even">
        <label className="field">
          {say("crew.model.name")}
          <input value={wish.name} onChange={(event) => set({ name: event.target.value })} spellCheck={false} />
        </label>
        <label className="field">
          {say("crew.schedule.timezone")}
          <input value={wish.timezone} disabled={timed === "every"} onChange={(event) => set({ timezone: event.target.value })} spellCheck={false} />
        </label>
        <label className="field">
          {say("crew.schedule.when")}
          <select
            value={timed}
            onChange={(event) => {
              setTimed(event.target.value as "cron" | "every");
              setWhen(event.target.value === "cron" ? "0 3 * * *" : "3600");
            }}
          >
            <option value="cron">{say("crew.schedule.cron")}</option>
            <option value="every">{say("crew.schedule.every")}</option>
          </select>
        </label>
        <label className="field">
          {say(`crew.schedule.${timed}`)}
          <input value={when} onChange={(event) => setWhen(event.target.value)} className="mono" spellCheck={false} />
        </label>
        <label className="field">
          {say("start.workflow")}
          <select value={wish.workflow} onChange={(event) => set({ workflow: event.target.value })}>
            {(workflows.data ?? [{ name: "qa" }]).map((each) => (
              <option key={each.name}>{each.name}</option>
            ))}
          </select>
        </label>
        <label className="field">
          {say("start.model")}
          <select value={wish.model ?? ""} onChange={(event) => set({ model: event.target.value })}>
            {[...(models.data?.free ?? ["extractive"]), ...(models.data?.items ?? []).map((each) => each.name)].map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      <label className="field">
        {say("crew.schedule.paths")}
        <textarea rows={2} value={places} onChange={(event) => setPlaces(event.target.value)} className="mono" spellCheck={false} />
      </label>
      <label className="field">
        {say("crew.schedule.missed")}
        <select value={wish.catch_up} onChange={(event) => set({ catch_up: event.target.value as NewSchedule["catch_up"] })}>
          {MISSED.map((each) => (
            <option key={each} value={each}>
              {say(`crew.schedule.missed.${each}`)}
            </option>
          ))}
        </select>
      </label>
      {add.error && <Trouble error={add.error} />}
    </Confirm>
  );
}
