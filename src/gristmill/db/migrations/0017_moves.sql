-- Where this database came from and where it went: docs/concepts/scale.md. The last row counts.

create table move (
    id bigint generated always as identity primary key,
    direction text not null check (direction in ('from', 'to')),
    place text not null,                         -- the other database, without a password
    system text not null,                        -- identity of the other database: of its cluster, and its number there
    begun_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz                         -- null: under way, or broken off; `db move` goes on with it
);
