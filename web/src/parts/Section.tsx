/** A titled part of a screen; what stands to the right of the title are its controls. */
import { useId } from "react";

interface Props {
  title: string;
  about?: React.ReactNode;
  side?: React.ReactNode;
  className?: string;
  children: React.ReactNode;
}

export function Section({ title, about, side, className = "", children }: Props): React.ReactNode {
  const id = useId();
  return (
    <section className={`section ${className}`} aria-labelledby={id}>
      <header className="section-head">
        <h2 id={id}>{title}</h2>
        {about !== undefined && <p className="section-about">{about}</p>}
        {side !== undefined && <div className="section-side">{side}</div>}
      </header>
      {children}
    </section>
  );
}

/** One figure under its name; a row of them heads a screen. */
export function Figure({ name, value, note }: { name: string; value: React.ReactNode; note?: React.ReactNode }): React.ReactNode {
  return (
    <div className="figure">
      <dt>{name}</dt>
      <dd>
        <span className="figure-value">{value}</span>
        {note !== undefined && <span className="figure-note">{note}</span>}
      </dd>
    </div>
  );
}

export function Figures({ children }: { children: React.ReactNode }): React.ReactNode {
  return <dl className="figures">{children}</dl>;
}

export function Empty({ title, children }: { title: string; children?: React.ReactNode }): React.ReactNode {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children}
    </div>
  );
}
