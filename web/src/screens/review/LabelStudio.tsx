/** The Label Studio editor for spans, relations and boxes: loaded when it is first needed, apart from the page's own code. */
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { editorQuery } from "../../api/queries";
import type { Decision, EditorTask, ReviewPiece } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { Ask } from "../../parts/Ask";
import { useWords } from "../../words";

type Result = Record<string, unknown>[];

interface Annotation {
  serializeAnnotation: () => Result;
}

interface Store {
  annotationStore: { selected: Annotation | null };
}

interface Instance {
  destroy?: () => void;
}

type Constructor = new (place: HTMLElement, options: Record<string, unknown>) => Instance;

declare global {
  interface Window {
    LabelStudio?: Constructor;
  }
}

let loading: Promise<Constructor> | null = null;

/** Its styles go into a layer of their own: those of the page, which stand in none, win over them. */
function load(): Promise<Constructor> {
  loading ??= new Promise((resolve, reject) => {
    const style = document.createElement("style");
    style.textContent = '@import url("/editor/editor.css") layer(editor);';
    const script = document.createElement("script");
    script.src = "/editor/editor.js";
    script.onload = () => (window.LabelStudio ? resolve(window.LabelStudio) : reject(new Error("editor.js")));
    script.onerror = () => {
      loading = null;
      reject(new Error("/editor/editor.js"));
    };
    document.head.append(style, script);
  });
  return loading;
}

interface Props {
  piece: ReviewPiece;
  save: (decision: Decision) => void;
  cancel: () => void;
}

function Host({ task, save, cancel }: { task: EditorTask; save: Props["save"]; cancel: () => void }): React.ReactNode {
  const say = useWords();
  const place = useRef<HTMLDivElement>(null);
  const instance = useRef<Instance | null>(null);
  const store = useRef<Store | null>(null);
  const [state, setState] = useState<"loading" | "ready" | string>("loading");
  useEffect(() => {
    let gone = false;
    const host = document.createElement("div");
    place.current?.append(host);
    load().then(
      (LabelStudio) => {
        if (gone) return;
        instance.current = new LabelStudio(host, {
          config: task.config,
          task: task.task,
          interfaces: ["panel", "side-column", "annotations:current", "predictions:menu"],
          user: { pk: 1, firstName: "", lastName: "" },
          onLabelStudioLoad: (loaded: Store) => {
            store.current = loaded;
            setState("ready");
          },
        });
      },
      (error: unknown) => setState(`${say("review.editor.failed")}: ${String(error)}`),
    );
    return () => {
      gone = true;
      instance.current?.destroy?.();
      host.remove();
    };
  }, [task, say]);
  const submit = (): void => {
    const annotation = store.current?.annotationStore.selected;
    if (annotation) save({ decision: "edit", result: annotation.serializeAnnotation() });
  };
  useKeys("here", [
    { keys: "Mod+enter", about: say("review.save"), go: submit, typing: true },
  ]);
  return (
    <div className="editor">
      <div className="row">
        <button type="button" className="button button-main" onClick={submit} disabled={state !== "ready"}>
          {say("review.save")} <kbd>Ctrl ↵</kbd>
        </button>
        <button type="button" className="button" onClick={cancel}>
          {say("review.discard")}
        </button>
        {state !== "ready" && <span className={state === "loading" ? "quiet" : "tone-failed"}>{state === "loading" ? say("review.editor.loading") : state}</span>}
      </div>
      <div ref={place} className="lsf-host" aria-label={say("review.editor")} role="region" />
    </div>
  );
}

export function LabelStudio({ piece, save, cancel }: Props): React.ReactNode {
  const task = useQuery(editorQuery(piece.run_id, piece.record_id));
  return <Ask query={task} lines={12}>{(answer) => <Host task={answer} save={save} cancel={cancel} />}</Ask>;
}
