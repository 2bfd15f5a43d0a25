/** Ctrl-K finds ids, runs, texts and screens. */
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Dialog } from "radix-ui";
import { useId, useState } from "react";
import { flushSync } from "react-dom";
import { get } from "../api/client";
import type { Page, RunSummary } from "../api/types";
import { useWords, type Word } from "../words";
import { KeyName } from "./KeyHelp";
import { useKeys } from "./keys";

interface Hit {
  key: string;
  name: string;
  kind: string;
  to: string;
}

const screens: readonly (readonly [string, Word])[] = [
  ["/", "nav.now"], ["/runs", "nav.runs"], ["/crew", "nav.crew"], ["/review", "nav.review"], ["/data", "nav.data"], ["/start", "nav.start"],
];

function useHits(text: string, open: boolean): Hit[] {
  const say = useWords();
  const runs = useQuery({ queryKey: ["runs", "search"], queryFn: () => get<Page<RunSummary>>("/runs", { limit: 100 }), enabled: open });
  const wanted = text.trim().toLowerCase();
  const hits: Hit[] = [];
  if (/^\d+$/.test(wanted)) {
    hits.push({ key: "task", name: say("search.task", { id: wanted }), kind: "id", to: `/tasks/${wanted}` });
    hits.push({ key: "record", name: say("search.record", { id: wanted }), kind: "id", to: `/records/${wanted}` });
  }
  for (const run of runs.data?.items ?? []) {
    if (!wanted || run.name.toLowerCase().includes(wanted) || String(run.id) === wanted) {
      hits.push({ key: `run-${run.id}`, name: run.name, kind: say("search.run"), to: `/runs/${run.id}` });
    }
    if (hits.length > 8) break;
  }
  for (const [to, word] of screens) {
    if (!wanted || say(word).toLowerCase().includes(wanted)) hits.push({ key: to, name: say(word), kind: say("search.screen"), to });
  }
  if (wanted && !/^\d+$/.test(wanted)) {
    const quoted = text.trim().replaceAll("\\", "\\\\").replaceAll("%", "\\%").replaceAll("_", "\\_").replaceAll("'", "''");
    for (const run of (runs.data?.items ?? []).filter((each) => each.progress.failed > 0).slice(0, 2)) {
      const filter = `message like '%${quoted}%' or item like '%${quoted}%'`;
      hits.push({ key: `pieces-${run.id}`, name: say("search.pieces", { run: run.name, text: text.trim() }), kind: say("nav.runs"), to: `/runs/${run.id}?filter=${encodeURIComponent(filter)}` });
    }
    hits.push({ key: "text", name: say("search.records", { text: text.trim() }), kind: say("nav.data"), to: `/data?contains=${encodeURIComponent(text.trim())}` });
  }
  return hits;
}

export function Search(): React.ReactNode {
  const say = useWords();
  const id = useId();
  const navigate = useNavigate();
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const hits = useHits(text, open);
  // At once, so that the letters that follow, however fast, are already typed into it.
  const openNow = (): void => flushSync(() => setOpen(true));
  useKeys("everywhere", [{ keys: "Mod+k", about: say("keys.search"), go: openNow, typing: true }, { keys: "/", about: say("keys.search"), go: openNow }]);

  const go = (hit: Hit | undefined): void => {
    if (!hit) return;
    setOpen(false);
    setText("");
    void navigate({ href: hit.to });
  };
  const onKeyDown = (event: React.KeyboardEvent): void => {
    if (event.nativeEvent.isComposing) return;
    if (event.key === "ArrowDown") setAt(Math.min(at + 1, hits.length - 1));
    else if (event.key === "ArrowUp") setAt(Math.max(at - 1, 0));
    else if (event.key === "Enter") go(hits[at]);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog.Root open={open} onOpenChange={setOpen}>
      <Dialog.Trigger className="search-button">
        {say("search.open")} <KeyName keys="Mod+k" />
      </Dialog.Trigger>
      <Dialog.Portal>
        <Dialog.Overlay className="veil" />
        <Dialog.Content className="dialog" aria-describedby={undefined}>
          <Dialog.Title className="hidden-text">{say("search.open")}</Dialog.Title>
          <input
            className="search-input"
            role="combobox"
            aria-expanded="true"
            aria-controls={id}
            aria-activedescendant={hits[at] ? `${id}-${at}` : undefined}
            aria-label={say("search.hint")}
            placeholder={say("search.hint")}
            value={text}
            onChange={(event) => {
              setText(event.target.value);
              setAt(0);
            }}
            onKeyDown={onKeyDown}
            autoFocus
          />
          <ul className="search-list" id={id} role="listbox" aria-label={say("search.open")}>
            {hits.map((hit, index) => (
              <li key={hit.key} id={`${id}-${index}`} role="option" aria-selected={index === at} onClick={() => go(hit)} onMouseMove={() => setAt(index)}>
                <span className="clip">{hit.name}</span>
                <span className="quiet">{hit.kind}</span>
              </li>
            ))}
          </ul>
          {hits.length === 0 && <p className="quiet">{say("search.none")}</p>}
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
