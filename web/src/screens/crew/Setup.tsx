/** What is set up here: models, packs, settings with their origins. Tables to read. */
import { useQuery } from "@tanstack/react-query";
import { modelsQuery, packsQuery, settingsQuery } from "../../api/crewQueries";
import type { Packs } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { PlainTable } from "../../parts/PlainTable";
import { useWords, type Say } from "../../words";
import { clock } from "../../words/numbers";

export function ModelsTab(): React.ReactNode {
  const say = useWords();
  const models = useQuery(modelsQuery);
  return (
    <Ask query={models}>
      {(answer) => (
        <PlainTable
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

function standing(pack: Packs["items"][number], say: Say): React.ReactNode {
  if (!pack.usable) {
    return (
      <>
        <Mark state="failed" /> {say(pack.here ? "crew.pack.changed" : "crew.pack.missing")}
      </>
    );
  }
  return <span className="quiet">{pack.origin === "shipped" ? say("crew.pack.shipped") : say("crew.pack.installed", { who: pack.installed_by ?? "", at: clock(pack.installed_at) })}</span>;
}

export function PacksTab(): React.ReactNode {
  const say = useWords();
  const packs = useQuery(packsQuery);
  return (
    <Ask query={packs}>
      {(answer) => (
        <PlainTable
          heads={[say("crew.model.name"), "", "", ""]}
          rows={answer.items.flatMap((pack) => [
            [<b key="name" className="strong-link">{pack.ref} {pack.version}</b>, pack.description || pack.label, say("crew.pack.actions", { n: pack.actions.length }), standing(pack, say)],
            ...pack.actions.map((action) => [<code key="ref">{action.ref}</code>, action.description || action.label, <span key="runner" className="quiet">{action.runner}</span>, ""]),
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
        <PlainTable
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
