/** The frame of every screen: name, five links, how fresh the page is, search, keys, language and colours. */
import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useNavigate } from "@tanstack/react-router";
import { useEffect } from "react";
import { worthAnotherTry, needsLogin } from "../api/problems";
import { keepCsrf } from "../api/client";
import { sessionQuery, signOut } from "../api/session";
import { KeyHelp } from "../keyboard/KeyHelp";
import { Search } from "../keyboard/Search";
import { useKeys } from "../keyboard/keys";
import { useLive } from "../live/refresh";
import { Login } from "../screens/Login";
import { useWords, type Word } from "../words";
import { choose, useChoice, type Theme } from "../words/choice";
import { clock } from "../words/numbers";
import { Crash } from "./Crash";

const places = [
  ["/", "nav.now", "n"], ["/runs", "nav.runs", "r"], ["/crew", "nav.crew", "c"], ["/review", "nav.review", "v"], ["/data", "nav.data", "d"],
] as const satisfies readonly (readonly [string, Word, string])[];

function Brand(): React.ReactNode {
  return (
    <Link to="/" className="brand">
      <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
        <circle cx="12" cy="12" r="10.5" fill="currentColor" />
        <path d="M12 8.3V3M15.2 10.2l4.6-2.6M15.2 13.8l4.6 2.6M12 15.7V21M8.8 13.8l-4.6 2.6M8.8 10.2 4.2 7.6" stroke="var(--sheet)" strokeWidth="1.6" strokeLinecap="round" />
        <circle cx="12" cy="12" r="2.4" fill="var(--sheet)" />
      </svg>
      <span>Gristmill</span>
    </Link>
  );
}

function LivePill(): React.ReactNode {
  const say = useWords();
  const { freshness, at } = useLive();
  const word = `live.${freshness}` as Word;
  return (
    <span className={`live live-${freshness}`} role="status" title={say("live.about")}>
      <i aria-hidden="true" />
      {say(word, { at: clock(new Date(at).toISOString(), true) })}
    </span>
  );
}

function Choices(): React.ReactNode {
  const say = useWords();
  const { theme, language } = useChoice();
  const next: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
  const sign: Record<Theme, string> = { system: "◐", light: "○", dark: "●" };
  return (
    <>
      <button type="button" className="icon-button" lang={language === "en" ? "zh" : "en"} onClick={() => choose({ language: language === "en" ? "zh" : "en" })}>
        {say("choice.language")}
      </button>
      <button type="button" className="icon-button" title={`${say("choice.theme")}: ${say(`theme.${theme}`)}`} onClick={() => choose({ theme: next[theme] })}>
        <span aria-hidden="true">{sign[theme]}</span>
        <span className="hidden-text">{`${say("choice.theme")}: ${say(`theme.${theme}`)}`}</span>
      </button>
    </>
  );
}

export function Shell(): React.ReactNode {
  const say = useWords();
  const navigate = useNavigate();
  const session = useQuery({ ...sessionQuery, retry: worthAnotherTry });
  useKeys(
    "everywhere",
    places.map(([to, word, key]) => ({ keys: `g ${key}`, about: say(word), go: () => void navigate({ to }) })),
  );
  useKeys("everywhere", [{ keys: "g s", about: say("nav.start"), go: () => void navigate({ to: "/start" }) }]);
  useEffect(() => keepCsrf(session.data?.csrf ?? ""), [session.data]);
  const locked = needsLogin(session.error);
  return (
    <div className="frame">
      <header className="top">
        <a href="#content" className="skip">
          {say("nav.skip")}
        </a>
        <Brand />
        <nav className="nav" aria-label={say("nav.main")}>
          {places.map(([to, word]) => (
            <Link key={to} to={to} activeOptions={{ exact: to === "/" }} activeProps={{ "aria-current": "page" }}>
              {say(word)}
            </Link>
          ))}
        </nav>
        <div className="top-side">
          <LivePill />
          <Search />
          <KeyHelp />
          <Choices />
          {session.data?.csrf && (
            <button type="button" className="icon-button" onClick={() => void signOut()} title={session.data.name ?? ""}>
              {say("login.out")}
            </button>
          )}
          <Link to="/start" className="button button-main">
            {say("nav.start")}
          </Link>
        </div>
      </header>
      <main className="main" id="content" tabIndex={-1}>
        <Crash>{locked ? <Login /> : <Outlet />}</Crash>
      </main>
    </div>
  );
}
