/** What is to be decided: the proposal, or a person's edit with the proposal struck against it. */
import type { ReviewPiece } from "../../api/types";
import { fieldsOf, RecordBody, textIn, type Fields } from "../../parts/RecordBody";
import { Struck } from "../../parts/Struck";
import { useWords } from "../../words";
import { labelNames } from "./labels";

const ESSENCE: Record<string, readonly string[]> = {
  example: ["system", "question", "reasoning", "answer", "label"],
  question: ["text", "answer_type", "labels", "label"],
  conversation: ["scenario", "turns", "label"],
  test_item: ["question", "type", "options", "correct", "explanation", "label"],
};

function only(fields: Fields, names: readonly string[] | undefined): Fields {
  if (!names) return fields;
  return Object.fromEntries(names.filter((name) => name in fields).map((name) => [name, fields[name]]));
}

function list(value: unknown): Fields[] {
  return Array.isArray(value) ? value.map(fieldsOf) : [];
}

function Labels({ piece }: { piece: ReviewPiece }): React.ReactNode {
  const fields = fieldsOf(piece.body);
  const chosen = new Set([fields.labels, fields.values].flatMap((value) => (Array.isArray(value) ? value.map(String) : [])));
  const names = labelNames(piece);
  return (
    <ul className="label-list">
      {(names.length > 0 ? names : [...chosen]).map((name, index) => (
        <li key={name} className={chosen.has(name) ? "label-on" : ""}>
          {names.length > 0 && index < 9 && <kbd>{index + 1}</kbd>}
          {chosen.has(name) ? "✓ " : ""}
          {name}
        </li>
      ))}
    </ul>
  );
}

function Parts({ fields }: { fields: Fields }): React.ReactNode {
  const entities = list(fields.entities);
  const nameOf = (id: unknown): string => textIn(entities.find((entity) => entity.id === id) ?? {}, "text") ?? String(id);
  const relations = list(fields.relations);
  return (
    <ul className="part-list">
      {(relations.length > 0 ? [] : [...entities, ...list(fields.boxes)]).map((part, index) => (
        <li key={index}>
          <span className="chip">{String(part.label)}</span> {textIn(part, "text")}
        </li>
      ))}
      {relations.map((relation, index) => (
        <li key={`r${index}`}>
          {nameOf(relation.head)} <span className="chip">{relation.symmetric ? "↔" : "→"} {String(relation.label)}</span> {nameOf(relation.tail)}
        </li>
      ))}
    </ul>
  );
}

export function Candidate({ piece }: { piece: ReviewPiece }): React.ReactNode {
  const say = useWords();
  const body = fieldsOf(piece.body);
  const original = fieldsOf(piece.original);
  const changed = Object.keys(body).filter((name) => typeof body[name] === "string" && typeof original[name] === "string" && body[name] !== original[name]);
  const outcome = textIn(body, "outcome");
  return (
    <div className="candidate">
      <p className="candidate-head">
        <b>{piece.kind}</b>
        {piece.score !== null && piece.score !== undefined && <span className="chip">{say("review.score", { value: piece.score })}</span>}
        {piece.scores.map((score) => (
          <span key={`${score.judge}-${score.name}`} className="quiet" title={score.comment ?? ""}>
            {score.name} {score.value}
          </span>
        ))}
        {piece.second && <span className="chip">{say("review.second")}</span>}
        {piece.disputed && <span className="tone-failed">{say("review.disputed")}</span>}
        {outcome && outcome !== "ok" && <span className="tone-paused">{textIn(body, "reason") ?? outcome}</span>}
      </p>
      {piece.kind === "classes" || piece.kind === "rating" ? <Labels piece={piece} /> : ["entities", "relations", "boxes"].includes(piece.kind) ? <Parts fields={body} /> : <RecordBody body={only(body, ESSENCE[piece.kind])} />}
      {changed.length > 0 && (
        <details open>
          <summary className="quiet">{say("review.changes")}</summary>
          {changed.map((name) => (
            <Struck key={name} before={String(original[name])} after={String(body[name])} />
          ))}
        </details>
      )}
    </div>
  );
}
