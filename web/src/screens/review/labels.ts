/** Labels that an annotation may have, and what a digit does with them. */
import type { Decision, ReviewPiece } from "../../api/types";
import { fieldsOf } from "../../parts/RecordBody";

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.map(String) : [];
}

export function labelNames(piece: ReviewPiece): string[] {
  const known = piece.labels ? fieldsOf(piece.labels) : {};
  const labels = Array.isArray(known.labels) ? known.labels.map((label) => (typeof label === "string" ? label : String(fieldsOf(label).name ?? ""))) : [];
  const scale = fieldsOf(known.scale);
  const codes = ["codes", "values", "options"].map((name) => scale[name]).find(Array.isArray) as unknown[] | undefined;
  const values = codes?.map((code) => (typeof code === "string" ? code : String(fieldsOf(code).code ?? fieldsOf(code).name ?? fieldsOf(code).value ?? "")));
  return (piece.kind === "rating" ? (values ?? []) : labels).filter(Boolean);
}

/** The decision that the n-th label means: the only one where one is allowed, otherwise it is put in or taken out. */
export function labelDecision(piece: ReviewPiece, place: number): Decision | null {
  const name = labelNames(piece)[place];
  if (name === undefined) return null;
  const body = fieldsOf(piece.body);
  if (piece.kind === "rating") return { decision: "edit", changes: { values: [name] } };
  if (piece.kind !== "classes") return null;
  const now = strings(body.labels);
  const single = piece.labels ? fieldsOf(piece.labels).most === 1 : true;
  const label = single ? [name] : now.includes(name) ? now.filter((other) => other !== name) : [...now, name];
  return { decision: "label", label };
}
