/** What models were asked and what they said: prompt, answer raw and parsed, tokens, cents; also what was known before. */
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import type { CallRow, KnownCall, Story } from "../../api/types";
import { useWords } from "../../words";
import { clock, count, duration, money } from "../../words/numbers";
import { Whole } from "./WholeCall";

/** Why there is no call to show. */
function None({ story }: { story: Story }): React.ReactNode {
  const say = useWords();
  const failed = story.attempts.some((attempt) => attempt.error ?? attempt.message);
  const { model, state } = story.task;
  return <p className="quiet">{failed ? say("piece.calls.failed") : !model ? say("piece.calls.no_model") : state === "completed" ? say("piece.calls.none", { model }) : say("piece.calls.not_yet", { model })}</p>;
}

function Known({ call }: { call: KnownCall }): React.ReactNode {
  const say = useWords();
  const values = { at: clock(call.made_at), run: call.run_name ?? "" };
  return (
    <p className="call-known">
      <span className="chip">{say("piece.call.ledger")}</span> {say(call.run_name ? "piece.call.known" : "piece.call.known.elsewhere", values)}{" "}
      {call.task && (
        <Link className="link" to="/tasks/$task" params={{ task: String(call.task) }}>
          {say("piece.task", { id: call.task })}
        </Link>
      )}
    </p>
  );
}

export function Calls({ story }: { story: Story }): React.ReactNode {
  const say = useWords();
  const [open, setOpen] = useState<string | null>(null);
  const calls: readonly (CallRow | KnownCall)[] = [...story.attempts.flatMap((attempt) => attempt.calls), ...(story.known ?? [])];
  if (calls.length === 0) return <None story={story} />;
  return (
    <ul className="calls">
      {calls.map((call) => (
        <li key={call.id}>
          <button type="button" className="call-head" aria-expanded={open === call.id} onClick={() => setOpen(open === call.id ? null : call.id)}>
            <b>{call.model}</b>
            <span className="quiet">{call.prompt}</span>
            <span>{call.note ?? call.finish_reason ?? call.state}</span>
            <span className="call-figures">
              {say("piece.call.tokens", { in: count(call.tokens_in), out: count(call.tokens_out) })} · {duration((call.latency_ms ?? 0) / 1000)} · {money(call.cost)}
            </span>
          </button>
          {"task" in call && <Known call={call} />}
          {open === call.id && <Whole id={call.id} />}
        </li>
      ))}
    </ul>
  );
}
