/** Annotations to a Label Studio server and back: each a durable task, with how it stands. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { change } from "../../api/client";
import { exchangeQuery } from "../../api/queries";
import type { Exchange } from "../../api/types";
import { Mark } from "../../parts/Mark";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

function Standing({ id }: { id: number }): React.ReactNode {
  const say = useWords();
  const { data } = useQuery(exchangeQuery(id));
  if (!data) return null;
  const done = Object.entries(data.done ?? {}).filter(([, n]) => typeof n === "number").map(([name, n]) => `${name.replaceAll("_", " ")} ${String(n)}`);
  return (
    <div className="outcome" role="status">
      <Mark state={data.state} /> {say(`exchange.${data.what}.doing`)} {done.join(", ")}
      {data.error ? <span className="tone-failed">{data.error}</span> : <span className="quiet">{data.held_by}</span>}
      {data.url && (
        <a className="button" href={data.url} target="_blank" rel="noreferrer">
          Label Studio
        </a>
      )}
    </div>
  );
}

export function ExchangePart({ run, kind }: { run: number; kind: string }): React.ReactNode {
  const say = useWords();
  const [project, setProject] = useState("");
  const begin = useMutation({
    mutationFn: (what: Exchange["what"]) => change<Exchange>("POST", `/label-studio/${what}`, { run: String(run), ...(kind ? { kind } : {}), ...(project.trim() ? { project: project.trim() } : {}) }),
  });
  return (
    <section className="exchange">
      <h3>Label Studio</h3>
      <p className="field-note">{say("exchange.about")}</p>
      <div className="row">
        <label>
          {say("exchange.project")} <input value={project} placeholder={say("exchange.project.own")} onChange={(event) => setProject(event.target.value)} />
        </label>
        {(["push", "pull"] as const).map((what) => (
          <button key={what} type="button" className="button" disabled={begin.isPending} onClick={() => begin.mutate(what)}>
            {say(`exchange.${what}`)}
          </button>
        ))}
      </div>
      {begin.error && <Trouble error={begin.error} />}
      {begin.data && <Standing key={begin.data.id} id={begin.data.id} />}
    </section>
  );
}
