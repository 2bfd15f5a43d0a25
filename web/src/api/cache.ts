/** The one store of answers. Frames of the live connection say what has become old; the clock is only the net below. */
import { QueryClient } from "@tanstack/react-query";
import { worthAnotherTry } from "./problems";

export const cache = new QueryClient({
  defaultOptions: { queries: { retry: worthAnotherTry, staleTime: 2_000, refetchInterval: 15_000, refetchOnWindowFocus: true } },
});
