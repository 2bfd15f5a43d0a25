/** What a newcomer sees: what a run is, and the two ways to begin one. */
import { NoRun } from "../../parts/RunChoice";
import { useWords } from "../../words";

export function FirstRun(): React.ReactNode {
  const say = useWords();
  return <NoRun title={say("now.empty.title")} about={say("now.empty.what")} />;
}
