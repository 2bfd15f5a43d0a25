/** Who is working, and what holds us back? */
import { useQuery } from "@tanstack/react-query";
import { Link, useSearch } from "@tanstack/react-router";
import { lanesQuery, sentenceQuery } from "../../api/crewQueries";
import { LaneRows } from "../../charts/LaneRows";
import { Ask } from "../../parts/Ask";
import { Same } from "../../parts/Same";
import { Section } from "../../parts/Section";
import { sayKnown, useReason, useWords } from "../../words";
import { count } from "../../words/numbers";
import { AuditTab } from "./AuditTab";
import { LocksTab } from "./Locks";
import { ModelsTab } from "./ModelsTab";
import { PoolTable } from "./PoolTable";
import { Quotas } from "./Quotas";
import { ScalePart } from "./ScalePart";
import { SchedulesTab } from "./Schedules";
import { PacksTab, SettingsTab } from "./Setup";
import { WorkerTable } from "./WorkerTable";

const TABS = ["crew", "models", "schedules", "locks", "packs", "settings", "audit"] as const;
type Tab = (typeof TABS)[number];

const SAME: Record<Tab, readonly [string[], string]> = {
  crew: [["gristmill workers", "gristmill limits", "gristmill budget"], "/workers/lanes"],
  models: [["gristmill models"], "/models"],
  schedules: [["gristmill schedule"], "/schedules"],
  locks: [["gristmill locks"], "/locks"],
  packs: [["gristmill packs list"], "/packs"],
  settings: [["gristmill doctor --config"], "/settings"],
  audit: [[], "/audit"],
};

function CrewTab(): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const lanes = useQuery(lanesQuery);
  const sentence = useQuery(sentenceQuery);
  return (
    <>
      <p className="sentence" role="status" aria-label={say("crew.sentence")}>
        {sentence.data ? sayKnown(say, "sentence", sentence.data.code) : "\u00a0"}
        {sentence.data?.because[0] && (
          <span className="quiet sentence-why">
            {" "}
            {say("sentence.because", { n: count(sentence.data.because[0].tasks), run: sentence.data.because[0].run, stage: sentence.data.because[0].stage, reason: reason(sentence.data.because[0].reason) })}
          </span>
        )}
      </p>
      <Section title={say("crew.lanes")} about={say("crew.lanes.about")}>
        <Ask query={lanes} lines={8}>
          {(answer) =>
            answer.items.length === 0 ? (
              <p className="quiet">
                {say("crew.lanes.none")} {say("crew.lanes.how")} <code>gristmill up</code>
              </p>
            ) : (
              <LaneRows lanes={answer} />
            )
          }
        </Ask>
      </Section>
      <div className="columns">
        <div>
          <Quotas />
          <WorkerTable />
        </div>
        <div>
          <ScalePart />
          <PoolTable />
        </div>
      </div>
    </>
  );
}

const BODIES: Record<Tab, () => React.ReactNode> = { crew: CrewTab, models: ModelsTab, schedules: SchedulesTab, locks: LocksTab, packs: PacksTab, settings: SettingsTab, audit: AuditTab };

export function Crew(): React.ReactNode {
  const say = useWords();
  const search = useSearch({ from: "/crew" });
  const tab = TABS.find((each) => each === search.tab) ?? "crew";
  const Body = BODIES[tab];
  const [commands, path] = SAME[tab];
  return (
    <>
      <div className="screen-title">
        <h1>{say("crew.title")}</h1>
      </div>
      <nav className="tabs" aria-label={say("crew.title")}>
        {TABS.map((each) => (
          <Link key={each} to="/crew" search={each === "crew" ? {} : { tab: each }} aria-current={each === tab ? "page" : undefined} activeOptions={{ exact: true, includeSearch: true }}>
            {say(`crew.tab.${each}`)}
          </Link>
        ))}
      </nav>
      <Body />
      <Same commands={commands} path={path} />
    </>
  );
}
