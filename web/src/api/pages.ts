/** The rows of a list that comes in pages. */
import type { InfiniteData, UseInfiniteQueryResult } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo, useRef } from "react";
import type { Page } from "./types";

/** All rows so far; `atEnd` asks for the next page. Of a filtered list a page may be empty and the next one not. */
export function usePages<T>(query: UseInfiniteQueryResult<InfiniteData<Page<T>>>): { rows: readonly T[]; atEnd: () => void } {
  const { data, hasNextPage, isFetchingNextPage, isFetchNextPageError, fetchNextPage } = query;
  const rows = useMemo(() => data?.pages.flatMap((page) => page.items) ?? [], [data]);
  const asking = useRef(false);
  asking.current = isFetchingNextPage;
  const held = isFetchingNextPage || isFetchNextPageError; // a page that failed is asked for again by a scroll, not by itself without end
  const atEnd = useCallback(() => {
    if (hasNextPage && !asking.current) void fetchNextPage();
  }, [hasNextPage, held, fetchNextPage]);
  useEffect(() => {
    if (rows.length === 0 && !held) atEnd();
  }, [rows.length, held, atEnd]);
  return { rows, atEnd };
}
