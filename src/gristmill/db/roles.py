"""Roles with least privilege for a server of one's own: what a worker, the API and a reader may do, as SQL to apply.

They are group roles without login: `create user w1 password '...' in role gristmill_worker`. Whoever migrates owns the
schema and is none of them.
"""

from __future__ import annotations

from gristmill.db.database import SCHEMA

PRIVATE = ("api_token", "api_session", "api_audit", "api_answer")  # who may call the API, and what was answered
ROLES = {
    "gristmill_worker": "claims, performs and settles tasks; nothing of the API's access",
    "gristmill_api": "all that the API and the command line do; no change of the schema",
    "gristmill_reader": "reads, for dashboards and KEDA; nothing of the API's access, no answers of models",
}


def grants() -> str:
    """SQL for psql, as the owner of the schema; may be applied again, and after each migration that adds tables."""
    private = ", ".join(f"{SCHEMA}.{name}" for name in PRIVATE)
    lines = [f"-- {name}: {what}" for name, what in ROLES.items()]
    lines.append("do $$ begin")
    lines += [
        f"  if not exists (select from pg_roles where rolname = '{name}') then create role {name} nologin; end if;"
        for name in ROLES
    ]
    lines.append("end $$;")
    for name in ROLES:
        lines += [f"revoke all on all tables in schema {SCHEMA} from {name};",
                  f"revoke all on all functions in schema {SCHEMA} from {name};",
                  f"grant usage on schema {SCHEMA} to {name};"]  # fmt: skip
    for name in ("gristmill_worker", "gristmill_api"):
        lines += [
            f"grant select, insert, update, delete on all tables in schema {SCHEMA} to {name};",
            f"grant usage on all sequences in schema {SCHEMA} to {name};",
            f"grant execute on all functions in schema {SCHEMA} to {name};",
            f"revoke insert, update, delete on {SCHEMA}.schema_migration, {SCHEMA}.move from {name};",
        ]
    lines += [
        f"revoke all on {private} from gristmill_worker;",
        # Who may write there may run programs on workers that take packs from the database.
        f"revoke insert, update, delete on {SCHEMA}.pack, {SCHEMA}.pack_file from gristmill_worker;",
        f"grant select on all tables in schema {SCHEMA} to gristmill_reader;",
        f"revoke all on {private}, {SCHEMA}.call from gristmill_reader;",
    ]
    return "\n".join(lines) + "\n"
