/** Files by drop, by dialog or as a folder. */
import { useRef, useState } from "react";
import { useWords } from "../../words";
import { bytes, count } from "../../words/numbers";

const SHOWN = 8;

interface Props {
  files: readonly File[];
  setFiles: (files: readonly File[]) => void;
  children: React.ReactNode; // what can be done with those that are chosen
}

export function FileDrop({ files, setFiles, children }: Props): React.ReactNode {
  const say = useWords();
  const input = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const [over, setOver] = useState(false);
  const add = (more: FileList | null): void => {
    if (more && more.length > 0) setFiles([...files, ...more]);
  };
  const size = files.reduce((sum, file) => sum + file.size, 0);
  return (
    <div
      className={`drop ${over ? "drop-over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        add(event.dataTransfer.files);
      }}
    >
      <p className="row">
        {say("start.files.drop")}
        <button type="button" className="button" onClick={() => input.current?.click()}>
          {say("start.files.choose")}
        </button>
        <button type="button" className="button" onClick={() => folder.current?.click()}>
          {say("start.files.folder")}
        </button>
      </p>
      <input ref={input} type="file" multiple hidden data-files onChange={(event) => add(event.target.files)} />
      <input ref={folder} type="file" multiple hidden {...{ webkitdirectory: "" }} onChange={(event) => add(event.target.files)} />
      {files.length > 0 && (
        <>
          <ul className="drop-list">
            {files.slice(0, SHOWN).map((file, index) => (
              <li key={`${file.name}-${index}`}>
                <span className="clip">{file.webkitRelativePath || file.name}</span>
                <span className="quiet number">{bytes(file.size)}</span>
                <button type="button" className="link-button" aria-label={say("start.files.remove", { name: file.name })} onClick={() => setFiles(files.filter((other) => other !== file))}>
                  ✕
                </button>
              </li>
            ))}
          </ul>
          <p className="row">
            <b>{say("start.files.n", { n: files.length === 1 ? 1 : count(files.length), size: bytes(size) })}</b>
            <button type="button" className="link-button" onClick={() => setFiles([])}>
              {say("start.files.clear")}
            </button>
            {children}
          </p>
        </>
      )}
    </div>
  );
}
