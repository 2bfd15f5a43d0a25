/** Pause, go on, give up, try again, export: each says what it will do. */
import { useMutation } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import type { RunDetail } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { ExportDrawer } from "../data/ExportDrawer";
import { AgainDialog } from "./AgainDialog";
import { RetryDialog } from "./RetryDialog";
import { isOpen } from "./RunRows";

export function RunControls({ run }: { run: RunDetail }): React.ReactNode {
  const say = useWords();
  const [dialog, setDialog] = useState<"cancel" | "retry" | "again" | "export" | null>(null);
  const command = useMutation({
    mutationFn: (verb: "pause" | "resume" | "cancel") => change("POST", `/runs/${run.id}/${verb}`, {}),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["run"] }),
  });
  const open = isOpen(run);
  const verb = run.state === "paused" ? "resume" : "pause";
  const rest = run.progress.running + run.progress.waiting;
  useKeys("here", [
    ...(open ? [{ keys: "p", about: say(`run.${verb}`), go: () => command.mutate(verb) }] : []),
    { keys: "x", about: say("run.export"), go: () => setDialog("export") },
  ]);
  return (
    <div className="title-side">
      {open && (
        <button type="button" className="button" disabled={command.isPending} onClick={() => command.mutate(verb)}>
          {say(`run.${verb}`)} <kbd>p</kbd>
        </button>
      )}
      {open && (
        <button type="button" className="button button-danger" onClick={() => setDialog("cancel")}>
          {say("run.cancel")}
        </button>
      )}
      {run.progress.failed > 0 && (
        <button type="button" className="button" onClick={() => setDialog("retry")}>
          {say("run.retry")}
        </button>
      )}
      {run.stages.some((stage) => stage.model) && (
        <button type="button" className="button" onClick={() => setDialog("again")}>
          {say("run.again")}
        </button>
      )}
      {run.reviewable && (
        <Link to="/review" search={{ run: run.id }} className="button">
          {say("run.review")}
        </Link>
      )}
      <button type="button" className="button" onClick={() => setDialog("export")}>
        {say("run.export")} <kbd>x</kbd>
      </button>
      {command.error && <Trouble error={command.error} />}
      <Confirm
        open={dialog === "cancel"}
        setOpen={(shown) => setDialog(shown ? "cancel" : null)}
        title={say("run.cancel.title", { run: run.name })}
        action={say("run.cancel").replace("…", "")}
        go={() => command.mutate("cancel")}
      >
        <p>{say("run.cancel.about", { n: rest })}</p>
      </Confirm>
      {dialog === "retry" && <RetryDialog run={run} cause={null} close={() => setDialog(null)} />}
      {dialog === "again" && <AgainDialog run={run} close={() => setDialog(null)} />}
      <ExportDrawer run={run.id} name={run.name} open={dialog === "export"} setOpen={(shown) => setDialog(shown ? "export" : null)} />
    </div>
  );
}
