/** Catches what breaks below it, so that one part of a screen cannot blank the page. */
import { Component } from "react";
import { sayIn } from "../words";
import { currentChoice } from "../words/choice";

interface State {
  error: Error | null;
}

export class Crash extends Component<{ children: React.ReactNode }, State> {
  override state: State = { error: null };

  static getDerivedStateFromError(error: Error): State {
    return { error };
  }

  override render(): React.ReactNode {
    const { error } = this.state;
    if (!error) return this.props.children;
    const { language } = currentChoice();
    return (
      <div className="trouble" role="alert">
        <p className="trouble-title">{sayIn(language, "crash.title")}</p>
        <p>{sayIn(language, "crash.hint")}</p>
        <pre className="trouble-text">{`${error.name}: ${error.message}`}</pre>
      </div>
    );
  }
}
