/** Takes something away after saying what that means. */
import { useMutation } from "@tanstack/react-query";
import { cache } from "../api/cache";
import { change } from "../api/client";
import { Confirm } from "./Confirm";
import { Trouble } from "./Trouble";

interface Props {
  path: string; // of what is removed
  old: string; // the queries that are old then
  title: string;
  about: string;
  action: string;
  done?: () => void; // it is gone; also the caller's close() is called then
  close: () => void;
}

export function Remove({ path, old, title, about, action, done, close }: Props): React.ReactNode {
  const remove = useMutation({
    mutationFn: () => change("DELETE", path),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: [old] });
      done?.();
      close();
    },
  });
  return (
    <Confirm open stay setOpen={(open) => !open && close()} title={title} action={action} go={() => remove.mutate()} disabled={remove.isPending}>
      <p>{about}</p>
      {remove.error && <Trouble error={remove.error} />}
    </Confirm>
  );
}
