/** What a newcomer sees: what a run is, and the two ways to begin one. */
import { Link } from "@tanstack/react-router";
import { Empty } from "../../parts/Section";
import { useWords } from "../../words";

export function FirstRun(): React.ReactNode {
  const say = useWords();
  return (
    <Empty title={say("now.empty.title")}>
      <p>{say("now.empty.what")}</p>
      <p>
        <Link to="/start" className="button button-main">
          {say("nav.start")}
        </Link>
      </p>
      <p>
        {say("now.empty.how")}
        <br />
        <code>gristmill run docs/handbook --workflow qa --model extractive</code>
      </p>
    </Empty>
  );
}
