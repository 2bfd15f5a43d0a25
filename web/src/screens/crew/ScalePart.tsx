/** How many workers of each kind a supervisor keeps alive; and those it has given up. */
import { useMutation, useQuery } from "@tanstack/react-query";
import { cache } from "../../api/cache";
import { change } from "../../api/client";
import { crewQuery } from "../../api/crewQueries";
import type { CrewState } from "../../api/types";
import { Ask } from "../../parts/Ask";
import { Shape } from "../../parts/Mark";
import { Section } from "../../parts/Section";
import { Trouble } from "../../parts/Trouble";
import { useWords } from "../../words";

function specsOf(crew: CrewState): { spec: string; n: number; set: boolean }[] {
  const workers = crew.places.filter((place) => place.kind === "worker");
  const specs = new Set([...workers.map((place) => place.spec), ...Object.keys(crew.scale)]);
  return [...specs].sort().map((spec) => ({
    spec,
    n: crew.scale[spec] ?? workers.filter((place) => place.spec === spec && !["stopped", "disabled", "blacklisted"].includes(place.standing)).length,
    set: spec in crew.scale,
  }));
}

function One({ crew }: { crew: CrewState }): React.ReactNode {
  const say = useWords();
  const scale = useMutation({
    mutationFn: ({ spec, n }: { spec: string; n: number | null }) => change("POST", "/crew/scale", { spec, count: n, crew: crew.name }),
    onSuccess: () => cache.invalidateQueries({ queryKey: ["crew"] }),
  });
  const lost = crew.places.filter((place) => place.standing === "blacklisted");
  return (
    <>
      <ul className="scale">
        {specsOf(crew).map(({ spec, n, set }) => (
          <li key={spec}>
            <span className="clip">{spec}</span>
            <span className="stepper">
              <button type="button" aria-label={say("crew.scale.fewer", { spec })} disabled={n <= 0} onClick={() => scale.mutate({ spec, n: n - 1 })}>
                −
              </button>
              <b aria-live="polite">{n}</b>
              <button type="button" aria-label={say("crew.scale.more", { spec })} disabled={n >= crew.most} onClick={() => scale.mutate({ spec, n: n + 1 })}>
                +
              </button>
            </span>
            {set && (
              <button type="button" className="link-button" onClick={() => scale.mutate({ spec, n: null })}>
                {say("crew.scale.settings")}
              </button>
            )}
          </li>
        ))}
      </ul>
      {lost.map((place) => (
        <p key={place.name} className="lost-place">
          <Shape state="blacklisted" /> {place.name}: {say("crew.blacklisted", { n: place.deaths, cause: place.cause ?? "–" })}
        </p>
      ))}
      {crew.problem && <p className="tone-failed">{crew.problem}</p>}
      {scale.error && <Trouble error={scale.error} />}
    </>
  );
}

export function ScalePart(): React.ReactNode {
  const say = useWords();
  const crews = useQuery(crewQuery);
  return (
    <Section title={say("crew.scale")} about={say("crew.scale.about")}>
      <Ask query={crews}>
        {(answer) => {
          const held = answer.items.filter((crew) => crew.held);
          if (held.length === 0) {
            return (
              <p className="quiet">
                {say("crew.scale.none")} <code>gristmill up</code>
              </p>
            );
          }
          return held.map((crew) => <One key={crew.name} crew={crew} />);
        }}
      </Ask>
    </Section>
  );
}
