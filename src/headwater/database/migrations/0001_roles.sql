-- The roles. They belong to the whole database cluster, so they may exist already.
--   headwater_app       API, gateways, workers: plain, sees one tenant at a time through row-level security
--   headwater_writer    the store: COPY is refused under row-level security, so it bypasses it, and may touch telemetry only
--   headwater_operator  the platform operator's plane: tenants and quotas, across tenants
--   headwater_lookup    owns the functions that find a tenant by a credential; nobody logs in as it
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('headwater_app', 'LOGIN NOBYPASSRLS'),
            ('headwater_writer', 'LOGIN BYPASSRLS'),
            ('headwater_operator', 'LOGIN BYPASSRLS'),
            ('headwater_lookup', 'NOLOGIN BYPASSRLS')
        ) AS role(name, options)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I %s NOSUPERUSER NOCREATEDB NOCREATEROLE', wanted.name, wanted.options);
        END IF;
    END LOOP;
    EXECUTE format('GRANT headwater_lookup TO %I', current_user);
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA IF NOT EXISTS headwater;
GRANT USAGE ON SCHEMA headwater TO headwater_app, headwater_writer, headwater_operator, headwater_lookup;
