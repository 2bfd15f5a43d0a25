/** What have I got? */
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { Ask } from "../../parts/Ask";
import { NoRun, RunChoice, useChosenRun } from "../../parts/RunChoice";
import { Same } from "../../parts/Same";
import { useWords } from "../../words";
import { useKeys } from "../../keyboard/keys";
import { CoverageView } from "./CoverageView";
import { ExportDrawer } from "./ExportDrawer";
import { ShapeView } from "./ShapeView";
import { TableView } from "./TableView";

const VIEWS = ["coverage", "table", "shape"] as const;

export function Data(): React.ReactNode {
  const say = useWords();
  const search = useSearch({ from: "/data" });
  const navigate = useNavigate({ from: "/data" });
  const { runs, run, id, query } = useChosenRun(search.run);
  const [exporting, setExporting] = useState(false);
  const view = search.view ?? (search.filter || search.contains || search.kind ? "table" : "coverage");
  useKeys("here", [{ keys: "x", about: say("export.open"), go: () => setExporting(true) }]);
  const name = run?.name ?? String(id ?? "");
  return (
    <Ask query={query} lines={14}>
      {() =>
        id === undefined ? (
          <NoRun title={say("data.empty.title")} about={say("data.empty.about")} />
        ) : (
          <>
            <div className="screen-title">
              <h1>{say("data.title")}</h1>
              <div className="title-side">
                <RunChoice runs={runs} id={id} choose={(chosen) => void navigate({ search: (before) => ({ ...before, run: chosen }) })} />
                <button type="button" className="button" onClick={() => setExporting(true)}>
                  {say("export.open")} <kbd>x</kbd>
                </button>
              </div>
            </div>
            <nav className="tabs" aria-label={say("data.title")}>
              {VIEWS.map((each) => (
                <Link key={each} to="/data" search={(before) => ({ ...before, view: each })} aria-current={each === view ? "page" : undefined}>
                  {say(`data.view.${each}`)}
                </Link>
              ))}
            </nav>
            {view === "coverage" && <CoverageView key={id} run={id} />}
            {view === "table" && <TableView run={id} search={search} />}
            {view === "shape" && <ShapeView key={id} run={id} />}
            <ExportDrawer run={id} name={name} open={exporting} setOpen={setExporting} />
            <Same commands={[`gristmill export ${name}`]} path={view === "coverage" ? "/records/coverage" : "/records"} query={{ run: id }} />
          </>
        )
      }
    </Ask>
  );
}
