"""What dashboards are put together from.

A panel is one call: title, unit, what it shows, queries. What all panels share (the datasource variable, ids, places,
refIds, colours) is added here. In queries `@link`, `@arrivals` and `@region` stand for the variables' matchers.
"""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
MATCHERS = {
    "@link": 'region=~"$region", peer=~"$peer"',
    "@arrivals": 'region=~"$region", origin=~"$peer"',
    "@region": 'region=~"$region"',
}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#808080"
LINK = "{{region}} → {{peer}}"

# The bounds of the lag histogram that an objective can be; Prometheus 3 writes 5 as 5.0.
OBJECTIVES = "5,0.1,0.25,0.5,1,2.5,10,15,30,60,120,300"
WITHIN = 'le=~"$objective(\\\\.0)?"'


def annotation(name, color, expr, title, **more):
    """A mark on all panels over time."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": query(expr)["expr"],
        "titleFormat": title,
        "step": "15s",
        **more,
    }


def query(expr, legend="", instant=False, table=False, ref=None, heatmap=False, exemplars=False):
    """`exemplars` marks the traces of single events, where events have traces and Prometheus keeps exemplars."""
    for token, matcher in MATCHERS.items():
        expr = expr.replace(token, matcher)
    form = "table" if table else "heatmap" if heatmap else "time_series"
    target = {"datasource": DATASOURCE, "expr": expr, "format": form, "refId": ref}
    if legend:
        target["legendFormat"] = legend
    if exemplars:
        target["exemplar"] = True
    target.update({"instant": True, "range": False} if instant or table else {"instant": False, "range": True})
    return target


def steps(*pairs):
    """(from, colour) …; the first one's bound is left out."""
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": None if at == 0 else bound} for at, (bound, color) in enumerate(pairs)],
    }


ANY_IS_BAD = steps((0, GREEN), (1, RED))
ANY_IS_ODD = steps((0, GREEN), (1, ORANGE))
PLAIN = steps((0, GREEN))
# What stands here if the variable's query should fail: the default objective.
OBJECTIVE = "objective"


def panel(
    kind,
    title,
    unit,
    description,
    *queries,
    w=8,
    h=8,
    thresholds=PLAIN,
    options=None,
    custom=None,
    mappings=(),
    overrides=(),
    transformations=(),
    decimals=None,
    lowest=None,
    highest=None,
    links=(),
    objective_for=None,
):
    queries = list(queries)
    transformations = list(transformations)
    for at, target in enumerate(queries):
        target["refId"] = target["refId"] or chr(ord("A") + at)
    defaults = {"unit": unit, "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"}}
    if thresholds == OBJECTIVE:
        # Thresholds cannot hold a variable; a query's result can become one. The first is the ground.
        queries.append(
            query('label_replace(vector($objective), "ground", "-1000000", "", "")', table=True, ref="objective")
        )
        mapped = [("ground", GREEN), ("Value", RED), ("Value #objective", RED)]
        target = {"applyTo": {"id": "byName", "options": objective_for}} if objective_for else {}
        transformations.insert(
            0,
            {
                "id": "configFromData",
                "options": {
                    **target,
                    "configRefId": "objective",
                    "mappings": [
                        {
                            "fieldName": name,
                            "handlerKey": "threshold1",
                            "handlerArguments": {"threshold": {"color": color}},
                        }
                        for name, color in mapped
                    ],
                },
            },
        )
        thresholds = steps((0, GREEN), (5, RED))
    defaults["thresholds"] = thresholds
    defaults["mappings"] = list(mappings)
    defaults["links"] = list(links)
    for name, value in (("decimals", decimals), ("min", lowest), ("max", highest)):
        if value is not None:
            defaults[name] = value
    defaults["custom"] = {**CUSTOM.get(kind, {}), **(custom or {})}
    made = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": queries,
        "gridPos": {"w": w, "h": h},
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": {**OPTIONS[kind], **(options or {})},
    }
    if transformations:
        made["transformations"] = transformations
    return made


CUSTOM = {
    "timeseries": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False},
    "state-timeline": {"fillOpacity": 80, "lineWidth": 0},
    "table": {"align": "auto", "cellOptions": {"type": "auto"}},
}
OPTIONS = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}},
    "state-timeline": {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single"},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": False},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "tooltip": {"mode": "single", "show": True, "yHistogram": False},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
    },
}


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1}}


def lines(title, unit, description, *queries, **more):
    return panel("timeseries", title, unit, description, *queries, **more)


def stat(title, unit, description, expr, legend="", w=4, h=4, **more):
    return panel("stat", title, unit, description, query(expr, legend, instant=True), w=w, h=h, **more)


DRAWN = {"thresholdsStyle": {"mode": "dashed"}}
STACKED = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30}
TO_LINK = {
    "title": "This link in detail",
    "url": "/d/hubweave-link?var-datasource=${datasource}&var-region=${__data.fields[0]}&var-peer=${__field.name}&${__url_time_range}",
}


def texts(**of):
    """Values 0, 1, … as (text, colour)."""
    return [
        {
            "type": "value",
            "options": {
                value: {"text": text, "color": color, "index": at}
                for at, (value, (text, color)) in enumerate(of.items())
            },
        }
    ]


