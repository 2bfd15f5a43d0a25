/** What an export is to be: the format, and what that format takes. */
import type { ExportOptions, FormatInfo } from "../../api/types";
import { useWords } from "../../words";

export interface Wish {
  format: string;
  where: string;
  split: string;
  lineage: boolean;
  reviewed: boolean;
  kind: string;
  offsets: ExportOptions["offsets"];
}

export const FIRST: Wish = { format: "jsonl", where: "", split: "", lineage: true, reviewed: false, kind: "", offsets: "codepoint" };
const SPLITS: Record<string, Record<string, number> | null> = { "": null, "90/10": { train: 0.9, test: 0.1 }, "80/10/10": { train: 0.8, validation: 0.1, test: 0.1 } };

/** Rows take a filter and a split, annotations their kind and how places are counted. */
export function optionsOf(wish: Wish, format: FormatInfo | undefined): Partial<ExportOptions> {
  const { lineage, reviewed, kind, offsets } = wish;
  if (format?.annotations) return { reviewed, offsets, ...(kind ? { kind } : {}) };
  const split = SPLITS[wish.split];
  return { lineage, reviewed, ...(wish.where.trim() ? { where: wish.where.trim() } : {}), ...(split ? { split } : {}) };
}

/** The same as a command. */
export function commandOf(name: string, wish: Wish, format: FormatInfo | undefined): string {
  if (format?.annotations) return `gristmill label-studio export ${name} --format ${wish.format.replace(/^label-studio$/, "json").replace(/^label-studio-min$/, "json-min").replace(/^annotations-/, "")} --to annotations`;
  const parts = [`gristmill export ${name} --format ${wish.format}`, wish.where.trim() && `--where '${wish.where.trim()}'`, wish.reviewed && "--reviewed", wish.split && `--split ${wish.split}`];
  return parts.filter(Boolean).join(" ");
}

interface Props {
  wish: Wish;
  set: (changed: Partial<Wish>) => void;
  formats: readonly FormatInfo[];
  format: FormatInfo | undefined;
}

function Formats({ wish, set, formats, format }: Props): React.ReactNode {
  const say = useWords();
  const group = (annotations: boolean): React.ReactNode => formats.filter((each) => each.annotations === annotations).map((each) => <option key={each.name}>{each.name}</option>);
  return (
    <label className="field">
      {say("export.format")}
      <select value={wish.format} onChange={(event) => set({ format: event.target.value, kind: "" })}>
        {formats.length === 0 && <option>jsonl</option>}
        <optgroup label={say("export.rows")}>{group(false)}</optgroup>
        <optgroup label={say("export.annotations")}>{group(true)}</optgroup>
      </select>
      <span className="field-note">{format?.description ?? "\u00a0"}</span>
    </label>
  );
}

export function ExportForm(props: Props): React.ReactNode {
  const say = useWords();
  const { wish, set, format } = props;
  const annotations = format?.annotations ?? false;
  return (
    <div className="form export-form">
      <Formats {...props} />
      {annotations ? (
        <label className="field">
          {say("export.kind")}
          <select value={wish.kind} onChange={(event) => set({ kind: event.target.value })}>
            <option value="">{say("export.kind.last")}</option>
            {format?.kinds.map((kind) => (
              <option key={kind}>{kind}</option>
            ))}
          </select>
        </label>
      ) : (
        <>
          <label className="field">
            {say("export.split")}
            <select value={wish.split} onChange={(event) => set({ split: event.target.value })}>
              {Object.keys(SPLITS).map((each) => (
                <option key={each} value={each}>
                  {each || say("export.split.none")}
                </option>
              ))}
            </select>
          </label>
          <label className="field export-where">
            {say("export.filter")}
            <input className="mono" value={wish.where} placeholder={say("export.filter.hint")} spellCheck={false} onChange={(event) => set({ where: event.target.value })} />
          </label>
        </>
      )}
      <label>
        <input type="checkbox" checked={wish.reviewed} onChange={(event) => set({ reviewed: event.target.checked })} /> {say("export.reviewed")}
      </label>
      {annotations ? (
        <label>
          <input type="checkbox" checked={wish.offsets === "utf16"} onChange={(event) => set({ offsets: event.target.checked ? "utf16" : "codepoint" })} /> {say("export.utf16")}
        </label>
      ) : (
        <label>
          <input type="checkbox" checked={wish.lineage} onChange={(event) => set({ lineage: event.target.checked })} /> {say("export.lineage")}
        </label>
      )}
    </div>
  );
}
