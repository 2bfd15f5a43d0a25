/** The rows of a list that comes in pages. */
import type { InfiniteData, UseInfiniteQueryResult } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo } from "react";
import type { Page } from "./types";

/** All rows so far; `atEnd` asks for the next page. Of a filtered list a page may be empty and the next one not. */
export function usePages<T>(query: UseInfiniteQueryResult<InfiniteData<Page<T>>>): { rows: readonly T[]; atEnd: () => void } {
  const { data, hasNextPage, isFetchingNextPage, fetchNextPage } = query;
  const rows = useMemo(() => data?.pages.flatMap((page) => page.items) ?? [], [data]);
  const atEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  useEffect(() => {
    if (rows.length === 0) atEnd();
  }, [rows.length, atEnd]);
  return { rows, atEnd };
}
