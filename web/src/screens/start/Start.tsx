/** Files in, a forecast before anything is spent, then go. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change, upload } from "../../api/client";
import { modelsQuery } from "../../api/crewQueries";
import { workflowsQuery } from "../../api/queries";
import type { NewRun, Plan, RunDetail, Upload } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { Same } from "../../parts/Same";
import { Section } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { percent } from "../../words/numbers";
import { FileDrop } from "./FileDrop";
import { PlanPart } from "./PlanPart";
import { Uploads } from "./Uploads";
import { optionsOf } from "./options";

type Wish = Partial<NewRun>;

function useWish(): { wish: Wish; set: (change: Wish) => void; paths: string; setPaths: (text: string) => void; options: string; setOptions: (text: string) => void } {
  const [wish, setWish] = useState<Wish>({ workflow: "qa", model: "extractive" });
  const [paths, setPaths] = useState("");
  const [options, setOptions] = useState("");
  return { wish, set: (change) => setWish((before) => ({ ...before, ...change })), paths, setPaths, options, setOptions };
}

export function Start(): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  const { wish, set, paths, setPaths, options, setOptions } = useWish();
  const [files, setFiles] = useState<readonly File[]>([]);
  const [part, setPart] = useState<number | null>(null);
  const [kept, setKept] = useState<string | null>(null); // an upload that is there already
  const [sent, setSent] = useState<{ files: readonly File[]; id: string } | null>(null);
  const workflows = useQuery(workflowsQuery);
  const models = useQuery(modelsQuery);

  const send = async (files: readonly File[]): Promise<string> => {
    if (sent?.files === files) return sent.id;
    setPart(0);
    try {
      const answer = await upload<Upload>("/uploads", files, setPart);
      setSent({ files, id: answer.upload });
      void cache.invalidateQueries({ queryKey: ["uploads"] });
      return answer.upload;
    } finally {
      setPart(null);
    }
  };
  const body = async (): Promise<Wish> => {
    const sources = paths.split("\n").map((line) => line.trim()).filter(Boolean);
    const rest: Wish = { ...wish, parameters: optionsOf(options) as NonNullable<Wish["parameters"]> };
    if (files.length > 0) return { ...rest, upload: await send(files) };
    return kept ? { ...rest, upload: kept } : { ...rest, sources };
  };
  const choose = (id: string | null): void => {
    setKept(id);
    if (id) setFiles([]);
    else setSent(null); // what these files became may be gone: they would be sent anew
    calm();
  };
  const add = (chosen: readonly File[]): void => {
    setFiles(chosen);
    setKept(null);
    calm();
  };
  const keep = useMutation({
    mutationFn: send,
    onSuccess: (id, gone) => gone === files && choose(id), // files that came in the meantime are not lost
  });
  const calm = (): void => void (keep.isError && keep.reset());
  const plan = useMutation({ mutationFn: async () => change<Plan>("POST", "/runs/plan", await body()) });
  const go = useMutation({
    mutationFn: async () => change<RunDetail>("POST", "/runs", await body()),
    onSuccess: (run) => {
      void cache.invalidateQueries({ queryKey: ["runs"] });
      void navigate({ to: "/runs/$run", params: { run: String(run.id) } });
    },
  });
  const apart = files.length > 0 || kept !== null; // what the places on the server do not count beside
  const ready = apart || paths.trim() !== "";
  const busy = plan.isPending || go.isPending || keep.isPending;
  const trouble = [go, plan, keep].sort((one, other) => other.submittedAt - one.submittedAt)[0]?.error; // of what was tried last
  useKeys("here", [
    { keys: "p", about: say("start.plan"), go: () => ready && !busy && plan.mutate() },
    { keys: "Mod+enter", about: say("start.go"), go: () => ready && !busy && go.mutate(), typing: true },
  ]);
  const chosen = workflows.data?.find((each) => each.name === wish.workflow);
  const place = paths.trim().split("\n")[0] ?? "";
  return (
    <>
      <div className="screen-title">
        <h1>{say("start.title")}</h1>
        <span className="crumb">{say("start.about")}</span>
      </div>
      <div className="columns columns-even">
        <div>
          <Section title={say("start.files")}>
            <FileDrop files={files} setFiles={add}>
              <button type="button" className="button" disabled={busy || sent?.files === files} onClick={() => keep.mutate(files)}>
                {say("start.files.keep")}
              </button>
            </FileDrop>
            {part !== null && <p role="status">{say("start.files.sending", { part: percent(part) })}</p>}
            <label className="field start-paths">
              {say("start.paths")}
              <textarea rows={2} value={paths} disabled={apart} onChange={(event) => setPaths(event.target.value)} className="mono" spellCheck={false} />
            </label>
          </Section>
          <Uploads chosen={kept ?? (files.length > 0 && sent?.files === files ? sent.id : null)} choose={choose} />
        </div>
        <Section title={say("start.workflow")}>
          <div className="form">
            <label className="field">
              {say("start.workflow")}
              <select value={wish.workflow} onChange={(event) => set({ workflow: event.target.value })}>
                {(workflows.data ?? [{ name: wish.workflow ?? "qa" }]).map((each) => (
                  <option key={each.name}>{each.name}</option>
                ))}
              </select>
              {chosen?.description && <span className="field-note">{chosen.description}</span>}
              {chosen && <span className="field-note">{chosen.steps.join(" → ")}</span>}
            </label>
            <label className="field">
              {say("start.model")}
              <select value={wish.model ?? ""} onChange={(event) => set({ model: event.target.value })}>
                {(models.data?.free ?? ["extractive"]).map((name) => (
                  <option key={name} value={name}>{`${name} (${say("start.model.free")})`}</option>
                ))}
                {models.data?.items.map((model) => (
                  <option key={`${model.origin}-${model.name}`} value={model.name}>{`${model.name} (${model.model})`}</option>
                ))}
              </select>
            </label>
            <label className="field">
              {say("start.name")}
              <input value={wish.name ?? ""} placeholder={say("start.name.none")} maxLength={100} spellCheck={false} onChange={(event) => set({ name: event.target.value || null })} />
            </label>
            <label className="field">
              {say("start.budget")}
              <input type="number" min={0} step="any" placeholder={say("start.budget.none")} value={String(wish.budget ?? "")} onChange={(event) => set({ budget: event.target.value === "" ? null : event.target.value })} />
            </label>
            <label className="field">
              {say("start.options")}
              <textarea rows={2} value={options} placeholder={say("start.options.hint")} onChange={(event) => setOptions(event.target.value)} className="mono" spellCheck={false} />
            </label>
          </div>
        </Section>
      </div>
      <div className="row start-go">
        <button type="button" className="button" disabled={!ready || busy} onClick={() => plan.mutate()}>
          {say("start.plan")} <kbd>p</kbd>
        </button>
        <button type="button" className="button button-main" disabled={!ready || busy} onClick={() => go.mutate()}>
          {say("start.go")} <kbd>Ctrl ↵</kbd>
        </button>
        <span className="quiet">{ready ? say("start.plan.about") : say("start.needs")}</span>
      </div>
      {trouble && <Trouble error={trouble} />}
      {plan.data && <PlanPart plan={plan.data} />}
      <Same commands={[`gristmill run ${place || "FOLDER"} --workflow ${wish.workflow} --model ${wish.model ?? "extractive"}`, `gristmill run ${place || "FOLDER"} --workflow ${wish.workflow} --plan`]} path="/runs" body={{ workflow: wish.workflow, ...(kept ? { upload: kept } : { sources: [place || "FOLDER"] }), model: wish.model ?? "extractive" }} />
    </>
  );
}
