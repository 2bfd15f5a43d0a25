/** Adds a model to the database, or changes one that is there. Where its key is, is written; the key never. */
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import type { Model, Models, NewModel } from "../../api/types";
import { Confirm } from "../../parts/Confirm";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

interface Wish {
  name: string;
  provider: string;
  model: string;
  base_url: string;
  key: string;
  limit: string;
  parameters: string;
  batch: boolean;
}

function wishOf(model: Model | null, models: Models): Wish {
  return {
    name: model?.name ?? "", provider: model?.provider ?? models.providers[0]?.name ?? "", model: model?.model ?? "", base_url: model?.base_url ?? "",
    key: model?.key ?? "", limit: model?.limit ?? "", batch: model?.batch ?? false,
    parameters: model && Object.keys(model.parameters).length > 0 ? JSON.stringify(model.parameters) : "",
  };
}

function bodyOf(wish: Wish, replace: boolean): Partial<NewModel> {
  const texts = (["base_url", "key", "limit"] as const).filter((name) => wish[name].trim()).map((name) => [name, wish[name].trim()]);
  const parameters = wish.parameters.trim() ? (JSON.parse(wish.parameters) as Record<string, unknown>) : {};
  return { provider: wish.provider, model: wish.model.trim(), batch: wish.batch, replace, parameters, ...(Object.fromEntries(texts) as Partial<NewModel>) };
}

export function ModelDialog({ model, models, close }: { model: Model | null; models: Models; close: () => void }): React.ReactNode {
  const say = useWords();
  const [wish, setWish] = useState(() => wishOf(model, models));
  const set = (changed: Partial<Wish>): void => setWish((before) => ({ ...before, ...changed }));
  const provider = models.providers.find((each) => each.name === wish.provider);
  const save = useMutation({
    mutationFn: async () => change("PUT", `/models/${encodeURIComponent(wish.name.trim())}`, bodyOf(wish, model !== null)),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["models"] });
      close();
    },
  });
  const text = (name: "model" | "base_url" | "key" | "limit", label: string, hint = ""): React.ReactNode => (
    <label className="field">
      {label}
      <input value={wish[name]} placeholder={hint} spellCheck={false} className="mono" onChange={(event) => set({ [name]: event.target.value })} />
    </label>
  );
  return (
    <Confirm
      open
      stay
      setOpen={(open) => !open && close()}
      title={model ? say("model.change.title", { name: model.name }) : say("model.add.title")}
      action={say("model.save")}
      go={() => save.mutate()}
      disabled={!wish.name.trim() || !wish.model.trim() || save.isPending}
    >
      <p>{say("model.about")}</p>
      <div className="form form-even">
        <label className="field">
          {say("crew.model.name")}
          <input value={wish.name} disabled={model !== null} spellCheck={false} className="mono" onChange={(event) => set({ name: event.target.value })} />
        </label>
        <label className="field">
          {say("model.provider")}
          <select value={wish.provider} onChange={(event) => set({ provider: event.target.value })}>
            {models.providers.map((each) => (
              <option key={each.name}>{each.name}</option>
            ))}
          </select>
        </label>
        {text("model", say("model.model"))}
        {text("limit", say("model.limit"))}
      </div>
      {text("base_url", say("model.url"), provider?.base_url)}
      {text("key", say("model.key"), provider?.key ? `env:${provider.key}` : "")}
      <label className="field">
        {say("model.parameters")}
        <input value={wish.parameters} placeholder='{"temperature": 0.2}' spellCheck={false} className="mono" onChange={(event) => set({ parameters: event.target.value })} />
      </label>
      <label>
        <input type="checkbox" checked={wish.batch} onChange={(event) => set({ batch: event.target.checked })} /> {say("model.batch")}
      </label>
      {save.error && (save.error instanceof SyntaxError ? <p className="tone-failed" role="alert">{say("review.json.wrong", { why: save.error.message })}</p> : <Trouble error={save.error} />)}
    </Confirm>
  );
}
