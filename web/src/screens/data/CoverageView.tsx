/** The promise "never drops a piece", made visible. */
import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useEffect, useRef } from "react";
import { coverageQuery } from "../../api/queries";
import type { CoverageRow } from "../../api/types";
import { CoverageCells, FATES, FateSign, summary } from "../../charts/Coverage";
import { Ask } from "../../parts/Ask";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";

function Row({ row }: { row: CoverageRow }): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  return (
    <li className="coverage-row">
      <div className="coverage-name">
        <p className="clip" title={row.name}>
          {row.record ? (
            <Link to="/records/$record" params={{ record: String(row.record) }}>
              {row.name}
            </Link>
          ) : (
            row.name
          )}
        </p>
        <p className="quiet">{row.cells.length > 0 ? say("data.coverage.parts", { n: row.cells.length }) : (row.why ?? summary(row, say))}</p>
      </div>
      <div>
        <CoverageCells row={row} open={(cell) => cell.record && void navigate({ to: "/records/$record", params: { record: String(cell.record) } })} />
        {row.cells.length > 0 && row.why && <p className="tone-failed">{row.why}</p>}
        {!row.complete && <p className="quiet">{say("data.coverage.part")}</p>}
      </div>
    </li>
  );
}

export function CoverageView({ run }: { run: number }): React.ReactNode {
  const say = useWords();
  const coverage = useInfiniteQuery(coverageQuery(run));
  const end = useRef<HTMLDivElement>(null);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = coverage;
  useEffect(() => {
    const mark = end.current;
    if (!mark || !hasNextPage) return;
    const seen = new IntersectionObserver(([entry]) => {
      if (entry?.isIntersecting && !isFetchingNextPage) void fetchNextPage();
    });
    seen.observe(mark);
    return () => seen.disconnect();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  return (
    <Section title={say("data.coverage")} about={say("data.coverage.about")}>
      <div className="legend">
        {FATES.map((fate) => (
          <span key={fate}>
            <FateSign fate={fate} />
            {say(`fate.${fate}`)}
          </span>
        ))}
      </div>
      <Ask query={coverage} lines={10}>
        {(answer) => {
          const rows = answer.pages.flatMap((page) => page.items);
          if (rows.length === 0) return <p className="quiet">{say("data.coverage.none")}</p>;
          return (
            <ol className="coverage">
              {rows.map((row, index) => (
                <Row key={row.record ?? `${row.name}-${index}`} row={row} />
              ))}
            </ol>
          );
        }}
      </Ask>
      <div ref={end} />
    </Section>
  );
}
