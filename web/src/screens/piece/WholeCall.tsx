/** One call whole: what was asked, what came back, raw and parsed. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { callQuery } from "../../api/queries";
import type { AskedMessage, WholeCall } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { useWords } from "../../words";

const VIEWS = ["request", "raw", "parsed"] as const;
type View = (typeof VIEWS)[number];

function json(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function Message({ message }: { message: AskedMessage }): React.ReactNode {
  return (
    <li>
      <p className="body-name">{message.role}</p>
      {message.parts.map((part, index) =>
        part.picture ? (
          <img key={index} src={`/api/blobs/${part.picture}`} alt={part.media_type ?? ""} className="knot-image" loading="lazy" />
        ) : (
          <pre key={index} className="json" tabIndex={0}>
            {part.text ?? ""}
          </pre>
        ),
      )}
    </li>
  );
}

function Request({ call }: { call: WholeCall }): React.ReactNode {
  const say = useWords();
  const { request } = call;
  if (!request) return <p className="quiet">{say("piece.call.unkept")}</p>;
  const facts = { ...request.parameters, ...(request.attempt > 0 ? { asked_again: request.attempt } : {}), ...(request.sample > 0 ? { sample: request.sample } : {}) };
  return (
    <>
      <ol className="asked">
        {request.messages.map((message, index) => (
          <Message key={index} message={message} />
        ))}
      </ol>
      {request.cut && <p className="quiet">{say("piece.call.cut")}</p>}
      {Object.keys(facts).length > 0 && <pre className="json" tabIndex={0} aria-label={say("piece.call.parameters")}>{json(facts)}</pre>}
      {request.schema !== null && request.schema !== undefined && (
        <details>
          <summary>{say("piece.call.schema")}</summary>
          <pre className="json" tabIndex={0}>{json(request.schema)}</pre>
        </details>
      )}
    </>
  );
}

function Answer({ call, view }: { call: WholeCall; view: "raw" | "parsed" }): React.ReactNode {
  const say = useWords();
  const value = view === "raw" ? call.response : call.parsed;
  if (value === null || value === undefined) return <p className="quiet">{say(view === "raw" ? "piece.call.unanswered" : "piece.call.unparsed")}</p>;
  return (
    <>
      <pre className="json" tabIndex={0}>{json(value)}</pre>
      {call.cut && view === "raw" && <p className="quiet">{say("piece.call.cut")}</p>}
    </>
  );
}

export function Whole({ id }: { id: string }): React.ReactNode {
  const say = useWords();
  const call = useQuery(callQuery(id));
  const [view, setView] = useState<View>("request");
  return (
    <Ask query={call} lines={5}>
      {(answer) => (
        <div className="call-whole">
          <span className="switch" role="group" aria-label={say("piece.call.view")}>
            {VIEWS.map((each) => (
              <button key={each} type="button" aria-pressed={view === each} onClick={() => setView(each)}>
                {say(`piece.call.${each}`)}
              </button>
            ))}
          </span>
          {view === "request" ? <Request call={answer} /> : <Answer call={answer} view={view} />}
        </div>
      )}
    </Ask>
  );
}
