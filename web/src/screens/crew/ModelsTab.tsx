/** Models under names of one's own: those of gristmill.toml to read, those of the database to change. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { modelsQuery } from "../../api/crewQueries";
import type { Model } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { PlainTable } from "../../parts/PlainTable";
import { Remove } from "../../parts/Remove";
import { useWords } from "../../words";
import { ModelDialog } from "./ModelDialog";

export function ModelsTab(): React.ReactNode {
  const say = useWords();
  const models = useQuery(modelsQuery);
  const [open, setOpen] = useState<Model | "new" | null>(null);
  const [removed, setRemoved] = useState<string | null>(null);
  const orders = (model: Model): React.ReactNode =>
    model.origin === "settings" ? (
      <span className="quiet">{say("model.file")}</span>
    ) : (
      <span className="row">
        <button type="button" className="link-button" onClick={() => setOpen(model)} aria-label={`${say("model.change")} ${model.name}`}>
          {say("model.change")}
        </button>
        <button type="button" className="link-button" onClick={() => setRemoved(model.name)} aria-label={`${say("model.remove")} ${model.name}`}>
          {say("model.remove")}
        </button>
        {!model.used && <span className="tone-paused">{say("model.hidden")}</span>}
      </span>
    );
  return (
    <Ask query={models}>
      {(answer) => (
        <>
          <PlainTable
            heads={[say("crew.model.name"), say("crew.model.model"), say("crew.model.key"), say("crew.model.limit"), ""]}
            rows={[
              ...answer.items.map((model) => [
                <b key="name" className="strong-link">{model.name}</b>, `${model.provider}:${model.model}`, <code key="key">{model.key ?? "–"}</code>, model.limit ?? "–", orders(model),
              ]),
              ...answer.free.map((name) => [<b key="name" className="strong-link">{name}</b>, <span key="about" className="quiet">{say("model.free")}</span>, "–", "–", ""]),
            ]}
            none=""
          />
          <p className="row section">
            <button type="button" className="button" onClick={() => setOpen("new")}>
              {say("model.add")}
            </button>
          </p>
          {open && <ModelDialog model={open === "new" ? null : open} models={answer} close={() => setOpen(null)} />}
          {removed !== null && (
            <Remove path={`/models/${encodeURIComponent(removed)}`} old="models" title={say("model.remove.title", { name: removed })} about={say("model.remove.about")} action={say("model.remove.go")} close={() => setRemoved(null)} />
          )}
        </>
      )}
    </Ask>
  );
}
