/** A table to read; a head without a word is that of orders. */
interface TableProps {
  heads: readonly string[];
  rows: readonly (readonly React.ReactNode[])[];
  none: React.ReactNode;
}

export function PlainTable({ heads, rows, none }: TableProps): React.ReactNode {
  if (rows.length === 0) return <p className="quiet section">{none}</p>;
  return (
    <div className="scroll-x section">
      <table className="plain-table wrap-table">
        <thead>
          <tr>
            {heads.map((head, place) => (head ? <th key={place}>{head}</th> : <td key={place} />))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={index}>
              {row.map((cell, place) => (
                <td key={place}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
