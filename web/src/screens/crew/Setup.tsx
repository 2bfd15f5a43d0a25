/** What is set up here: packs, settings with their origins. Tables to read. */
import { useQuery } from "@tanstack/react-query";
import { packsQuery, settingsQuery } from "../../api/crewQueries";
import type { Packs } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { PlainTable } from "../../parts/PlainTable";
import { useWords, type Say } from "../../words";
import { clock } from "../../words/numbers";

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
