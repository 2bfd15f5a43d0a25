/** A table of any length: only the rows in sight are in the document. Arrow keys or j and k move, Enter opens. */
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useId, useRef, useState } from "react";
import { useKeys } from "../keyboard/keys";
import { useWords } from "../words";
import { count } from "../words/numbers";

export interface Column<T> {
  name: string;
  width: string; // a track of a CSS grid
  number?: boolean;
  cell: (row: T) => React.ReactNode;
}

interface Props<T> {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  keyOf: (row: T) => string | number;
  open?: (row: T) => void;
  atEnd?: () => void; // asks for the next page
  height?: number;
  rowHeight?: number;
  total?: number;
}

export function Rows<T>(props: Props<T>): React.ReactNode {
  const { label, rows, columns, keyOf, open, atEnd, height = 480, rowHeight = 30, total } = props;
  const say = useWords();
  const id = useId();
  const scroller = useRef<HTMLDivElement>(null);
  const [at, setAt] = useState(-1);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => rowHeight, overscan: 12 });
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  const template = columns.map((column) => column.width).join(" ");
  useEffect(() => {
    if (atEnd && rows.length > 0 && last >= rows.length - 20) atEnd();
  }, [last, rows.length, atEnd]);

  const move = (step: number): void => {
    const next = Math.min(rows.length - 1, Math.max(0, at + step));
    setAt(next);
    virtual.scrollToIndex(next);
  };
  const openAt = (): void => {
    const row = rows[at];
    if (row !== undefined) open?.(row);
  };
  useKeys("here", [
    { keys: "j", about: say("keys.next"), go: () => move(1) },
    { keys: "k", about: say("keys.previous"), go: () => move(-1) },
    { keys: "Enter", about: say("keys.open"), go: openAt },
  ]);

  const onKeyDown = (event: React.KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    move(step);
  };
  return (
    <div className="rows" role="table" aria-label={label} aria-rowcount={total ?? rows.length}>
      <div className="rows-head" role="row" style={{ gridTemplateColumns: template }}>
        {columns.map((column) => (
          <span key={column.name} role="columnheader" className={column.number ? "number" : "clip"}>
            {column.name}
          </span>
        ))}
      </div>
      <div
        ref={scroller}
        className="rows-body"
        role="rowgroup"
        tabIndex={0}
        aria-label={`${label}, ${count(total ?? rows.length)}`}
        aria-activedescendant={at >= 0 ? `${id}-${at}` : undefined}
        style={{ height: Math.min(height, Math.max(1, rows.length) * rowHeight + 2) }}
        onKeyDown={onKeyDown}
      >
        <div role="presentation" style={{ height: virtual.getTotalSize(), position: "relative" }}>
          {items.map((item) => {
            const row = rows[item.index] as T;
            return (
              <div
                key={keyOf(row)}
                id={`${id}-${item.index}`}
                role="row"
                aria-rowindex={item.index + 1}
                aria-selected={item.index === at}
                className={`rows-row ${open ? "rows-open" : ""} ${item.index === at ? "rows-at" : ""}`}
                style={{ gridTemplateColumns: template, height: item.size, transform: `translateY(${item.start}px)` }}
                onClick={() => {
                  setAt(item.index);
                  open?.(row);
                }}
              >
                {columns.map((column) => (
                  <span key={column.name} role="cell" className={column.number ? "number" : "clip"}>
                    {column.cell(row)}
                  </span>
                ))}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
