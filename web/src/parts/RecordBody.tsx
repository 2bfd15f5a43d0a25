/** The content of a record as a person reads it: text as text, the rest as names and values. */
import { useWords } from "../words";

export type Fields = Record<string, unknown>;

export function fieldsOf(body: unknown): Fields {
  return typeof body === "object" && body !== null && !Array.isArray(body) ? (body as Fields) : { value: body };
}

export function textIn(fields: Fields, name: string): string | null {
  const value = fields[name];
  return typeof value === "string" && value !== "" ? value : null;
}

/** A line that stands for the whole record in lists. */
export function headline(kind: string, body: unknown): string {
  const fields = fieldsOf(body);
  for (const name of ["question", "text", "title", "name", "scenario", "reason", "rule"]) {
    const text = textIn(fields, name);
    if (text) return text.replaceAll(/\s+/g, " ");
  }
  const turns = fields.turns;
  if (Array.isArray(turns)) return turns.map((turn) => textIn(fieldsOf(turn), "content") ?? "").join(" / ").replaceAll(/\s+/g, " ");
  for (const name of ["labels", "values", "entities", "boxes", "relations", "paths", "scores"]) {
    const list = fields[name];
    if (Array.isArray(list)) return list.map((item) => (typeof item === "string" ? item : (textIn(fieldsOf(item), "text") ?? textIn(fieldsOf(item), "label") ?? textIn(fieldsOf(item), "name") ?? ""))).join(", ");
  }
  return kind;
}

const LONG = new Set(["question", "answer", "reasoning", "text", "quote", "content", "explanation", "comment"]);

function shown(value: unknown): React.ReactNode {
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (Array.isArray(value) && value.every((item) => typeof item === "string" || typeof item === "number")) return value.join(" · ");
  return <pre className="json">{JSON.stringify(value, null, 1)}</pre>;
}

function Turns({ turns }: { turns: readonly unknown[] }): React.ReactNode {
  return (
    <ol className="turns">
      {turns.map((turn, index) => {
        const fields = fieldsOf(turn);
        return (
          <li key={index} className={`turn-${textIn(fields, "role") ?? ""}`}>
            <span className="quiet">{textIn(fields, "role")}</span>
            <p className="prose">{textIn(fields, "content")}</p>
          </li>
        );
      })}
    </ol>
  );
}

export function RecordBody({ body }: { body: unknown }): React.ReactNode {
  const say = useWords();
  const fields = fieldsOf(body);
  const names: Record<string, string> = { question: say("body.question"), answer: say("body.answer"), reasoning: say("body.reasoning"), quote: say("body.quote") };
  const present = Object.entries(fields).filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && value.length === 0));
  const long = present.filter(([name, value]) => LONG.has(name) && typeof value === "string");
  const small = present.filter(([name, value]) => !(LONG.has(name) && typeof value === "string") && name !== "turns");
  return (
    <div className="body">
      {long.map(([name, value]) => (
        <div key={name} className={`body-long body-${name}`}>
          <p className="body-name">{names[name] ?? name}</p>
          <p className="prose">{String(value)}</p>
        </div>
      ))}
      {Array.isArray(fields.turns) && <Turns turns={fields.turns} />}
      {small.length > 0 && (
        <dl className="body-small">
          {small.map(([name, value]) => (
            <div key={name}>
              <dt>{name.replaceAll("_", " ")}</dt>
              <dd>{shown(value)}</dd>
            </div>
          ))}
        </dl>
      )}
    </div>
  );
}
