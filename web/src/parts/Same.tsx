/** "The same from a terminal": every screen offers its command line and its curl. */
import { useState } from "react";
import { address, type Query } from "../api/client";
import { useWords } from "../words";

function Line({ command }: { command: string }): React.ReactNode {
  const say = useWords();
  const [copied, setCopied] = useState(false);
  const copy = (): void => {
    void navigator.clipboard?.writeText(command).then(() => {
      setCopied(true);
      setTimeout(() => setCopied(false), 1500);
    });
  };
  return (
    <li>
      <code className="clip" title={command}>
        {command}
      </code>
      <button type="button" className="link-button" onClick={copy} aria-label={`${say("same.copy")}: ${command}`}>
        {say(copied ? "same.copied" : "same.copy")}
      </button>
    </li>
  );
}

interface Props {
  commands: readonly string[];
  path: string;
  query?: Query;
  body?: unknown; // of a POST
}

export function Same({ commands, path, query, body }: Props): React.ReactNode {
  const say = useWords();
  const json = body === undefined ? "" : ` --json '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
  const curl = `curl '${location.origin}${address(path, query)}'${json}`;
  return (
    <footer className="same">
      <h2>{say("same.title")}</h2>
      <ul>
        {[...new Set([...commands, curl])].map((command) => (
          <Line key={command} command={command} />
        ))}
      </ul>
    </footer>
  );
}
