/** Exports with a live preview of the chosen format; the rows are those of the filter, and nothing else. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Dialog } from "radix-ui";
import { useDeferredValue, useState } from "react";
import { change } from "../../api/client";
import { exportQuery, formatsQuery, previewQuery } from "../../api/queries";
import type { ExportOptions, ExportState } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { bytes, count } from "../../words/numbers";

interface Props {
  run: number;
  name: string;
  open: boolean;
  setOpen: (open: boolean) => void;
}

const SPLITS: Record<string, Record<string, number> | null> = { "": null, "90/10": { train: 0.9, test: 0.1 }, "80/10/10": { train: 0.8, validation: 0.1, test: 0.1 } };

function Outcome({ id }: { id: number }): React.ReactNode {
  const say = useWords();
  const state = useQuery(exportQuery(id));
  return (
    <Ask query={state} lines={2}>
      {(answer) => (
        <div className="outcome" role="status">
          {answer.state === "completed" && answer.file ? (
            <>
              <Mark state="completed" /> {say("export.ready", { n: answer.rows === 1 ? 1 : count(answer.rows) })}
              {Object.entries(answer.splits).map(([split, n]) => (
                <span key={split} className="chip">
                  {split} {count(Number(n))}
                </span>
              ))}
              <a className="button button-main" href={answer.file} download>
                {say("export.download")} {answer.bytes ? bytes(answer.bytes) : ""}
              </a>
            </>
          ) : answer.state === "failed" ? (
            <p className="tone-failed">{answer.error}</p>
          ) : (
            <>
              <Mark state={answer.state} /> {say("export.working")} <span className="quiet">{answer.held_by}</span>
            </>
          )}
        </div>
      )}
    </Ask>
  );
}

function Form({ run, name }: { run: number; name: string }): React.ReactNode {
  const say = useWords();
  const [format, setFormat] = useState("jsonl");
  const [where, setWhere] = useState("");
  const [split, setSplit] = useState("");
  const [lineage, setLineage] = useState(true);
  const [reviewed, setReviewed] = useState(false);
  const formats = useQuery(formatsQuery);
  const chosen = formats.data?.find((each) => each.name === format);
  const options: Partial<ExportOptions> = { lineage, reviewed, ...(where.trim() ? { where: where.trim() } : {}), ...(SPLITS[split] ? { split: SPLITS[split] } : {}) };
  const wanted = useDeferredValue(JSON.stringify({ run: String(run), format, options: { lineage, reviewed, where: where.trim() || null } }));
  const preview = useQuery(previewQuery(wanted));
  const begin = useMutation({ mutationFn: () => change<ExportState>("POST", "/exports", { run: String(run), format, options }) });
  return (
    <>
      <Dialog.Title className="dialog-title">{say("export.title", { run: name })}</Dialog.Title>
      <div className="form export-form">
        <label className="field">
          {say("export.format")}
          <select value={format} onChange={(event) => setFormat(event.target.value)}>
            {(formats.data ?? [{ name: "jsonl" }]).map((each) => (
              <option key={each.name}>{each.name}</option>
            ))}
          </select>
          <span className="field-note">{chosen?.description ?? "\u00a0"}</span>
        </label>
        <label className="field">
          {say("export.split")}
          <select value={split} onChange={(event) => setSplit(event.target.value)}>
            {Object.keys(SPLITS).map((each) => (
              <option key={each} value={each}>
                {each || say("export.split.none")}
              </option>
            ))}
          </select>
        </label>
        <label className="field export-where">
          {say("export.filter")}
          <input className="mono" value={where} placeholder={say("export.filter.hint")} spellCheck={false} onChange={(event) => setWhere(event.target.value)} />
        </label>
        <label>
          <input type="checkbox" checked={reviewed} onChange={(event) => setReviewed(event.target.checked)} /> {say("export.reviewed")}
        </label>
        <label>
          <input type="checkbox" checked={lineage} onChange={(event) => setLineage(event.target.checked)} /> {say("export.lineage")}
        </label>
      </div>
      <div className="row export-go">
        <button type="button" className="button button-main" disabled={begin.isPending} onClick={() => begin.mutate()}>
          {say("export.go")}
        </button>
        <code className="quiet clip">
          gristmill export {name} --format {format}
          {where.trim() && ` --where '${where.trim()}'`}
          {reviewed && " --reviewed"}
          {split && ` --split ${split}`}
        </code>
      </div>
      {begin.error && <Trouble error={begin.error} />}
      {begin.data && <Outcome key={begin.data.id} id={begin.data.id} />}
      <h3 className="export-preview">{say("export.preview")}</h3>
      {preview.error ? (
        <Trouble error={preview.error} />
      ) : (
        <pre className="json" tabIndex={0} aria-busy={preview.isFetching}>
          {preview.data?.text ?? ""}
        </pre>
      )}
    </>
  );
}

export function ExportDrawer({ run, name, open, setOpen }: Props): React.ReactNode {
  const say = useWords();
  return (
    <Dialog.Root open={open} onOpenChange={setOpen}>
      <Dialog.Portal>
        <Dialog.Overlay className="veil" />
        <Dialog.Content className="drawer" aria-describedby={undefined}>
          <Form run={run} name={name} />
          <div className="row-end">
            <Dialog.Close className="button">{say("close")}</Dialog.Close>
          </div>
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
