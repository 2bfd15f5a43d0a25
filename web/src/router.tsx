/** The addresses of the page. Each screen is a file of its own that is loaded when it is first opened. */
import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { Lost } from "./screens/Lost";
import { Shell } from "./parts/Shell";
import { Trouble } from "./parts/Trouble";

export interface DataSearch {
  run?: number;
  kind?: string;
  filter?: string;
  contains?: string;
  view?: "coverage" | "table" | "shape";
}

export interface ReviewSearch {
  run?: number;
  by?: string;
  view?: "focus" | "grid";
}

function word(value: unknown): string | undefined {
  return typeof value === "string" && value ? value : undefined;
}

function whole(value: unknown): number | undefined {
  const number = Number(value);
  return value !== undefined && Number.isInteger(number) && number > 0 ? number : undefined;
}

function oneOf<T extends string>(value: unknown, allowed: readonly T[]): T | undefined {
  return allowed.find((item) => item === value);
}

/** Leaves out what is not there, so that addresses stay short. */
function present<T extends object>(fields: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

const root = createRootRoute({ component: Shell, notFoundComponent: Lost, errorComponent: ({ error }) => <Trouble error={error} /> });
const at = <P extends string>(path: P) => ({ getParentRoute: () => root, path });

const now = createRoute({ ...at("/"), component: lazyRouteComponent(() => import("./screens/now/Now"), "Now") });
const runs = createRoute({ ...at("/runs"), component: lazyRouteComponent(() => import("./screens/run/Runs"), "Runs") });
const run = createRoute({
  ...at("/runs/$run"),
  component: lazyRouteComponent(() => import("./screens/run/Run"), "Run"),
  validateSearch: (search): { filter?: string } => present({ filter: word(search.filter) }),
});
const task = createRoute({ ...at("/tasks/$task"), component: lazyRouteComponent(() => import("./screens/piece/Piece"), "Piece") });
const record = createRoute({ ...at("/records/$record"), component: lazyRouteComponent(() => import("./screens/piece/Record"), "RecordScreen") });
const crew = createRoute({
  ...at("/crew"),
  component: lazyRouteComponent(() => import("./screens/crew/Crew"), "Crew"),
  validateSearch: (search): { tab?: string } => present({ tab: word(search.tab) }),
});
const review = createRoute({
  ...at("/review"),
  component: lazyRouteComponent(() => import("./screens/review/Review"), "Review"),
  validateSearch: (search): ReviewSearch =>
    present({ run: whole(search.run), by: word(search.by), view: oneOf(search.view, ["focus", "grid"] as const) }),
});
const data = createRoute({
  ...at("/data"),
  component: lazyRouteComponent(() => import("./screens/data/Data"), "Data"),
  validateSearch: (search): DataSearch =>
    present({
      run: whole(search.run), kind: word(search.kind), filter: word(search.filter), contains: word(search.contains),
      view: oneOf(search.view, ["coverage", "table", "shape"] as const),
    }),
});
const start = createRoute({ ...at("/start"), component: lazyRouteComponent(() => import("./screens/start/Start"), "Start") });

export const router = createRouter({
  routeTree: root.addChildren([now, runs, run, task, record, crew, review, data, start]),
  defaultPreload: "intent",
  defaultErrorComponent: ({ error }) => <Trouble error={error} />,
  defaultPendingMs: 200,
  scrollRestoration: true,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
