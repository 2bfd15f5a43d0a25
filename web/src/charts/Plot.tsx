/** A time chart of stacked bands with marks for events; uPlot draws it, the words below say it. */
import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useShownTheme } from "../words/choice";
import { count } from "../words/numbers";
import { colour } from "./paint";

export interface Band {
  name: string;
  values: readonly number[];
  fill: string;
  hatch?: boolean;
}

export interface Mark {
  at: number; // seconds
  text: string;
  tone: "failed" | "paused" | "ink-2";
}

interface Props {
  label: string;
  times: readonly number[]; // seconds
  bands: readonly Band[]; // from the bottom up
  marks?: readonly Mark[];
  height: number;
  stepped?: boolean;
}

/** Sums from the bottom: uPlot draws each band down to the sum below it. */
function stacked(bands: readonly Band[], length: number): number[][] {
  let below = new Array<number>(length).fill(0);
  return bands.map((band) => (below = below.map((sum, index) => sum + (band.values[index] ?? 0))));
}

function hatch(fill: string, paper: string): CanvasPattern | string {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  if (!pen) return fill;
  pen.fillStyle = fill;
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = paper;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return pen.createPattern(tile, "repeat") ?? fill;
}

/** Draws a line for each event, with its words where there is room for them. */
function marksPlugin(marks: readonly Mark[]): uPlot.Plugin {
  return {
    hooks: {
      draw: (plot) => {
        const { ctx, bbox } = plot;
        const ratio = devicePixelRatio;
        ctx.save();
        ctx.font = `${11 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
        ctx.textBaseline = "top";
        ctx.textAlign = "left";
        const rows = [-Infinity, -Infinity, -Infinity];
        const shown = marks
          .map((mark) => ({ ...mark, x: Math.round(plot.valToPos(mark.at, "x", true)) }))
          .filter(({ x }) => x >= bbox.left && x <= bbox.left + bbox.width);
        ctx.lineWidth = ratio;
        ctx.setLineDash([3 * ratio, 3 * ratio]);
        for (const { x, tone } of shown) {
          ctx.strokeStyle = colour(tone);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
        }
        for (const { x, tone, text } of shown) {
          const width = ctx.measureText(text).width;
          const left = Math.min(x + 4 * ratio, bbox.left + bbox.width - width);
          const row = rows.findIndex((end) => end < left - 8 * ratio);
          if (row < 0) continue;
          rows[row] = left + width;
          const top = bbox.top + (2 + row * 15) * ratio;
          ctx.globalAlpha = 0.88;
          ctx.fillStyle = colour("paper");
          ctx.fillRect(left - 2 * ratio, top - ratio, width + 4 * ratio, 14 * ratio);
          ctx.globalAlpha = 1;
          ctx.fillStyle = colour(tone);
          ctx.fillText(text, left, top);
        }
        ctx.restore();
      },
    },
  };
}

function options(props: Props, width: number): uPlot.Options {
  const { bands, marks = [], height, stepped } = props;
  const line = colour("rule");
  const axis = { stroke: colour("ink-3"), font: `11px ${getComputedStyle(document.body).fontFamily}`, ticks: { show: false } };
  const paper = colour("sheet");
  const paths = stepped ? uPlot.paths.stepped?.({ align: 1 }) : uPlot.paths.linear?.();
  const fills = bands.map((band) => (band.hatch ? hatch(band.fill, paper) : band.fill));
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
    padding: [4, 20, 0, 0],
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 70, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800], values: [
        [3600 * 24, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1],
        [3600, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, null, null, null, null, 1],
        [60, "{HH}:{mm}", null, null, null, null, null, null, 1],
        [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1],
      ] },
      { ...axis, grid: { stroke: line, width: 1 }, size: 52, space: 34, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) },
    ],
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(1, most * 1.04)] } },
    series: [
      {},
      ...bands.map((band, index) => ({
        label: band.name,
        stroke: band.fill,
        width: 1,
        fill: () => fills[index] ?? band.fill,
        points: { show: false },
        ...(paths ? { paths } : {}),
      })).reverse(),
    ],
    plugins: [marksPlugin(marks)],
  };
}

export function Plot(props: Props): React.ReactNode {
  const place = useRef<HTMLDivElement>(null);
  const told = useRef<HTMLDivElement>(null);
  const theme = useShownTheme();
  const { label, times, bands, height } = props;
  const shape = `${theme}|${height}|${bands.map((band) => band.name + band.fill).join()}|${props.marks?.map((mark) => mark.at + mark.text).join()}`;
  const plot = useRef<uPlot | null>(null);
  const current = useRef(props);
  current.current = props;

  useEffect(() => {
    const host = place.current;
    if (!host) return;
    const drawn = new uPlot(options(current.current, host.clientWidth), dataOf(current.current), host);
    plot.current = drawn;
    drawn.root.addEventListener("mousemove", () => tell(drawn, current.current, told.current));
    const sized = new ResizeObserver(() => drawn.setSize({ width: host.clientWidth, height }));
    sized.observe(host);
    return () => {
      sized.disconnect();
      drawn.destroy();
      plot.current = null;
    };
  }, [shape, height]);
  useEffect(() => {
    plot.current?.setData(dataOf(current.current));
  }, [times, bands]);
  return (
    <figure className="plot" aria-label={label}>
      <div ref={place} className="plot-place" style={{ minHeight: height }} />
      <div ref={told} className="plot-told" aria-hidden="true" />
    </figure>
  );
}

/** The highest sum is drawn first, so that the lower ones lie on top of it. */
function dataOf({ times, bands }: Props): uPlot.AlignedData {
  return [[...times], ...stacked(bands, times.length).reverse()] as uPlot.AlignedData;
}

function tell(plot: uPlot, { bands, times }: Props, place: HTMLElement | null): void {
  const index = plot.cursor.idx;
  if (!place) return;
  if (index === null || index === undefined) {
    place.textContent = "";
    return;
  }
  const at = times[index];
  const time = at === undefined ? "" : new Date(at * 1000).toLocaleTimeString("en-GB");
  const parts = bands.filter((band) => (band.values[index] ?? 0) > 0).map((band) => `${band.name} ${count(band.values[index])}`);
  place.textContent = [time, ...parts].join("   ");
}
