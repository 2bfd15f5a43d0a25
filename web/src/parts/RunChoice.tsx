/** Which run a screen is about; the latest one unless the address says otherwise. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { runsQuery } from "../api/queries";
import type { RunSummary } from "../api/types";
import { Empty } from "./Section";
import { useWords } from "../words";

export function useChosenRun(wanted: number | undefined): { runs: readonly RunSummary[]; run: RunSummary | undefined; id: number | undefined; query: ReturnType<typeof useRuns> } {
  const query = useRuns();
  const runs = query.data?.items ?? [];
  const run = runs.find((each) => each.id === wanted) ?? (wanted === undefined ? runs[0] : undefined);
  return { runs, run, id: wanted ?? run?.id, query };
}

function useRuns() {
  return useQuery(runsQuery(100));
}

export function RunChoice({ runs, id, choose }: { runs: readonly RunSummary[]; id: number | undefined; choose: (id: number) => void }): React.ReactNode {
  const say = useWords();
  return (
    <label>
      {say("data.run")}{" "}
      <select value={id ?? ""} onChange={(event) => choose(Number(event.target.value))}>
        {id !== undefined && !runs.some((run) => run.id === id) && <option value={id}>{id}</option>}
        {runs.map((run) => (
          <option key={run.id} value={run.id}>
            {run.name}
          </option>
        ))}
      </select>
    </label>
  );
}

/** The command that makes a first run on any machine. */
export function Keyless(): React.ReactNode {
  const say = useWords();
  return (
    <p>
      {say("now.empty.how")}
      <br />
      <code>gristmill run docs/handbook --workflow qa --model extractive</code>
    </p>
  );
}

/** What a screen about one run shows while there is none. */
export function NoRun({ title, about }: { title: string; about: string }): React.ReactNode {
  const say = useWords();
  return (
    <Empty title={title}>
      <p>{about}</p>
      <p>
        <Link to="/start" className="button button-main">
          {say("nav.start")}
        </Link>
      </p>
      <Keyless />
    </Empty>
  );
}
