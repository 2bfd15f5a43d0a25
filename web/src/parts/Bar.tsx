/** Bars made of parts; the hatch and the words beside them say the same as the colours. */
import { sayKnown, useWords } from "../words";
import { count } from "../words/numbers";

export interface Part {
  state: string; // names the colour: bar-STATE
  value: number;
}

export function Bar({ parts, total, thin }: { parts: readonly Part[]; total: number; thin?: boolean }): React.ReactNode {
  const say = useWords();
  const whole = Math.max(total, parts.reduce((sum, part) => sum + part.value, 0), 1);
  const shown = parts.filter((part) => part.value > 0);
  const words = shown.map((part) => `${count(part.value)} ${sayKnown(say, "state", part.state)}`).join(", ");
  return (
    <div className={`bar ${thin ? "bar-thin" : ""}`} role="img" aria-label={words || say("none")} title={words}>
      {shown.map((part) => (
        <span key={part.state} className={`bar-fill bar-${part.state}`} style={{ width: `${(part.value / whole) * 100}%` }} />
      ))}
    </div>
  );
}
