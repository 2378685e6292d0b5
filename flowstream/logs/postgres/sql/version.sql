-- The version of the schema. A worker checks it when it connects. It is made last, so that a schema
-- that is not whole has none.

create or replace function flowstream.version() returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 2 $$;
