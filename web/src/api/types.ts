/** Short names for the shapes that the server declares: a field that is renamed there does not compile here. */
import type { components } from "./schema";

type Shapes = components["schemas"];

export interface Page<T> {
  items: T[];
  next?: string | null;
}

export type Session = Shapes["Session"];
export type Money = Shapes["Money"];
export type RunSummary = Shapes["RunSummary"];
export type RunDetail = Shapes["RunDetail"];
export type Stage = Shapes["Stage"];
export type Flow = Shapes["Flow"];
export type Failures = Shapes["Failures"];
export type Cause = Shapes["Cause"];
export type Difference = Shapes["Difference"];
export type Held = Shapes["Held"];
export type Throughput = Shapes["Throughput"];
export type EventMark = Throughput["marks"][number];
export type NewRun = Shapes["NewRun"];
export type Plan = Shapes["Plan"];
export type Worker = Shapes["Worker"];
export type Pool = Shapes["Pool"];
export type TaskRow = Shapes["TaskRow"];
export type Story = Shapes["Story"];
export type AttemptRow = Shapes["AttemptRow"];
export type CallRow = Shapes["CallRow"];
export type Thread = Shapes["Thread"];
export type TaskDetail = Shapes["TaskDetail"];
export type RecordDetail = Shapes["RecordDetail"];
export type Lineage = Shapes["Lineage"];
export type RecordRow = Shapes["RecordRow"];
export type CoverageRow = Shapes["CoverageRow"];
export type Cell = Shapes["Cell"];
export type Histogram = Shapes["Histogram"];
export type DocumentText = Shapes["DocumentText"];
export type Workers = Shapes["Workers"];
export type Pools = Shapes["Pools"];
export type Lanes = Shapes["Lanes"];
export type Lane = Shapes["Lane"];
export type Crews = Shapes["Crews"];
export type CrewState = Shapes["Crew"];
export type Sentence = Shapes["Sentence"];
export type Limit = Shapes["Limit"];
export type Limits = Shapes["Limits"];
export type LimitChange = Shapes["LimitChange"];
export type Budget = Shapes["Budget"];
export type Budgets = Shapes["Budgets"];
export type Models = Shapes["Models"];
export type Locks = Shapes["Locks"];
export type Schedules = Shapes["Schedules"];
export type SettingList = Shapes["SettingList"];
export type Packs = Shapes["Packs"];
export type Upload = Shapes["Upload"];
export type WorkflowInfo = Shapes["WorkflowInfo"];
export type FormatInfo = Shapes["FormatInfo"];
export type ExportOptions = Shapes["ExportOptions"];
export type ExportState = Shapes["ExportState"];
export type Preview = Shapes["Preview"];
export type ReviewPiece = Shapes["ReviewPiece"];
export type ReviewSource = ReviewPiece["source"];
export type ReviewFigures = Shapes["ReviewFigures"];
export type Decision = Shapes["Decision"];
export type Decided = Shapes["Decided"];
export type EditorTask = Shapes["Editor"];
export type Overview = Shapes["Overview"];
