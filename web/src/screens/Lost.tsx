import { Link } from "@tanstack/react-router";
import { Empty } from "../parts/Section";
import { useWords } from "../words";

export function Lost(): React.ReactNode {
  const say = useWords();
  return (
    <Empty title={say("lost.title")}>
      <Link to="/" className="link">
        {say("nav.now")}
      </Link>
    </Empty>
  );
}
