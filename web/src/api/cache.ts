/** The one store of answers. Frames of the live connection say what has become old; the clock is only the net below. */
import { QueryClient, type Query } from "@tanstack/react-query";
import { worthAnotherTry } from "./problems";

const MANY = 5;

/** A list that somebody has scrolled far down: asking again would ask for every page of it. It is asked anew when it is opened anew. */
export function isDeep(query: { state: Pick<Query["state"], "data"> }): boolean {
  const data = query.state.data as { pages?: unknown } | null | undefined;
  return Array.isArray(data?.pages) && data.pages.length > MANY;
}

export const cache = new QueryClient({
  defaultOptions: {
    queries: { retry: worthAnotherTry, staleTime: 2_000, refetchInterval: (query) => (isDeep(query) ? false : 15_000), refetchOnWindowFocus: (query) => !isDeep(query) },
  },
});
