/** A time axis on which long gaps are folded: a retry days later must not squeeze the picture. */

export interface Fold {
  from: number; // milliseconds
  to: number;
  at: number; // where it begins on the axis, 0 to 1
  width: number;
}

export interface FoldedTime {
  place: (time: number) => number; // 0 to 1
  folds: readonly Fold[];
}

const FOLD = 0.05; // of the axis, for each folded gap

/** Joins spans that touch or overlap. */
function joined(spans: readonly (readonly [number, number])[]): [number, number][] {
  const result: [number, number][] = [];
  for (const [from, to] of [...spans].sort((a, b) => a[0] - b[0])) {
    const last = result.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else result.push([from, Math.max(from + 1, to)]);
  }
  return result;
}

export function foldedTime(spans: readonly (readonly [number, number])[]): FoldedTime {
  const busy = joined(spans);
  const work = busy.reduce((sum, [from, to]) => sum + to - from, 0) || 1;
  const pieces: { from: number; to: number; folded: boolean }[] = [];
  busy.forEach(([from, to], index) => {
    const before = busy[index - 1];
    if (before) pieces.push({ from: before[1], to: from, folded: from - before[1] > Math.max(work * 0.5, 1000) });
    pieces.push({ from, to, folded: false });
  });
  const folded = pieces.filter((piece) => piece.folded).length;
  const open = pieces.filter((piece) => !piece.folded).reduce((sum, piece) => sum + piece.to - piece.from, 0) || 1;
  const room = Math.max(0.3, 1 - folded * FOLD);
  let at = 0;
  const placed = pieces.map((piece) => {
    const width = piece.folded ? (1 - room) / folded : ((piece.to - piece.from) / open) * room;
    const start = at;
    at += width;
    return { ...piece, at: start, width };
  });
  return {
    folds: placed.filter((piece) => piece.folded),
    place: (time) => {
      const piece = placed.find((each) => time <= each.to) ?? placed.at(-1);
      if (!piece) return 0;
      const part = (time - piece.from) / Math.max(1, piece.to - piece.from);
      return piece.at + piece.width * Math.min(1, Math.max(0, part));
    },
  };
}
