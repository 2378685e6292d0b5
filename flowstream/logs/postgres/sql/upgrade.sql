-- What another release has made here. A later one's is left as it is. Of an earlier one all
-- functions are dropped, since the columns that one returns can't be replaced; what comes behind
-- this makes them again, in the same transaction. Who may call them is kept until then in a setting,
-- and given again by `grants`. Functions of triggers stay: they have no columns, and to drop one
-- would lock its table.

do $$
declare
  v_makes int := current_setting('flowstream.makes')::int;
  v_there int;
  v_function text;
begin
  perform set_config('flowstream.grants', '[]', true);
  if to_regprocedure('flowstream.version()') is not null then
    execute 'select flowstream.version()' into v_there;
  end if;
  if v_there > v_makes then
    raise exception 'the log was made by a later release of flowstream (version % of the schema, this one makes %): install that release',
      v_there, v_makes using errcode = 'object_not_in_prerequisite_state';
  elsif v_there = v_makes then
    return;
  end if;
  perform set_config('flowstream.grants', (
    select coalesce(jsonb_agg(jsonb_build_object('function', p.proname,
        'role', a.grantee::regrole::text, 'passes_on', a.is_grantable)), '[]')::text
    from pg_proc p, aclexplode(p.proacl) a
    where p.pronamespace = 'flowstream'::regnamespace and a.privilege_type = 'EXECUTE'
      and a.grantee not in (0, p.proowner)), true);
  for v_function in select oid::regprocedure from pg_proc
      where pronamespace = 'flowstream'::regnamespace and prorettype <> 'trigger'::regtype loop
    execute 'drop function ' || v_function;
  end loop;
end $$;
