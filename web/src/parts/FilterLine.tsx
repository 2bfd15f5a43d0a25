/** A line to write a filter in; what stands beside it is about what the filter has found, so it waits for Apply. */
import { useEffect, useState } from "react";
import { useWords } from "../words";

interface Props {
  filter: string; // the one that holds
  apply: (filter: string) => void;
  example: string;
  before?: React.ReactNode;
  children?: (settled: boolean) => React.ReactNode;
}

export function FilterLine({ filter, apply, example, before, children }: Props): React.ReactNode {
  const say = useWords();
  const [text, setText] = useState(filter);
  useEffect(() => setText(filter), [filter]);
  return (
    <form
      className="row filter"
      onSubmit={(event) => {
        event.preventDefault();
        apply(text.trim());
      }}
    >
      {before}
      <label className="filter-text">
        <span className="hidden-text">{say("filter.label")}</span>
        <input value={text} onChange={(event) => setText(event.target.value)} placeholder={example} spellCheck={false} className="mono" />
      </label>
      <button type="submit" className="button">
        {say("filter.apply")}
      </button>
      {children?.(text.trim() === filter)}
    </form>
  );
}
