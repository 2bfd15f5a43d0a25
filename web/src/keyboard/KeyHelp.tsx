import { Dialog } from "radix-ui";
import { useState } from "react";
import { useWords } from "../words";
import { useKeys, useLayers } from "./keys";

export function KeyName({ keys }: { keys: string }): React.ReactNode {
  const apple = navigator.platform.startsWith("Mac");
  const parts = keys.split(" ").map((part) => part.replace("Mod+k", apple ? "⌘K" : "Ctrl K"));
  return parts.map((part) => <kbd key={part}>{part}</kbd>);
}

export function KeyHelp(): React.ReactNode {
  const say = useWords();
  const [open, setOpen] = useState(false);
  const layers = useLayers();
  useKeys("everywhere", [{ keys: "?", about: say("keys.help"), go: () => setOpen(true) }]);
  const groups = (["here", "everywhere"] as const).map((place) => ({
    place,
    keys: layers.filter((layer) => layer.place === place).flatMap((layer) => layer.keys),
  }));
  return (
    <Dialog.Root open={open} onOpenChange={setOpen}>
      <Dialog.Trigger className="icon-button" title={say("keys.help")}>
        <kbd>?</kbd>
        <span className="hidden-text">{say("keys.help")}</span>
      </Dialog.Trigger>
      <Dialog.Portal>
        <Dialog.Overlay className="veil" />
        <Dialog.Content className="dialog" aria-describedby={undefined}>
          <Dialog.Title className="dialog-title">{say("keys.title")}</Dialog.Title>
          {groups.map(({ place, keys }) =>
            keys.length === 0 ? null : (
              <section key={place} className="key-group">
                <h3>{say(`keys.${place}`)}</h3>
                <dl className="key-list">
                  {keys.map((key) => (
                    <div key={key.keys}>
                      <dt>
                        <KeyName keys={key.keys} />
                      </dt>
                      <dd>{key.about}</dd>
                    </div>
                  ))}
                </dl>
              </section>
            ),
          )}
          <Dialog.Close className="button">{say("keys.close")}</Dialog.Close>
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
