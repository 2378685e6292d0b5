-- Give roles the rights again that they had before an upgrade. A role that could use the log, and so
-- call `hello`, may also call what is new; any other has the functions that it had.

do $$
declare
  r record;
  v_entries text[] := string_to_array(current_setting('flowstream.entries'), ' ');
begin
  for r in
    select distinct p.oid::regprocedure as function, g.role, g.passes_on
    from jsonb_to_recordset(current_setting('flowstream.grants')::jsonb)
      as g(function text, role text, passes_on boolean)
    join pg_proc p on p.pronamespace = 'flowstream'::regnamespace
      and (p.proname = g.function or g.function = 'hello' and p.proname = any(v_entries))
  loop
    execute format('grant execute on function %s to %s', r.function, r.role)
      || case when r.passes_on then ' with grant option' else '' end;
  end loop;
end $$;
