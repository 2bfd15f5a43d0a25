/** What was struck and what was written, word by word: the longest common subsequence. */
export interface Change {
  kind: "same" | "gone" | "new";
  text: string;
}

const MOST = 1200; // words; longer texts are shown as one strike and one insertion

function words(text: string): string[] {
  return text.match(/\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}_'’-]+|[^\s]/gu) ?? [];
}

function push(changes: Change[], kind: Change["kind"], text: string): void {
  const last = changes.at(-1);
  if (last?.kind === kind) last.text += text;
  else changes.push({ kind, text });
}

export function wordDiff(before: string, after: string): Change[] {
  const a = words(before);
  const b = words(after);
  if (a.length > MOST || b.length > MOST) return [{ kind: "gone", text: before }, { kind: "new", text: after }];
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  const at = (i: number, j: number): number => table[i * width + j] ?? 0;
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const changes: Change[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      push(changes, "same", a[i] ?? "");
      i++;
      j++;
    } else if (i < a.length && (j >= b.length || at(i + 1, j) >= at(i, j + 1))) push(changes, "gone", a[i++] ?? "");
    else push(changes, "new", b[j++] ?? "");
  }
  return changes;
}
