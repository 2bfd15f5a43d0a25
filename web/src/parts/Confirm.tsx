/** A dialog that says exactly what will happen before it happens. */
import { AlertDialog } from "radix-ui";
import { useWords } from "../words";

interface Props {
  open: boolean;
  setOpen: (open: boolean) => void;
  title: string;
  action: string;
  cancel?: string; // where "Cancel" could be read as what is done
  go: () => void;
  disabled?: boolean;
  stay?: boolean; // the caller closes it, when the server has agreed
  children?: React.ReactNode;
}

export function Confirm({ open, setOpen, title, action, cancel, go, disabled = false, stay = false, children }: Props): React.ReactNode {
  const say = useWords();
  return (
    <AlertDialog.Root open={open} onOpenChange={setOpen}>
      <AlertDialog.Portal>
        <AlertDialog.Overlay className="veil" />
        <AlertDialog.Content className="dialog">
          <AlertDialog.Title className="dialog-title">{title}</AlertDialog.Title>
          <AlertDialog.Description asChild>
            <div className="dialog-body">{children}</div>
          </AlertDialog.Description>
          <div className="row-end">
            <AlertDialog.Cancel className="button">{cancel ?? say("cancel")}</AlertDialog.Cancel>
            <AlertDialog.Action
              className="button button-main"
              disabled={disabled}
              onClick={(event) => {
                if (stay) event.preventDefault();
                go();
              }}
            >
              {action}
            </AlertDialog.Action>
          </div>
        </AlertDialog.Content>
      </AlertDialog.Portal>
    </AlertDialog.Root>
  );
}
