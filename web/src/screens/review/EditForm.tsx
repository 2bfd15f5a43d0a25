/** Edits in place: texts as texts, turns as turns, everything else as JSON. What changes is shown while it is written. */
import { useState } from "react";
import type { Decision, ReviewPiece } from "../../api/types";
import { useKeys } from "../../keyboard/keys";
import { fieldsOf, textIn, type Fields } from "../../parts/RecordBody";
import { Struck } from "../../parts/Struck";
import { useWords } from "../../words";

const TEXTS: Record<string, readonly string[]> = {
  example: ["question", "reasoning", "answer"],
  question: ["text"],
  test_item: ["question", "explanation"],
};

interface Props {
  piece: ReviewPiece;
  save: (decision: Decision) => void;
  cancel: () => void;
}

function TextFields({ fields, names, set }: { fields: Fields; names: readonly string[]; set: (name: string, text: string) => void }): React.ReactNode {
  return names.map((name, index) => {
    const text = textIn(fields, name) ?? "";
    return (
      <label key={name} className="field">
        {name}
        <textarea rows={Math.min(14, Math.max(2, Math.ceil(text.length / 68)))} value={text} autoFocus={index === names.length - 1} onChange={(event) => set(name, event.target.value)} />
      </label>
    );
  });
}

function Turns({ turns, set }: { turns: readonly Fields[]; set: (turns: readonly Fields[]) => void }): React.ReactNode {
  return turns.map((turn, index) => (
    <label key={index} className="field">
      {textIn(turn, "role")}
      <textarea rows={Math.max(2, Math.ceil((textIn(turn, "content") ?? "").length / 68))} value={textIn(turn, "content") ?? ""} onChange={(event) => set(turns.map((other, place) => (place === index ? { ...other, content: event.target.value } : other)))} />
    </label>
  ));
}

export function EditForm({ piece, save, cancel }: Props): React.ReactNode {
  const say = useWords();
  const before = fieldsOf(piece.body);
  const names = (TEXTS[piece.kind] ?? []).filter((name) => name !== "reasoning" || textIn(before, name));
  const turns = Array.isArray(before.turns) ? before.turns.map(fieldsOf) : null;
  const [fields, setFields] = useState<Fields>(before);
  const [json, setJson] = useState(names.length === 0 && !turns ? JSON.stringify(before, null, 2) : null);
  const [wrong, setWrong] = useState("");

  const submit = (): void => {
    if (json === null) {
      const changes = Object.fromEntries(Object.entries(fields).filter(([name, value]) => value !== before[name]));
      if (Object.keys(changes).length === 0) return cancel();
      return save({ decision: "edit", changes });
    }
    try {
      save({ decision: "edit", body: JSON.parse(json) as Record<string, unknown> });
    } catch (error) {
      setWrong(String(error));
    }
  };
  useKeys("here", [
    { keys: "Mod+enter", about: say("review.save"), go: submit, typing: true },
    { keys: "Escape", about: say("review.discard"), go: cancel, typing: true },
  ]);
  return (
    <form
      className="edit"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {json !== null ? (
        <label className="field">
          {say("review.json")}
          <textarea className="mono" rows={18} spellCheck={false} value={json} autoFocus onChange={(event) => setJson(event.target.value)} />
        </label>
      ) : (
        <>
          <TextFields fields={fields} names={names} set={(name, text) => setFields({ ...fields, [name]: text })} />
          {turns && <Turns turns={(fields.turns as Fields[]) ?? turns} set={(changed) => setFields({ ...fields, turns: changed })} />}
          {names.some((name) => fields[name] !== before[name]) && (
            <div className="edit-changes">
              <p className="quiet">{say("review.changes")}</p>
              {names
                .filter((name) => fields[name] !== before[name])
                .map((name) => (
                  <Struck key={name} before={textIn(before, name) ?? ""} after={textIn(fields, name) ?? ""} />
                ))}
            </div>
          )}
        </>
      )}
      {wrong && <p className="tone-failed">{say("review.json.wrong", { why: wrong })}</p>}
      <div className="row">
        <button type="submit" className="button button-main">
          {say("review.save")} <kbd>Ctrl ↵</kbd>
        </button>
        <button type="button" className="button" onClick={cancel}>
          {say("review.discard")} <kbd>Esc</kbd>
        </button>
      </div>
    </form>
  );
}
