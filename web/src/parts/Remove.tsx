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
  close: () => void;
}

export function Remove({ path, old, title, about, action, close }: Props): React.ReactNode {
  const remove = useMutation({
    mutationFn: () => change("DELETE", path),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: [old] });
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
