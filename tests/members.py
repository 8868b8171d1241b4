"""What an extension consists of, in full: each member with everything that the server's catalogs say of it, without
numbers that differ from one database to the next."""

# NOT NULL is said of the columns; from 18 on it is a constraint too, whose name the server chooses by those taken.
# A catalog, the name of a row, and what is said of it. Of rows in other catalogs that belong to a member, what is
# said is gathered there.
_DETAILS = {
    "pg_proc": """jsonb_build_object('definition', CASE p.prokind WHEN 'a' THEN
            (SELECT (to_jsonb(a) - 'aggtranstype')::text || a.aggtranstype::regtype FROM pg_aggregate a WHERE a.aggfnoid = p.oid) ELSE pg_get_functiondef(p.oid) END,
        'volatility', p.provolatile, 'parallel', p.proparallel, 'strict', p.proisstrict, 'cost', p.procost, 'rows', p.prorows,
        'definer', p.prosecdef, 'leakproof', p.proleakproof, 'source', p.prosrc, 'library', p.probin, 'config', p.proconfig,
        'names', p.proargnames, 'modes', p.proargmodes, 'body', p.prosqlbody IS NOT NULL,
        'result', pg_get_function_result(p.oid), 'owner', p.proowner::regrole, 'acl', p.proacl) FROM pg_proc p WHERE p.oid = o""",
    "pg_type": """to_jsonb(t) - '{oid,typrelid,typarray,typelem,typnamespace}'::text[] FROM pg_type t WHERE t.oid = o""",
    "pg_class": """jsonb_build_object('class', to_jsonb(c) - '{oid,relfilenode,reltype,reltoastrelid,relfrozenxid,relminmxid,
                 relpages,reltuples,relallvisible,relallfrozen,relnamespace,relam,relhasindex,relhasrules}'::text[],
        'columns', (SELECT jsonb_agg((to_jsonb(a) - '{attrelid,atttypid,attcollation,attcacheoff,attoptions}'::text[]) || jsonb_build_object(
                'type', format_type(a.atttypid, a.atttypmod), 'collation', a.attcollation::regcollation,
                'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = o AND d.adnum = a.attnum),
                'comment', col_description(o, a.attnum)) ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = o AND a.attnum > 0),
        'constraints', (SELECT jsonb_agg(k.conname || ' ' || pg_get_constraintdef(k.oid) ORDER BY k.conname)
                          FROM pg_constraint k WHERE k.conrelid = o AND k.contype <> 'n'),
        'indexes', (SELECT jsonb_agg(pg_get_indexdef(i.indexrelid) ORDER BY pg_get_indexdef(i.indexrelid)) FROM pg_index i WHERE i.indrelid = o),
        'triggers', (SELECT jsonb_agg(pg_get_triggerdef(t.oid) || t.tgenabled::text ORDER BY t.tgname)
                       FROM pg_trigger t WHERE t.tgrelid = o AND NOT t.tgisinternal),
        'view', pg_get_viewdef(o)) FROM pg_class c WHERE c.oid = o""",
    "pg_operator": """to_jsonb(x) - '{oid,oprnamespace,oprleft,oprright,oprresult,oprcom,oprnegate}'::text[] || jsonb_build_object(
        'commutator', x.oprcom::regoperator, 'negator', x.oprnegate::regoperator, 'result', x.oprresult::regtype)
        FROM pg_operator x WHERE x.oid = o""",
    "pg_opclass": """jsonb_build_object('default', x.opcdefault, 'type', x.opcintype::regtype, 'key', x.opckeytype::regtype,
        'owner', x.opcowner::regrole) FROM pg_opclass x WHERE x.oid = o""",
    "pg_opfamily": """jsonb_build_object('operators', (SELECT jsonb_agg(amopopr::regoperator::text || ' ' || amopstrategy || amoppurpose::text
            || ' ' || coalesce((SELECT opfname FROM pg_opfamily s WHERE s.oid = amopsortfamily), '') ORDER BY 1)
            FROM (SELECT * FROM pg_amop m WHERE m.amopfamily = o) m),
        'functions', (SELECT jsonb_agg(amproc::regprocedure::text || ' ' || amprocnum ORDER BY 1)
            FROM pg_amproc m WHERE m.amprocfamily = o), 'owner', x.opfowner::regrole) FROM pg_opfamily x WHERE x.oid = o""",
    "pg_cast": """jsonb_build_object('function', x.castfunc::regprocedure, 'context', x.castcontext, 'method', x.castmethod)
        FROM pg_cast x WHERE x.oid = o""",
    "pg_am": """jsonb_build_object('handler', x.amhandler::regprocedure, 'type', x.amtype) FROM pg_am x WHERE x.oid = o""",
    "pg_event_trigger": """jsonb_build_object('event', x.evtevent, 'function', x.evtfoid::regprocedure, 'tags', x.evttags,
        'enabled', x.evtenabled, 'owner', x.evtowner::regrole) FROM pg_event_trigger x WHERE x.oid = o""",
    "pg_namespace": """jsonb_build_object('owner', x.nspowner::regrole, 'acl', x.nspacl) FROM pg_namespace x WHERE x.oid = o""",
}


def of(conn, extension="insitu"):
    """By the identity of each member, everything about it, as text."""
    members = {}
    rows = conn.execute(
        "SELECT d.classid::regclass::text, d.objid, i.type, i.identity, obj_description(d.objid, d.classid::regclass::name),"
        "  (SELECT jsonb_agg(jsonb_build_array(p.objsubid, p.privtype, p.initprivs)) FROM pg_init_privs p"
        "    WHERE p.classoid = d.classid AND p.objoid = d.objid)::text,"
        "  array_position(e.extconfig, d.objid), e.extcondition[array_position(e.extconfig, d.objid)]"
        "  FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
        "  CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i"
        " WHERE e.extname = %s AND d.deptype = 'e'", [extension]).fetchall()
    for catalog, oid, kind, identity, *said in rows:
        said += conn.execute(_question(catalog), [oid]).fetchone()
        members[f"{kind} {identity}"] = said
    return members


def _question(catalog):
    return f"SELECT jsonb_pretty(f.found) FROM (SELECT %s::oid AS o) n, LATERAL (SELECT {_DETAILS[catalog]}) AS f (found)"
