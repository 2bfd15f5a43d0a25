/** How values are spread: columns for numbers, lines for labels. Every column says its range and its count. */
import type { Histogram } from "../api/types";
import { count } from "../words/numbers";

const HEIGHT = 120;

function figure(value: number): string {
  return Number.isInteger(value) ? count(value) : value.toFixed(Math.abs(value) < 1 ? 2 : 1);
}

export function Bins({ histogram, label }: { histogram: Histogram; label: string }): React.ReactNode {
  if (histogram.labels.length > 0) {
    const most = Math.max(...histogram.labels.map((item) => item.n));
    return (
      <table className="plain-table labels" aria-label={label}>
        <tbody>
          {histogram.labels.map((item) => (
            <tr key={item.label}>
              <td className="clip label-name">{item.label}</td>
              <td className="run-bar">
                <div className="bar bar-thin" aria-hidden="true">
                  <span className="bar-fill bar-running" style={{ width: `${(item.n / most) * 100}%` }} />
                </div>
              </td>
              <td className="number">{count(item.n)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    );
  }
  const most = Math.max(1, ...histogram.bins.map((bin) => bin.n));
  return (
    <ol className="bins" aria-label={label} style={{ height: HEIGHT + 20 }}>
      {histogram.bins.map((bin, index) => {
        const range = `${figure(bin.low)} – ${figure(bin.high)}: ${count(bin.n)}`;
        return (
          <li key={bin.low} title={range}>
            <span className="hidden-text">{range}</span>
            <i style={{ height: bin.n === 0 ? 1 : Math.max(3, (bin.n / most) * HEIGHT) }} aria-hidden="true" />
            <b aria-hidden="true">{index % Math.ceil(histogram.bins.length / 6) === 0 ? figure(bin.low) : ""}</b>
          </li>
        );
      })}
    </ol>
  );
}