NOTHING = {
    "type": "special",
    "options": {"match": "null", "result": {"text": "–", "color": "transparent", "index": 99}},
}


def matrix(title, unit, description, expr, w=12, h=7, thresholds=PLAIN, mappings=(), **more):
    """Rows are the regions that send, columns their peers."""
    field = "Value #A" if thresholds == OBJECTIVE else "Value"
    return panel(
        "table",
        title,
        unit,
        description,
        query(expr, table=True, ref="A"),
        w=w,
        h=h,
        thresholds=thresholds,
        mappings=[*mappings, NOTHING],
        custom={"align": "center", "cellOptions": {"type": "color-background", "mode": "basic"}},
        transformations=[
            {
                "id": "groupingToMatrix",
                "options": {"columnField": "peer", "rowField": "region", "valueField": field, "emptyValue": "null"},
            }
        ],
        overrides=[
            {
                "matcher": {"id": "byName", "options": "region\\peer"},
                "properties": [
                    {"id": "custom.cellOptions", "value": {"type": "auto"}},
                    {"id": "displayName", "value": "from, to"},
                ],
            }
        ],
        links=[TO_LINK],
        **more,
    )


def table(title, description, columns, w=24, h=7, hidden=("Time",), links=()):
    """One row for each set of labels; columns are (name, unit, expr, thresholds)."""
    queries, renames, overrides, objective_for = [], {}, [], None
    for at, (name, unit, expr, thresholds) in enumerate(columns):
        ref = chr(ord("A") + at)
        queries.append(query(expr, table=True, ref=ref))
        given = "Value" if len(columns) == 1 else f"Value #{ref}"
        renames[given] = name
        if thresholds == OBJECTIVE:
            objective_for = given
        properties = [{"id": "unit", "value": unit}]
        if thresholds:
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
        # An override would win over what the objective's query says.
        if thresholds and thresholds != OBJECTIVE:
            properties.append({"id": "thresholds", "value": thresholds})
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    # Columns are left out before they get their new names.
    given_names = {name: given for given, name in renames.items()}
    excluded = {given_names.get(name, name): True for name in hidden}
    return panel(
        "table",
        title,
        "short",
        description,
        *queries,
        w=w,
        h=h,
        overrides=overrides,
        links=links,
        thresholds=OBJECTIVE if objective_for else PLAIN,
        objective_for=objective_for,
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": excluded, "renameByName": renames}},
        ],
    )


def variable(name, label, expr, many=True):
    text = f"label_values({expr})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": text,
        "query": {"qryType": 1, "query": text, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": many,
        "includeAll": many,
        "hide": 0,
        "options": [],
        "regex": "",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if many else {},
    }


def choice(name, label, values, description=""):
    first, *_ = values.split(",")
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": values,
        "description": description,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "current": {"selected": True, "text": first, "value": first},
        "options": [{"selected": value == first, "text": value, "value": value} for value in values.split(",")],
    }


def number(name, label, value, description):
    return {
        "name": name,
        "label": label,
        "type": "textbox",
        "query": value,
        "description": description,
        "hide": 0,
        "current": {"selected": True, "text": value, "value": value},
        "options": [{"selected": True, "text": value, "value": value}],
    }


REGION = variable("region", "Region", "hubweave_build_info, region")
PEER = variable("peer", "Peer", 'hubweave_link_state{region=~"$region"}, peer')
LAG = choice(
    "objective",
    "Lag objective (s)",
    OBJECTIVES,
    "Objective.lag of the topology file; a bound of the lag histogram. Thresholds and shares go by it.",
)


def dashboard(uid, title, description, tags, variables, panels):
    x = y = below = 0
    for at, made in enumerate(panels, 1):
        place = made["gridPos"]
        if x + place["w"] > 24:
            x, y = 0, below
        made["id"], place["x"], place["y"] = at, x, y
        x, below = x + place["w"], max(below, y + place["h"])
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "options": [],
        "current": {},
    }
    marks = [
        annotation("Injected faults", "orange", "sum by (region, kind) (hubweave_faults_active{@region}) > 0", "{{region}}: injected {{kind}}"),
        annotation(
            "Regions that do not serve",
            "red",
            'max by (region, state) (hubweave_region_state{@region, state!="active"}) == 1',
            "{{region}} is {{state}}",
        ),
        # The value is the time of the mark, in milliseconds.
        annotation(
            "Drills",
            "blue",
            "1000 * (max by (drill, verdict) (hubweave_drill_last_run_timestamp_seconds) > 0)",
            "drill {{drill}} {{verdict}}",
            useValueForTime=True,
        ),
    ]
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["hubweave", *tags],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "style": "dark",
        "timezone": "",
        "weekStart": "",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "templating": {"list": [source, *variables]},
        "annotations": {"list": marks},
        "links": [
            {
                "type": "dashboards",
                "title": "hubweave",
                "tags": ["hubweave"],
                "asDropdown": False,
                "icon": "dashboard",
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": panels,
    }
