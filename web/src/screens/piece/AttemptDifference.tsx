/** What one attempt got back otherwise than another, line by line. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { attemptDifferenceQuery } from "../../api/queries";
import type { AttemptRow } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Section } from "../../parts/Section";
import { useWords } from "../../words";

function kindOf(line: string): string {
  if (/^(\+\+\+|---|@@)/.test(line)) return "quiet";
  return line.startsWith("+") ? "diff-new" : line.startsWith("-") ? "diff-gone" : "";
}

export function AttemptDifferencePart({ task, attempts }: { task: number; attempts: readonly AttemptRow[] }): React.ReactNode {
  const say = useWords();
  const ended = attempts.filter((attempt) => attempt.ended_at);
  const [of, setOf] = useState(ended.at(-2)?.n ?? 0);
  const [to, setTo] = useState(ended.at(-1)?.n ?? 0);
  const difference = useQuery({ ...attemptDifferenceQuery(task, of, to), enabled: of !== to });
  const choice = (value: number, set: (n: number) => void, name: string): React.ReactNode => (
    <select value={value} onChange={(event) => set(Number(event.target.value))} aria-label={name}>
      {ended.map((attempt) => (
        <option key={attempt.n} value={attempt.n}>
          {say("piece.attempt", { n: attempt.n })}
        </option>
      ))}
    </select>
  );
  return (
    <Section
      title={say("piece.difference")}
      side={
        <>
          {choice(of, setOf, say("piece.difference.of"))}
          <span aria-hidden="true">→</span>
          {choice(to, setTo, say("piece.difference.to"))}
        </>
      }
    >
      {of === to ? (
        <p className="quiet">{say("piece.difference.same")}</p>
      ) : (
        <Ask query={difference} lines={4}>
          {(answer) =>
            answer.same ? (
              <p className="quiet">{say("piece.difference.same")}</p>
            ) : (
              <>
                <pre className="json diff" tabIndex={0}>
                  {answer.diff.split("\n").map((line, index) => (
                    <span key={index} className={kindOf(line)}>
                      {line}
                      {"\n"}
                    </span>
                  ))}
                </pre>
                {answer.cut && <p className="quiet">{say("piece.call.cut")}</p>}
              </>
            )
          }
        </Ask>
      )}
    </Section>
  );
}
