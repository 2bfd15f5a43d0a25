/** What is set up here: models, schedules, locks, packs, settings with their origins. Tables to read. */
import { useQuery } from "@tanstack/react-query";
import { locksQuery, modelsQuery, packsQuery, schedulesQuery, settingsQuery } from "../../api/crewQueries";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { useWords } from "../../words";
import { clock, duration } from "../../words/numbers";

interface TableProps {
  heads: readonly string[];
  rows: readonly (readonly React.ReactNode[])[];
  none: React.ReactNode;
}

function Table({ heads, rows, none }: TableProps): React.ReactNode {
  if (rows.length === 0) return <p className="quiet">{none}</p>;
  return (
    <div className="scroll-x section">
      <table className="plain-table wrap-table">
        <thead>
          <tr>
            {heads.map((head, place) => (head ? <th key={place}>{head}</th> : <td key={place} />))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={index}>
              {row.map((cell, place) => (
                <td key={place}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function ModelsTab(): React.ReactNode {
  const say = useWords();
  const models = useQuery(modelsQuery);
  return (
    <Ask query={models}>
      {(answer) => (
        <Table
          heads={[say("crew.model.name"), say("crew.model.model"), say("crew.model.key"), say("crew.model.limit"), say("crew.model.origin")]}
          rows={answer.items.map((model) => [
            <b key="name" className="strong-link">{model.name}</b>, `${model.provider}:${model.model}`, <code key="key">{model.key ?? "–"}</code>, model.limit ?? "–",
            <span key="origin" className="quiet">{model.origin}</span>,
          ])}
          none={<>{say("crew.models.none")} {answer.free.map((name) => <code key={name}>{name}</code>)}</>}
        />
      )}
    </Ask>
  );
}

export function SchedulesTab(): React.ReactNode {
  const say = useWords();
  const schedules = useQuery(schedulesQuery);
  return (
    <Ask query={schedules}>
      {(answer) => (
        <Table
          heads={[say("crew.model.name"), say("crew.schedule.when"), say("crew.schedule.next"), say("crew.schedule.last"), say("crew.state")]}
          rows={answer.items.map((one) => [
            one.name, one.cron ? <code key="cron">{one.cron} {one.timezone}</code> : duration(one.every), clock(one.next_at), clock(one.last_at),
            one.paused ? <Mark key="state" state="paused" /> : one.outcome ? <Mark key="state" state={one.outcome} /> : (one.message ?? "–"),
          ])}
          none={<>{say("crew.schedules.none")} <code>gristmill schedule add</code></>}
        />
      )}
    </Ask>
  );
}

export function LocksTab(): React.ReactNode {
  const say = useWords();
  const locks = useQuery(locksQuery);
  return (
    <Ask query={locks}>
      {(answer) => (
        <Table
          heads={[say("crew.lock.key"), say("crew.lock.holder"), say("crew.lock.since"), say("crew.lock.fence")]}
          rows={answer.items.map((lock) => [<code key="key">{lock.key}</code>, `${lock.holder_kind} ${lock.holder}`, clock(lock.since, true), lock.waits ? <Mark key="w" state="waiting" /> : lock.fence])}
          none={say("crew.locks.none")}
        />
      )}
    </Ask>
  );
}

export function PacksTab(): React.ReactNode {
  const say = useWords();
  const packs = useQuery(packsQuery);
  return (
    <Ask query={packs}>
      {(answer) => (
        <Table
          heads={[say("crew.model.name"), "", ""]}
          rows={answer.items.flatMap((pack) => [
            [<b key="name" className="strong-link">{pack.ref} {pack.version}</b>, pack.description || pack.label, say("crew.pack.actions", { n: pack.actions.length })],
            ...pack.actions.map((action) => [<code key="ref">{action.ref}</code>, action.description || action.label, <span key="runner" className="quiet">{action.runner}</span>]),
          ])}
          none={<>{say("crew.packs.none")} <code>gristmill packs list</code></>}
        />
      )}
    </Ask>
  );
}

export function SettingsTab(): React.ReactNode {
  const say = useWords();
  const settings = useQuery(settingsQuery);
  return (
    <Ask query={settings} lines={20}>
      {(answer) => (
        <Table
          heads={[say("crew.setting"), say("crew.setting.value"), say("crew.setting.origin")]}
          rows={answer.items.map((setting) => [
            <span key="name" title={setting.description}>{setting.name}</span>,
            <code key="value">{typeof setting.value === "string" ? setting.value : JSON.stringify(setting.value)}</code>,
            <span key="origin" className={setting.origin === "default" ? "quiet" : ""}>{setting.origin}</span>,
          ])}
          none=""
        />
      )}
    </Ask>
  );
}
