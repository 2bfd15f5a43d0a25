/** Is it good? */
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useCallback, useState } from "react";
import { reviewStatsQuery } from "../../api/queries";
import type { ActionState } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { Ask } from "../../parts/Ask";
import { NoRun, RunChoice, useChosenRun } from "../../parts/RunChoice";
import { Same } from "../../parts/Same";
import { Empty } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { BulkState } from "../run/Bulk";
import { AssignDialog } from "./AssignDialog";
import { DecideAll } from "./DecideAll";
import { Focus } from "./Focus";
import { Grid } from "./Grid";
import { Strip } from "./Strip";
import { useQueue, type By } from "./queue";

const ORDERS: readonly By[] = ["score", "disagreement", "random", "changed"];

function Desk({ run, by, view, toggle }: { run: number; by: By; view: "focus" | "grid"; toggle: () => void }): React.ReactNode {
  const say = useWords();
  const queue = useQueue(run, by, view === "grid" ? 24 : 6);
  useKeys("here", [
    { keys: "u", about: say("review.undo"), go: queue.undo },
    { keys: "j", about: say("review.next"), go: () => queue.move(1) },
    { keys: "k", about: say("review.previous"), go: () => queue.move(-1) },
    { keys: "v", about: say("review.view.switch"), go: toggle },
  ]);
  const piece = queue.pieces[queue.at];
  const held = useQuery(reviewStatsQuery(run)).data?.held ?? 0;
  return (
    <>
      <Strip run={run} saving={queue.saving} />
      {queue.error !== null && <Trouble error={queue.error} again={queue.forget} />}
      {!piece && !queue.claiming && queue.error === null && (
        <Empty title={say("review.done.title")}>
          <p>{say("review.done.about")}</p>
          {held > 0 && <p>{say("review.done.held", { n: held })}</p>}
          <p className="row">
            <button type="button" className="button" onClick={queue.undo}>
              {say("review.undo")} <kbd>u</kbd>
            </button>
            <Link to="/data" search={{ run }} className="button">
              {say("nav.data")}
            </Link>
          </p>
        </Empty>
      )}
      {!piece && queue.claiming && <p className="quiet section">{say("review.claiming")}</p>}
      {piece && (
        <div className="row desk-place">
          <span className="quiet">
            {queue.at + 1} / {queue.pieces.length}
          </span>
          <button type="button" className="link-button" onClick={() => queue.move(-1)}>
            {say("review.previous")} (k)
          </button>
          <button type="button" className="link-button" onClick={() => queue.move(1)}>
            {say("review.next")} (j)
          </button>
          <button type="button" className="link-button" onClick={queue.undo}>
            {say("review.undo")} (u)
          </button>
        </div>
      )}
      {piece && (view === "grid" ? <Grid queue={queue} /> : <Focus queue={queue} piece={piece} />)}
    </>
  );
}

/** What concerns many rows at once: shared out among people, or decided together. */
function useMany(run: number | undefined, name: string, by: By): { buttons: React.ReactNode; below: React.ReactNode; round: number } {
  const say = useWords();
  const [open, setOpen] = useState<"assign" | "all" | null>(null);
  const [action, setAction] = useState<ActionState | null>(null);
  const [round, setRound] = useState(0); // the queue is claimed anew when a bulk decision has been made
  const ended = useCallback(() => setRound((before) => before + 1), []);
  const close = (): void => setOpen(null);
  const buttons = (
    <>
      <button type="button" className="button" onClick={() => setOpen("all")}>
        {say("review.all")}
      </button>
      <button type="button" className="button" onClick={() => setOpen("assign")}>
        {say("review.assign")}
      </button>
    </>
  );
  const below = run !== undefined && (
    <>
      {action?.id != null && action.run === run && <BulkState key={action.id} id={action.id} ended={ended} />}
      {open === "all" && <DecideAll run={run} name={name} close={close} begun={setAction} />}
      {open === "assign" && <AssignDialog run={run} name={name} by={by} again={ended} close={close} />}
    </>
  );
  return { buttons, below, round };
}

export function Review(): React.ReactNode {
  const say = useWords();
  const search = useSearch({ from: "/review" });
  const navigate = useNavigate({ from: "/review" });
  const { runs, run, id, query } = useChosenRun(search.run);
  const by = ORDERS.find((each) => each === search.by) ?? "score";
  const view = search.view ?? "focus";
  const toggle = (): void => void navigate({ search: (before) => ({ ...before, view: view === "grid" ? "focus" : "grid" }) });
  const name = run?.name ?? String(id ?? "");
  const many = useMany(id, name, by);
  return (
    <Ask query={query} lines={14}>
      {() =>
        id === undefined ? (
          <NoRun title={say("review.none.title")} about={say("review.none.about")} />
        ) : (
          <>
            <div className="screen-title">
              <h1>{say("review.title")}</h1>
              <div className="title-side">
                <RunChoice runs={runs} id={id} choose={(chosen) => void navigate({ search: (before) => ({ ...before, run: chosen }) })} />
                <label>
                  {say("review.by")}{" "}
                  <select value={by} onChange={(event) => void navigate({ search: (before) => ({ ...before, by: event.target.value }) })}>
                    {ORDERS.map((each) => (
                      <option key={each} value={each}>
                        {say(`review.by.${each}`)}
                      </option>
                    ))}
                  </select>
                </label>
                <button type="button" className="button" onClick={toggle} aria-pressed={view === "grid"}>
                  {say(view === "grid" ? "review.view.focus" : "review.view.grid")} <kbd>v</kbd>
                </button>
                {many.buttons}
              </div>
            </div>
            {many.below}
            <Desk key={`${id}-${by}-${view}-${many.round}`} run={id} by={by} view={view} toggle={toggle} />
            <Same commands={[`gristmill review next ${name}`, `gristmill review stats ${name}`]} path="/reviews" query={{ run: id }} />
          </>
        )
      }
    </Ask>
  );
}
