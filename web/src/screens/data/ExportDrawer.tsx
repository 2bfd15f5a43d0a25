/** Exports with a live preview of the chosen format; the rows are those of the filter, and nothing else. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { Dialog } from "radix-ui";
import { useDeferredValue, useState } from "react";
import { change } from "../../api/client";
import { exportQuery, formatsQuery, previewQuery } from "../../api/queries";
import type { ExportState } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";
import { bytes, count } from "../../words/numbers";
import { ExchangePart } from "./ExchangePart";
import { commandOf, ExportForm, FIRST, optionsOf, type Wish } from "./ExportForm";

interface Props {
  run: number;
  name: string;
  open: boolean;
  setOpen: (open: boolean) => void;
}

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
  const [wish, setWish] = useState<Wish>(FIRST);
  const formats = useQuery(formatsQuery);
  const format = formats.data?.find((each) => each.name === wish.format);
  const options = optionsOf(wish, format);
  const { split: _, ...shown } = options; // a preview is of all splits
  const wanted = useDeferredValue(JSON.stringify({ run: String(run), format: wish.format, options: shown }));
  const preview = useQuery(previewQuery(wanted));
  const begin = useMutation({ mutationFn: () => change<ExportState>("POST", "/exports", { run: String(run), format: wish.format, options }) });
  return (
    <>
      <Dialog.Title className="dialog-title">{say("export.title", { run: name })}</Dialog.Title>
      <ExportForm wish={wish} set={(changed) => setWish((before) => ({ ...before, ...changed }))} formats={formats.data ?? []} format={format} />
      <div className="row export-go">
        <button type="button" className="button button-main" disabled={begin.isPending} onClick={() => begin.mutate()}>
          {say("export.go")}
        </button>
        <code className="quiet clip">{commandOf(name, wish, format)}</code>
      </div>
      {begin.error && <Trouble error={begin.error} />}
      {begin.data && <Outcome key={begin.data.id} id={begin.data.id} />}
      {format?.annotations && <ExchangePart run={run} kind={wish.kind} />}
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
