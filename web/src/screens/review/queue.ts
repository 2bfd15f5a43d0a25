/** A reviewer's queue: pieces are claimed ahead, decided at once on the screen, and saved behind it. */
import { useCallback, useEffect, useRef, useState } from "react";
import { cache } from "../../api/cache";
import { change, get, lastWord } from "../../api/client";
import type { Decided, Decision, ReviewPiece } from "../../api/types";

export type By = "score" | "disagreement" | "random" | "changed";

export interface Queue {
  pieces: readonly ReviewPiece[];
  at: number;
  move: (step: number) => void;
  jump: (index: number) => void;
  decide: (piece: ReviewPiece, decision: Decision) => void;
  undo: () => void;
  saving: number;
  claiming: boolean;
  error: unknown;
  forget: () => void;
  hold: (held: boolean) => void; // while somebody writes, what comes back does not take the place of his piece
}

interface State {
  pieces: readonly ReviewPiece[];
  at: number;
}

function without(state: State, record: number): State {
  const index = state.pieces.findIndex((piece) => piece.record_id === record);
  if (index < 0) return state;
  const pieces = state.pieces.filter((piece) => piece.record_id !== record);
  const at = index < state.at ? state.at - 1 : state.at;
  return { pieces, at: Math.max(0, Math.min(at, pieces.length - 1)) };
}

/** Puts a piece that came back in front: it is shown at once, unless somebody is writing. */
function withFront(state: State, piece: ReviewPiece, held: boolean): State {
  const rest = without(state, piece.record_id);
  return { pieces: [piece, ...rest.pieces], at: held && rest.pieces.length > 0 ? rest.at + 1 : 0 };
}

/** A claim that is never answered must not hold up those behind it. */
const PATIENCE = 30_000;

/** At once, though the leases would end by themselves. */
async function giveBack(run: number, records: readonly number[]): Promise<void> {
  if (records.length > 0) await lastWord("/reviews/release", { run: String(run), records }, AbortSignal.timeout(PATIENCE));
}

/** Claims and what is given back, one after the other: else what one desk gives back late is taken from the next one. */
let turn: Promise<unknown> = Promise.resolve();
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = turn.then(work);
  turn = done.catch(() => undefined);
  return done;
}

export function useQueue(run: number, by: By, limit: number): Queue {
  const [state, setState] = useState<State>({ pieces: [], at: 0 });
  const [saving, setSaving] = useState(0);
  const [claiming, setClaiming] = useState(true);
  const [error, setError] = useState<unknown>(null);
  const gone = useRef(new Set<number>()); // decided here: a claim that was under way may still bring them
  const mine = useRef<readonly number[]>([]); // what is claimed for this page: given back when it is left
  mine.current = state.pieces.map((piece) => piece.record_id);
  const alive = useRef(0);
  const open = useRef(false); // a desk that was left claims nothing more
  const busy = useRef(false);
  const held = useRef(false);
  const hold = useCallback((value: boolean) => void (held.current = value), []);

  const claim = useCallback(async (): Promise<void> => {
    if (busy.current || !open.current) return;
    busy.current = true;
    const began = alive.current;
    setClaiming(true);
    try {
      const found = await inTurn(async () => {
        if (began !== alive.current) return [];
        const given = await change<ReviewPiece[]>("POST", "/reviews/claim", { run: String(run), by, limit }, undefined, AbortSignal.timeout(PATIENCE));
        if (began !== alive.current) await giveBack(run, given.map((piece) => piece.record_id)); // nobody looks at them any more
        return given;
      });
      if (began !== alive.current) return;
      setState((before) => {
        const fresh = found.filter((piece) => !gone.current.has(piece.record_id) && !before.pieces.some((held) => held.record_id === piece.record_id));
        return { ...before, pieces: [...before.pieces, ...fresh] };
      });
      setError(null);
      void cache.invalidateQueries({ queryKey: ["review", run] });
    } catch (problem) {
      if (began === alive.current) setError(problem);
    } finally {
      if (began === alive.current) {
        busy.current = false;
        setClaiming(false);
      }
    }
  }, [run, by, limit]);

  useEffect(() => {
    alive.current += 1;
    open.current = true;
    busy.current = false;
    gone.current = new Set();
    setState({ pieces: [], at: 0 });
    void claim();
    const closing = (): void => void giveBack(run, mine.current); // there is no time to wait
    window.addEventListener("pagehide", closing);
    return () => {
      window.removeEventListener("pagehide", closing);
      alive.current += 1;
      open.current = false;
      const left = mine.current;
      void inTurn(() => giveBack(run, left));
    };
  }, [claim, run]);

  const decide = useCallback(
    (piece: ReviewPiece, decision: Decision): void => {
      gone.current.add(piece.record_id);
      setState((before) => without(before, piece.record_id));
      setSaving((n) => n + 1);
      const seen = piece.revision_id ?? piece.record_id;
      change<Decided>("POST", `/reviews/${piece.record_id}`, { ...decision, run: String(run), token: piece.token, seen })
        .then(() => cache.invalidateQueries({ queryKey: ["review", run] }))
        .catch((problem: unknown) => {
          gone.current.delete(piece.record_id);
          setError(problem);
          setState((before) => withFront(before, piece, held.current));
        })
        .finally(() => {
          setSaving((n) => n - 1);
          void claim();
        });
    },
    [claim, run],
  );

  const undo = useCallback((): void => {
    setSaving((n) => n + 1);
    change<Decided>("POST", "/reviews/undo", { run: String(run) })
      .then(async (undone) => {
        gone.current.delete(undone.record_id);
        const piece = await get<ReviewPiece>(`/reviews/${undone.record_id}`, { run });
        setState((before) => withFront(before, piece, held.current));
        setError(null);
        void cache.invalidateQueries({ queryKey: ["review", run] });
      })
      .catch(setError)
      .finally(() => setSaving((n) => n - 1));
  }, [run]);

  const jump = useCallback((index: number) => setState((before) => ({ ...before, at: Math.max(0, Math.min(index, before.pieces.length - 1)) })), []);
  const move = useCallback((step: number) => setState((before) => ({ ...before, at: Math.max(0, Math.min(before.at + step, before.pieces.length - 1)) })), []);
  return { ...state, move, jump, decide, undo, saving, claiming, error, forget: () => setError(null), hold };
}
