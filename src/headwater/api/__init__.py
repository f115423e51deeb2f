"""The control API: REST under `/api/v1`, problem+json, OpenAPI 3.1.

How to add a noun (copy `tokens.py`):

1. `api/<noun>.py`: Litestar handlers as module-level functions and, at its end,
   `NOUN = Noun(tag, description, handlers, build)`. `build(services: APIServices)` makes the noun's services once and
   names the handler parameters that get them. A task or subscription that must run beside it: `Noun(lifespan=...)`.
2. `api/routes.py`: append `<noun>.NOUN`.
3. Each handler's decorator says, besides path and `operation_id` (camelCase, never changed later):
     - who may: exactly one of `permission="device:read"` (tenancy/scope.py), `member=True`, `person=True`,
       `operator=True`, `public=True`; without it the app does not start.
     - `group_scoped=True` where the noun limits itself to `TenantScope.group_id`; without it a token that is limited to a
       device group is refused with 403 `auth.group_scoped`.
     - `problems=(NotFound, ...)`: the DomainErrors that it can raise. The common ones are added: 400, 401, 403, 404 and
       405 of the path, 413 and 415 with a body, 429, 500, 503.
     - `versioned=True`: GET gives an ETag and honours If-None-Match, writes honour If-Match (412).
     - `idempotent=True`: a create that honours Idempotency-Key.
     - `answers={503: Struct}`: further answers that are no problems; `media_types={200: ("text/csv", ...)}`: answers that
       are not JSON; `body_types=("text/csv", ...)`: bodies that are not JSON (read them with `request.stream()`).
4. Parameters that every handler may ask for: `request`, and as `NamedDependency[...]`: `caller: TenantScope` (with
   permission= or member=), `identity: Identity` (quotas, person), `once: Once`, `cursors: Cursors`, and what `build`
   named. Path and query parameters are `FromPath[UUID]`, `Annotated[..., QueryParameter(...)]`. `data: JSONBody[<Struct>]`
   is the body: a msgspec Struct with `forbid_unknown_fields=True`, decoded strictly. Put every bound into its types
   (tenancy/text.py has names, none of them may hold U+0000): what the description allows must be accepted.
5. Errors: raise DomainErrors; add a row for each code to `problems.STATUS`. Never build an error answer by hand.
6. Lists: `cursor: CursorText = None, limit: Limit = LIMIT_DEFAULT`, fetch limit + 1 rows after
   `cursors.decode(<list, filter, order>, cursor, tuple[...])`, answer `cursors.page(...)` = `{items, next_cursor}`.
7. Versions: `etag.expected_version(request)` for the service (which raises VersionConflict), `etag.respond(request, body,
   version)` as the answer.
8. Creates: `return await once.answer(request, caller, create)`, where `create()` calls the service and gives a `Created`.
   Its transaction joins the one that remembers the answer. A secret goes into `body` only, not into `secret_free`.
9. Audit: `AuditTrail().record(connection, scope, "device:create", "device:<uuid>", {...})` in the service's transaction.
   Registry events: `NATSRegistryEvents(services.nats).publish(tenant_id, noun, id, "changed")` after it.
10. `make openapi` writes openapi/v1.json; tests/e2e/test_authorization_walk.py meets the new operations by itself and asks
    for what it cannot invent.
"""
