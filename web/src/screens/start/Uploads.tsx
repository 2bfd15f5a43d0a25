/** Files that are on the server already: what they are, which runs used them, to be used again or taken away. */
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { runsQuery, uploadQuery, uploadsQuery } from "../../api/queries";
import type { KeptUpload } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Mark } from "../../parts/Mark";
import { PlainTable } from "../../parts/PlainTable";
import { Remove } from "../../parts/Remove";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";
import { bytes, clock, count } from "../../words/numbers";

const FIRST = 5;

/** Their names are asked for only when somebody wants to see them: the server reads every file for its answer. */
function Names({ id }: { id: string }): React.ReactNode {
  return (
    <Ask query={useQuery(uploadQuery(id))} lines={2}>
      {(upload) => (
        <ul className="upload-names">
          {upload.files.map((file) => (
            <li key={file.name}>
              {file.name} <span className="quiet number">{bytes(file.bytes)}</span>
            </li>
          ))}
        </ul>
      )}
    </Ask>
  );
}

export function Uploads({ chosen, choose }: { chosen: string | null; choose: (upload: string | null) => void }): React.ReactNode {
  const say = useWords();
  const uploads = useQuery(uploadsQuery);
  const runs = useQuery(runsQuery(100));
  const [open, setOpen] = useState<string | null>(null);
  const [whole, setWhole] = useState(false);
  const [removed, setRemoved] = useState<KeptUpload | null>(null);
  const files = (one: KeptUpload): string => say("start.files.n", { n: count(one.files), size: bytes(one.bytes) });
  const row = (one: KeptUpload): React.ReactNode[] => [
    <div key="files">
      <span className="upload-first" title={one.names.join("\n")}>{one.names.join(", ") + (one.files > one.names.length ? ", …" : "")}</span>
      <button type="button" className="link-button" aria-expanded={open === one.upload} onClick={() => setOpen(open === one.upload ? null : one.upload)}>
        {files(one)}
      </button>
      {open === one.upload && <Names id={one.upload} />}
    </div>,
    clock(one.made_at),
    <span key="runs" className="row">
      <Mark state={one.in_use ? "in_use" : one.runs.length > 0 ? "used" : "unused"} />
      {one.runs.map((name) => {
        const run = runs.data?.items.find((each) => each.name === name);
        return run ? (
          <Link key={name} className="link" to="/runs/$run" params={{ run: String(run.id) }}>
            {name}
          </Link>
        ) : (
          <span key={name}>{name}</span>
        );
      })}
    </span>,
    <span key="orders" className="row row-right">
      <button type="button" className="link-button" aria-pressed={chosen === one.upload} aria-label={`${say("start.uploads.use")} ${files(one)}`} onClick={() => choose(chosen === one.upload ? null : one.upload)}>
        {chosen === one.upload ? `✓ ${say("start.uploads.chosen")}` : say("start.uploads.use")}
      </button>
      <button type="button" className="link-button" aria-label={`${say("start.uploads.remove")} ${files(one)}`} onClick={() => setRemoved(one)}>
        {say("start.uploads.remove")}
      </button>
    </span>,
  ];
  return (
    <Section title={say("start.uploads")} about={say("start.uploads.about")}>
      <Ask query={uploads} lines={2}>
        {(kept) => (
          <>
            <PlainTable
              heads={[say("start.uploads.files"), say("start.uploads.when"), say("start.uploads.runs"), ""]}
              rows={(whole ? kept : kept.slice(0, FIRST)).map(row)}
              none={<>{say("start.uploads.none")} <code>{`curl -F files=@FILE ${location.origin}/api/uploads`}</code></>}
            />
            {!whole && kept.length > FIRST && (
              <button type="button" className="link-button" onClick={() => setWhole(true)}>
                {say("start.uploads.more", { n: count(kept.length - FIRST) })}
              </button>
            )}
          </>
        )}
      </Ask>
      {removed && (
        <Remove path={`/uploads/${removed.upload}`} old="uploads" title={say("start.uploads.remove.title", { files: files(removed) })} about={say("start.uploads.remove.about")} action={say("start.uploads.remove.go")} done={() => chosen === removed.upload && choose(null)} close={() => setRemoved(null)} />
      )}
    </Section>
  );
}
