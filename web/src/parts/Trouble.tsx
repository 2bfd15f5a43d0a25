/** An error in the server's own words: what, where, what to do, what is safe. */
import { Problem } from "../api/client";
import { useWords } from "../words";

export function Trouble({ error, again }: { error: unknown; again?: () => void }): React.ReactNode {
  const say = useWords();
  const problem = error instanceof Problem ? error : new Problem(-1, say("problem.title"), String(error), "", "", "");
  const offline = problem.status === 0;
  const missing = problem.status === 404 && (!problem.code || problem.detail === "there is no such address");
  const title = offline ? say("problem.offline") : missing ? say("problem.missing") : problem.detail || problem.title || say("problem.title");
  const hint = offline ? say("problem.offline.hint") : missing ? say("problem.missing.hint") : problem.hint;
  return (
    <div className="trouble" role="alert">
      <p className="trouble-title">
        {title}
        {problem.code && !missing && <code className="trouble-code">{problem.code}</code>}
      </p>
      {hint && (
        <p className="trouble-line">
          <span>{say("problem.try")}</span> {hint}
        </p>
      )}
      {problem.safe && (
        <p className="trouble-line">
          <span>{say("problem.safe")}</span> {problem.safe}
        </p>
      )}
      {again && (
        <button type="button" className="button" onClick={again}>
          {say("problem.again")}
        </button>
      )}
    </div>
  );
}
