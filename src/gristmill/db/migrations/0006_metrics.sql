-- Totals of the fleet's counters and histograms. Decision: docs/decisions/0007-metrics.md.

-- What processes have counted since the last fold: they only append, so they never wait for each other.
create table metric_delta (
    name text not null,
    labels text not null,                        -- JSON object with sorted keys
    value float8[] not null,                     -- counter: one number; histogram: one per bucket, then the sum
    at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create table metric (
    name text not null,
    labels text not null,
    value float8[] not null,
    primary key (name, labels)
) with (fillfactor = 50);

-- The newest batch of every process: one whose reply was lost can be sent again and is counted once.
create table metric_source (
    source uuid primary key,
    batch bigint not null,
    at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
