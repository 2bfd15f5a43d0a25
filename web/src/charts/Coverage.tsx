/** The coverage map: a row per document, a cell per part, coloured and drawn by what became of it. */
import { useEffect, useRef, useState } from "react";
import type { Cell, CoverageRow } from "../api/types";
import { useWords, type Word } from "../words";
import { useShownTheme } from "../words/choice";
import { count } from "../words/numbers";
import { colour } from "./paint";

export type Fate = Cell["fate"];
export const FATES: readonly Fate[] = ["reviewed", "accepted", "rejected", "failed", "waiting", "empty"];

const SIZE = 12;
const STEP = 14;

/** Each fate has a drawing of its own as well as a colour. */
function draw(pen: CanvasRenderingContext2D, fate: Fate, x: number, y: number): void {
  const fills: Record<Fate, string> = {
    reviewed: colour("reviewed"), accepted: colour("done"), rejected: colour("failed-soft"), failed: colour("failed"), waiting: colour("waiting-soft"), empty: colour("raised"),
  };
  pen.fillStyle = fills[fate];
  pen.fillRect(x, y, SIZE, SIZE);
  pen.lineWidth = 1.4;
  pen.beginPath();
  if (fate === "reviewed") {
    pen.strokeStyle = colour("sheet");
    pen.moveTo(x + 3, y + 6.4);
    pen.lineTo(x + 5.2, y + 8.6);
    pen.lineTo(x + 9.2, y + 3.8);
  } else if (fate === "failed") {
    pen.strokeStyle = colour("sheet");
    pen.moveTo(x + 3.2, y + 3.2);
    pen.lineTo(x + 8.8, y + 8.8);
    pen.moveTo(x + 8.8, y + 3.2);
    pen.lineTo(x + 3.2, y + 8.8);
  } else if (fate === "rejected") {
    pen.strokeStyle = colour("failed");
    pen.moveTo(x + 1, y + SIZE - 1);
    pen.lineTo(x + SIZE - 1, y + 1);
  } else if (fate === "waiting") {
    pen.strokeStyle = colour("ink-3");
    pen.arc(x + SIZE / 2, y + SIZE / 2, 2.2, 0, 7);
  } else if (fate === "empty") {
    pen.strokeStyle = colour("ink-3");
    pen.rect(x + 0.7, y + 0.7, SIZE - 1.4, SIZE - 1.4);
  }
  pen.stroke();
}

interface Props {
  row: CoverageRow;
  open: (cell: Cell) => void;
}

/** The cells of one document. Arrow keys move, Enter opens; the line below says what is under the cursor. */
export function CoverageCells({ row, open }: Props): React.ReactNode {
  const say = useWords();
  const theme = useShownTheme();
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState<number | null>(null);
  const across = Math.max(1, Math.floor(width / STEP));
  const lines = width === 0 ? 1 : Math.max(1, Math.ceil(row.cells.length / across)); // rows out of sight have no width

  useEffect(() => {
    const host = place.current;
    if (!host) return;
    const sized = new ResizeObserver(() => setWidth(host.clientWidth));
    sized.observe(host);
    return () => sized.disconnect();
  }, []);
  useEffect(() => {
    const board = canvas.current;
    const pen = board?.getContext("2d");
    if (!board || !pen || width === 0) return;
    const ratio = devicePixelRatio;
    board.width = width * ratio;
    board.height = lines * STEP * ratio;
    pen.scale(ratio, ratio);
    row.cells.forEach((cell, index) => draw(pen, cell.fate, (index % across) * STEP, Math.floor(index / across) * STEP));
    if (at !== null) {
      pen.strokeStyle = colour("ink");
      pen.lineWidth = 2;
      pen.strokeRect((at % across) * STEP - 0.5, Math.floor(at / across) * STEP - 0.5, SIZE + 1, SIZE + 1);
    }
  }, [row, width, across, lines, theme, at]);

  const under = (event: React.MouseEvent): number | null => {
    const box = event.currentTarget.getBoundingClientRect();
    const index = Math.floor((event.clientY - box.top) / STEP) * across + Math.floor((event.clientX - box.left) / STEP);
    return index < row.cells.length ? index : null;
  };
  const onKeyDown = (event: React.KeyboardEvent): void => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -1e9, End: 1e9 }[event.key];
    const cell = at === null ? undefined : row.cells[at];
    if (event.key === "Enter" && cell) open(cell);
    else if (step === undefined) return;
    else setAt(Math.min(row.cells.length - 1, Math.max(0, (at ?? -1) + step)));
    event.preventDefault();
    event.stopPropagation();
  };
  const cell = at === null ? undefined : row.cells[at];
  const told = cell
    ? say("data.coverage.cell", {
        kind: cell.kind, n: (at ?? 0) + 1, of: count(row.cells.length), fate: say(`fate.${cell.fate}` as Word),
        results: say("data.coverage.results", { n: cell.n }),
      }) + (cell.page ? `, ${say("record.page", { n: cell.page })}` : "")
    : "";
  return (
    <div className="cells" ref={place}>
      <canvas
        ref={canvas}
        style={{ width: "100%", height: lines * STEP }}
        role="application"
        tabIndex={row.cells.length > 0 ? 0 : -1}
        aria-label={`${row.name}: ${summary(row, say)}`}
        aria-description={say("data.coverage.keys")}
        onMouseMove={(event) => setAt(under(event))}
        onMouseLeave={() => setAt(null)}
        onBlur={() => setAt(null)}
        onClick={(event) => {
          const index = under(event);
          const chosen = index === null ? undefined : row.cells[index];
          if (chosen) open(chosen);
        }}
        onKeyDown={onKeyDown}
      />
      <p className="cells-told" aria-live="polite">
        {told}
      </p>
    </div>
  );
}

export function summary(row: CoverageRow, say: (word: Word, values?: Record<string, string | number>) => string): string {
  return FATES.map((fate) => ({ fate, n: row.cells.filter((cell) => cell.fate === fate).length }))
    .filter(({ n }) => n > 0)
    .map(({ fate, n }) => `${count(n)} ${say(`fate.${fate}` as Word)}`)
    .join(", ");
}

/** One cell as a sign for legends. */
export function FateSign({ fate }: { fate: Fate }): React.ReactNode {
  const theme = useShownTheme();
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const pen = canvas.current?.getContext("2d");
    if (!pen) return;
    pen.setTransform(2, 0, 0, 2, 0, 0);
    pen.clearRect(0, 0, SIZE, SIZE);
    draw(pen, fate, 0, 0);
  }, [fate, theme]);
  return <canvas ref={canvas} width={SIZE * 2} height={SIZE * 2} style={{ width: SIZE, height: SIZE }} aria-hidden="true" />;
}
