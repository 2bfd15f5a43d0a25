/** Shows what a query answered: loading, the answer, or the trouble it had. Old answers stay while new ones are on their way. */
import type { UseQueryResult } from "@tanstack/react-query";
import { useWords } from "../words";
import { Trouble } from "./Trouble";

interface Props<T> {
  query: UseQueryResult<T>;
  lines?: number; // how high the place is that is kept free while loading
  children: (answer: T) => React.ReactNode;
}

export function Ask<T>({ query, lines = 3, children }: Props<T>): React.ReactNode {
  const say = useWords();
  if (query.data !== undefined) return children(query.data);
  if (query.error) return <Trouble error={query.error} again={() => void query.refetch()} />;
  return (
    <div className="loading" style={{ minHeight: `${lines * 1.9}em` }} aria-busy="true">
      <span className="hidden-text">{say("loading")}</span>
    </div>
  );
}
