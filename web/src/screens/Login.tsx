/** Asks for a token where the server wants one. */
import { useState } from "react";
import { signIn } from "../api/session";
import { Trouble } from "../parts/Trouble";
import { useWords } from "../words";

export function Login(): React.ReactNode {
  const say = useWords();
  const [token, setToken] = useState("");
  const [error, setError] = useState<unknown>(null);
  const submit = (event: React.FormEvent): void => {
    event.preventDefault();
    setError(null);
    signIn(token.trim()).catch(setError);
  };
  return (
    <form className="empty" onSubmit={submit}>
      <h1 className="empty-title">{say("login.title")}</h1>
      <p>{say("login.hint")}</p>
      <div className="row" style={{ marginTop: 16 }}>
        <label className="field">
          {say("login.token")}
          <input type="password" autoComplete="current-password" value={token} onChange={(event) => setToken(event.target.value)} size={44} autoFocus />
        </label>
      </div>
      <div className="row" style={{ marginTop: 12 }}>
        <button type="submit" className="button button-main" disabled={!token.trim()}>
          {say("login.go")}
        </button>
      </div>
      {error !== null && <Trouble error={error} />}
    </form>
  );
}
