/** Swim-lanes: one per worker, what it was at in each moment; a death says so in words. */
import type { Lane, Lanes } from "../api/types";
import { sayKnown, useWords } from "../words";
import { clock, duration } from "../words/numbers";

const KINDS = ["work", "quota", "idle", "paused", "late", "dead"] as const;
const percent = (part: number): string => `${(part * 100).toFixed(3)}%`;

function Row({ lane, since, length }: { lane: Lane; since: number; length: number }): React.ReactNode {
  const say = useWords();
  const words = lane.segments
    .filter((segment) => segment.what !== "idle")
    .slice(-4)
    .map((segment) => `${sayKnown(say, "lane", segment.what)} ${duration((Date.parse(segment.until) - Date.parse(segment.since)) / 1000)}`)
    .join(", ");
  return (
    <li className="lane">
      <span className="lane-name clip" title={lane.name}>
        {lane.name}
      </span>
      <div className="lane-line" role="img" aria-label={`${lane.name}: ${words || sayKnown(say, "lane", "idle")}`}>
        {lane.segments.map((segment) => {
          const from = (Date.parse(segment.since) - since) / length;
          const width = (Date.parse(segment.until) - Date.parse(segment.since)) / length;
          const told = `${clock(segment.since, true)} – ${clock(segment.until, true)}: ${sayKnown(say, "lane", segment.what)}${segment.tasks ? `, ${say("crew.lane.tasks", { n: segment.tasks })}` : ""}`;
          return (
            <i key={segment.since} className={`lane-part lane-${segment.what}`} style={{ left: percent(from), width: percent(width) }} title={told}>
              {segment.what === "dead" && width > 0.06 && <b>{lane.cause ?? sayKnown(say, "lane", "dead")}</b>}
            </i>
          );
        })}
      </div>
    </li>
  );
}

export function LaneRows({ lanes }: { lanes: Lanes }): React.ReactNode {
  const say = useWords();
  const since = Date.parse(lanes.since);
  const length = Math.max(1, Date.parse(lanes.until) - since);
  return (
    <div className="lanes">
      <ol>
        {lanes.items.map((lane) => (
          <Row key={lane.worker} lane={lane} since={since} length={length} />
        ))}
      </ol>
      <div className="lane-axis" aria-hidden="true">
        <span>{say("crew.lanes.ago")}</span>
        <span>{say("time.now")}</span>
      </div>
      <div className="legend">
        {KINDS.map((kind) => (
          <span key={kind}>
            <i className={`lane-part lane-${kind} lane-sign`} aria-hidden="true" />
            {sayKnown(say, "lane", kind)}
          </span>
        ))}
      </div>
    </div>
  );
}
