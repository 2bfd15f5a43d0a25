/** What models were asked and what they said: prompt, answer raw and parsed, tokens, cents. */
import { useState } from "react";
import type { CallRow } from "../../api/types";
import { useWords } from "../../words";
import { count, duration, money } from "../../words/numbers";
import { Whole } from "./WholeCall";

export function Calls({ calls, failed }: { calls: readonly CallRow[]; failed: boolean }): React.ReactNode {
  const say = useWords();
  const [open, setOpen] = useState<string | null>(null);
  if (calls.length === 0) return <p className="quiet">{say(failed ? "piece.calls.failed" : "piece.calls.none")}</p>;
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
          {open === call.id && <Whole id={call.id} />}
        </li>
      ))}
    </ul>
  );
}
