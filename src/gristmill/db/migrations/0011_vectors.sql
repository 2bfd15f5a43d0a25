-- The search index: one row for each chunk and model. Only where the server has the extension `vector` (the embedded one
-- does). Elsewhere nothing is made; the first step "index" runs this text again.
do $$
begin
    if not exists (select from pg_available_extensions where name = 'vector') then
        return;
    end if;
    create extension if not exists vector with schema public;
    create table if not exists vector_entry (
        chunk_id bigint not null,               -- record; whether it belongs to a run stands in run_record
        model text not null,                    -- that made the vector: only vectors of one model can be compared
        embedding vector not null,
        words tsvector not null,
        primary key (chunk_id, model)
    );
    create index if not exists vector_entry_words on vector_entry using gin (words);
exception
    when insufficient_privilege or undefined_object or invalid_schema_name then
        raise notice 'no search index: %', sqlerrm;
end
$$;
