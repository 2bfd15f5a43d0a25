/** The source itself, with what the candidate points at lit: text with its spans, a picture with its boxes. */
import { Link } from "@tanstack/react-router";
import { useEffect, useMemo, useRef, useState } from "react";
import type { ReviewSource } from "../../api/types";
import { useWords } from "../../words";
import { stageColour } from "../../charts/paint";
import { useShownTheme } from "../../words/choice";

type SourceMark = ReviewSource["marks"][number];

interface Piece {
  text: string;
  marks: readonly SourceMark[];
}

/** Cuts the text at every beginning and end of a mark. Offsets count code points, JavaScript's strings do not. */
function cut(text: string, marks: readonly SourceMark[]): Piece[] {
  const points = Array.from(text);
  const places = [...new Set([0, points.length, ...marks.flatMap((mark) => [mark.start, mark.end])])]
    .filter((place) => place >= 0 && place <= points.length)
    .sort((a, b) => a - b);
  return places.slice(0, -1).map((from, index) => {
    const to = places[index + 1] ?? points.length;
    return { text: points.slice(from, to).join(""), marks: marks.filter((mark) => mark.start <= from && mark.end >= to) };
  });
}

export function labelColours(labels: readonly string[]): Map<string, string> {
  return new Map([...new Set(labels)].map((label, place) => [label, stageColour(place * 2)]));
}

function TextSource({ text, marks }: { text: string; marks: readonly SourceMark[] }): React.ReactNode {
  const first = useRef<HTMLElement | null>(null);
  const theme = useShownTheme();
  const pieces = useMemo(() => cut(text, marks), [text, marks]);
  const colours = useMemo(() => labelColours(marks.filter((mark) => mark.what !== "evidence").map((mark) => mark.what)), [marks, theme]);
  useEffect(() => {
    const box = first.current?.closest(".source-text");
    if (first.current && box) box.scrollTop = Math.max(0, first.current.offsetTop - box.clientHeight / 3);
  }, [pieces]);
  const begin = pieces.find((piece) => piece.marks.length > 0);
  return (
    <div className="source-text" tabIndex={0}>
      {pieces.map((piece, index) => {
        const label = piece.marks.find((mark) => mark.what !== "evidence")?.what;
        if (piece.marks.length === 0) return <span key={index}>{piece.text}</span>;
        const colour = label ? colours.get(label) : undefined;
        return (
          <mark key={index} ref={piece === begin ? first : undefined} className={label ? "span-mark" : "lit"} style={colour ? { borderBottomColor: colour } : undefined} title={piece.marks.map((mark) => mark.what).join(", ")}>
            {piece.text}
            {label && <sup style={colour ? { color: colour } : undefined}>{label}</sup>}
          </mark>
        );
      })}
    </div>
  );
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}

/** Boxes are fractions of the upright picture; rotation is clockwise about the upper left corner. */
function ImageSource({ source }: { source: ReviewSource }): React.ReactNode {
  const [size, setSize] = useState({ width: source.width ?? 1, height: source.height ?? 1 });
  const theme = useShownTheme();
  const labels = source.boxes.map((box) => String(box.label ?? ""));
  const colours = useMemo(() => labelColours(labels), [labels.join("|"), theme]);
  return (
    <div className="source-image">
      <img src={`/api/blobs/${source.image ?? ""}`} alt={source.name} onLoad={(event) => setSize({ width: event.currentTarget.naturalWidth, height: event.currentTarget.naturalHeight })} />
      <svg viewBox={`0 0 ${size.width} ${size.height}`} aria-hidden="true">
        {source.boxes.map((box, index) => {
          const [x, y] = [number(box.x) * size.width, number(box.y) * size.height];
          const label = String(box.label ?? "");
          const unit = Math.max(size.width, size.height) / 100;
          return (
            <g key={index} transform={`rotate(${number(box.rotation)} ${x} ${y})`} style={{ color: colours.get(label) }}>
              <rect x={x} y={y} width={number(box.width) * size.width} height={number(box.height) * size.height} />
              <text x={x + unit * 0.4} y={y - unit * 0.5} fontSize={unit * 2.4}>
                {label}
              </text>
            </g>
          );
        })}
      </svg>
    </div>
  );
}

export function SourceView({ source }: { source: ReviewSource }): React.ReactNode {
  const say = useWords();
  return (
    <div className="source">
      <p className="source-head">
        {source.record_id ? (
          <Link to="/records/$record" params={{ record: String(source.record_id) }}>
            {source.title ?? source.name}
          </Link>
        ) : (
          (source.title ?? source.name)
        )}
        {source.title && source.title !== source.name && <span className="quiet"> {source.name}</span>}
        {source.page && <span className="quiet"> · {say("record.page", { n: source.page })}</span>}
      </p>
      {source.what === "text" && source.text ? <TextSource text={source.text} marks={source.marks} /> : source.what === "image" ? <ImageSource source={source} /> : <p className="quiet">{say("review.source.none")}</p>}
    </div>
  );
}
