/** What happened to this one? */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { storyQuery } from "../../api/queries";
import type { Story } from "../../api/types";
import { AttemptTimeline } from "../../charts/AttemptTimeline";
import { useKeys } from "../../keyboard/keys";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Same } from "../../parts/Same";
import { Figure, Figures, Section } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useReason, useWords } from "../../words";
import { count, money } from "../../words/numbers";
import { AttemptDifferencePart } from "./AttemptDifference";
import { Calls } from "./Calls";
import { LineageThread } from "./LineageThread";

const OVER = new Set(["completed", "cancelled"]);

function Heading({ story }: { story: Story }): React.ReactNode {
  const say = useWords();
  const reason = useReason();
  const { task } = story;
  const command = useMutation({
    mutationFn: (verb: "retry" | "cancel") => change("POST", `/tasks/${task.id}/${verb}`, {}),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["task"] }),
  });
  const broken = task.state === "failed" || task.state === "quarantined";
  const open = !broken && !OVER.has(task.state);
  const calls = story.attempts.flatMap((attempt) => attempt.calls);
  const spent = calls.reduce((sum, call) => sum + Number(call.cost ?? 0), 0);
  useKeys("here", broken ? [{ keys: "r", about: say("piece.retry"), go: () => command.mutate("retry") }] : []);
  return (
    <>
      <div className="screen-title">
        <h1>{task.item ? say("piece.title", { stage: task.stage, item: task.item }) : task.stage}</h1>
        <Mark state={task.state} />
        <div className="title-side">
          {broken && (
            <button type="button" className="button" disabled={command.isPending} onClick={() => command.mutate("retry")}>
              {say("piece.retry")} <kbd>r</kbd>
            </button>
          )}
          {open && (
            <button type="button" className="button button-danger" disabled={command.isPending} onClick={() => command.mutate("cancel")}>
              {say("piece.cancel")}
            </button>
          )}
        </div>
      </div>
      {command.error && <Trouble error={command.error} />}
      <Figures>
        <Figure name={say("piece.tries")} value={`${count(story.attempts.length)}${story.attempts_more ? "+" : ""}`} note={say("piece.tries.of", { n: task.max_attempts })} />
        {task.crashes > 0 && <Figure name={say("piece.crashes")} value={count(task.crashes)} note={say("piece.tries.of", { n: task.max_crashes })} />}
        <Figure name={say("piece.made")} value={count(story.records.length)} />
        {calls.length > 0 && <Figure name={say("piece.cost")} value={money(spent)} />}
        {task.held_by && <Figure name={say("piece.held")} value={<span className="figure-text">{reason(task.held_by)}</span>} />}
      </Figures>
    </>
  );
}

export function Piece(): React.ReactNode {
  const say = useWords();
  const { task: id } = useParams({ from: "/tasks/$task" });
  const story = useQuery(storyQuery(id));
  return (
    <Ask query={story} lines={16}>
      {(answer) => (
        <>
          <p className="crumb">
            <Link to="/runs">{say("nav.runs")}</Link> / <Link to="/runs/$run" params={{ run: String(answer.task.run) }}>{answer.task.run_name}</Link> / {say("piece.task", { id: answer.task.id })}
          </p>
          <Heading story={answer} />
          <Section title={say("piece.attempts")} about={say("piece.attempts.about")}>
            {answer.attempts.length + answer.waits.length === 0 ? (
              <p className="quiet">{say(answer.task.attempt > 0 ? "piece.attempts.history" : "piece.attempts.none")}</p>
            ) : (
              <AttemptTimeline attempts={answer.attempts} waits={answer.waits} />
            )}
            {answer.attempts_more && <p className="quiet">{say("piece.attempts.more")}</p>}
          </Section>
          {answer.attempts.filter((attempt) => attempt.ended_at).length > 1 && <AttemptDifferencePart key={answer.task.id} task={answer.task.id} attempts={answer.attempts} />}
          <div className="columns columns-even">
            <Section title={say("piece.lineage")}>
              <LineageThread thread={answer.lineage} />
            </Section>
            <Section title={say("piece.calls")}>
              <Calls story={answer} />
            </Section>
          </div>
          <Same commands={[answer.task.command, `gristmill why --task ${answer.task.id}`].filter(Boolean)} path={`/tasks/${answer.task.id}/story`} />
        </>
      )}
    </Ask>
  );
}
