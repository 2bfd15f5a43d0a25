/** What models were asked and what they said: prompt, answer raw and parsed, tokens, cents. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { callQuery } from "../../api/queries";
import type { CallRow } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { fieldsOf } from "../../parts/RecordBody";
import { useWords } from "../../words";
import { count, duration, money } from "../../words/numbers";

function pretty(value: unknown): string {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}

function Whole({ id }: { id: string }): React.ReactNode {
  const call = useQuery(callQuery(id));
  return (
    <Ask query={call} lines={5}>
      {(answer) => (
        <dl className="call-whole">
          {Object.entries(fieldsOf(answer))
            .filter(([, value]) => typeof value === "object" && value !== null)
            .map(([name, value]) => (
              <div key={name}>
                <dt>{name.replaceAll("_", " ")}</dt>
                <dd>
                  <pre className="json" tabIndex={0}>{pretty(value)}</pre>
                </dd>
              </div>
            ))}
        </dl>
      )}
    </Ask>
  );
}

export function Calls({ calls }: { calls: readonly CallRow[] }): React.ReactNode {
  const say = useWords();
  const [open, setOpen] = useState<string | null>(null);
  if (calls.length === 0) return <p className="quiet">{say("piece.calls.none")}</p>;
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
