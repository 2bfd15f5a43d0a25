/** All runs, the latest first. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { allRunsQuery } from "../../api/queries";
import { Same } from "../../parts/Same";
import { Ask } from "../../parts/Ask";
import { useWords } from "../../words";
import { FirstRun } from "../now/FirstRun";
import { RunRows } from "./RunRows";

export function Runs(): React.ReactNode {
  const say = useWords();
  const runs = useInfiniteQuery(allRunsQuery);
  return (
    <>
      <div className="screen-title">
        <h1>{say("runs.title")}</h1>
      </div>
      <div className="section">
        <Ask query={runs} lines={12}>
          {(answer) => {
            const all = answer.pages.flatMap((page) => page.items);
            return all.length === 0 ? <FirstRun /> : <RunRows runs={all} />;
          }}
        </Ask>
        {runs.hasNextPage && (
          <button type="button" className="button" onClick={() => void runs.fetchNextPage()}>
            {say("more")}
          </button>
        )}
      </div>
      <Same commands={["gristmill watch --list"]} path="/runs" />
    </>
  );
}
