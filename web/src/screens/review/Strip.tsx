/** How the review goes, in one line: what is open, people's pace, agreement, and what is being saved. */
import { useQuery } from "@tanstack/react-query";
import { reviewStatsQuery } from "../../api/queries";
import { Bar } from "../../parts/Bar";
import { useWords } from "../../words";
import { count, percent } from "../../words/numbers";

export function Strip({ run, saving }: { run: number; saving: number }): React.ReactNode {
  const say = useWords();
  const stats = useQuery(reviewStatsQuery(run));
  const { states = {}, total = 0, open = 0, reviewers = [], agreement } = stats.data ?? {};
  return (
    <div className="strip">
      <div className="strip-bar">
        <Bar
          parts={[
            { state: "accepted", value: states.accepted ?? 0 },
            { state: "reviewed", value: states.edited ?? 0 },
            { state: "rejected", value: states.rejected ?? 0 },
            { state: "skipped", value: states.skipped ?? 0 },
          ]}
          total={total}
        />
      </div>
      <span>
        <b>{count(open)}</b> {say("review.open")} <span className="quiet">/ {count(total)}</span>
      </span>
      {reviewers.slice(0, 4).map((each) => (
        <span key={each.reviewer}>
          {each.reviewer} <b>{count(each.decided)}</b>
          {each.per_hour ? <span className="quiet"> {say("review.pace", { n: count(Math.round(each.per_hour)) })}</span> : null}
        </span>
      ))}
      {agreement && agreement.pieces > 0 && (
        <span>
          {say("review.agreement")} <b>{percent(agreement.percent === null || agreement.percent === undefined ? null : agreement.percent > 1 ? agreement.percent / 100 : agreement.percent)}</b>
          <span className="quiet"> {say("review.agreement.of", { n: count(agreement.pieces) })}</span>
        </span>
      )}
      <span className="strip-saving" role="status">
        {saving > 0 ? say("review.saving", { n: saving }) : say("review.saved")}
      </span>
    </div>
  );
}
