-- Models under names of the user's own. A row says where a key is, never what it is.

create table model_binding (
    project text not null,
    name text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$'),
    settings jsonb not null check (
        jsonb_typeof(settings) = 'object' and octet_length(settings::text) <= 65536
        and coalesce(settings ->> 'key', 'env:') ~ '^(env|file|secret):'
    ),
    changed_at timestamptz not null default clock_timestamp(),
    primary key (project, name)
);
