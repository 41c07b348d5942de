//! What expressions yield, what is wrong with wrong ones, and what they cost: tables.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use ferrokube_cel::{Authorizer, Authz, Budget, Check, Decision, Decl, Env, Type, Value};
use serde_json::{Value as Json, json};

fn schema() -> Json {
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "maxLength": 10},
        "replicas": {"type": "integer"},
        "ratio": {"type": "number"},
        "when": {"type": "string", "format": "date-time"},
        "every": {"type": "string", "format": "duration"},
        "port": {"x-kubernetes-int-or-string": true},
        "tags": {"type": "array", "maxItems": 20, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 5}},
        "items": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "labels": {"type": "object", "maxProperties": 8, "additionalProperties": {"type": "string", "maxLength": 6}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "dashed-name": {"type": "boolean"},
        "unbounded": {"type": "array", "items": {"type": "string"}}
    }})
}

fn object() -> Json {
    json!({"name": "web", "replicas": 3, "ratio": 2, "when": "2024-05-06T07:08:09Z", "every": "90s", "port": "http",
        "tags": ["a", "b"], "items": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "labels": {"app": "web"},
        "any": {"deep": {"er": [1, 2]}}, "dashed-name": true, "unbounded": []})
}

fn env() -> Env {
    Env::new().with("self", Decl::of_schema(&schema(), false).unwrap()).with_type("object", Type::Dyn)
}

fn eval(source: &str) -> Result<Json, String> {
    let program = env().compile(source).map_err(|e| e.to_string())?;
    let (object, decl) = (object(), Decl::of_schema(&schema(), false).unwrap());
    let variables = [Value::typed(&object, &decl), Value::json(&object)];
    let value = program.eval(&variables, &Budget::new(10_000_000)).map_err(|e| e.message)?;
    Ok(value.to_json().unwrap_or_else(|| Json::String(format!("{value:?}"))))
}

#[test]
fn expressions_have_the_values_that_cel_gives_them() {
    let table: &[(&str, Json)] = &[
        ("1 + 2 * 3", json!(7)),
        ("-7 / 2", json!(-3)),
        ("-7 % 2", json!(-1)),
        ("--3", json!(3)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("0x1F + 1", json!(32)),
        ("1.5e3 + 0.5", json!(1500.5)),
        (r#"r'\d' + "\u00e9\n" + '''a'b'''"#, json!("\\dé\na'b")),
        ("b'abc' == bytes('abc')", json!(true)),
        ("dyn(1) == 1.0", json!(true)),
        ("1 < 1.5 && 2u > 1", json!(true)),
        ("'b' in ['a', 'b'] && 'app' in self.labels && !(3 in [1])", json!(true)),
        ("true ? 'y' : 'n'", json!("y")),
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x != 2)", json!([1, 3])),
        ("[1, 2].exists_one(x, x == 1) && ![1, 1].exists_one(x, x == 1)", json!(true)),
        // A later element decides what an earlier one could not.
        ("[0, 1].exists(x, 1 / x == 1) && ![0, 2].all(x, 1 / x == 1)", json!(true)),
        ("[1, 2].all(i, v, i + 1 == v) && {'a': 1}.exists(k, v, k == 'a' && v == 1)", json!(true)),
        ("['a', 'b'].transformList(i, v, string(i) + v)", json!(["0a", "1b"])),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v + 1)", json!({"b": 3})),
        ("['x'].transformMapEntry(i, v, {v: i})", json!({"x": 0})),
        ("cel.bind(x, 2, x * x)", json!(4)),
        ("[3, 1, 2].sortBy(x, -x)", json!([3, 2, 1])),
        ("has(self.name) && !has(object.any.nothing)", json!(true)),
        ("self.replicas + 1", json!(4)),
        ("self.ratio / 4.0", json!(0.5)),
        ("self.when.getFullYear() == 2024 && self.when.getHours('+02:00') == 9", json!(true)),
        ("self.every + duration('30s') == duration('2m')", json!(true)),
        ("self.when - timestamp('2024-05-06T07:08:00Z')", json!("9s")),
        ("self.port == 'http' && type(self.port) == string", json!(true)),
        ("self.dashed__dash__name", json!(true)),
        ("self.tags == ['b', 'a'] && self.tags + ['a', 'c'] == ['a', 'b', 'c']", json!(true)),
        ("(self.items + self.items).size()", json!(2)),
        ("self.items.filter(i, i.v > 1).map(i, i.k)", json!(["y"])),
        ("object.any.deep.er[1]", json!(2)),
        ("object.?any.?nothing.?more.orValue('none')", json!("none")),
        ("self.labels[?'app'].orValue('') + self.labels[?'x'].orValue('-')", json!("web-")),
        ("[?optional.of(1), ?optional.none()]", json!([1])),
        ("{?'a': optional.of(1), ?'b': optional.none()}", json!({"a": 1})),
        ("optional.of(2).optMap(x, x + 1).value()", json!(3)),
        ("'hello'.charAt(1) + 'a,b'.split(',').join('-') + ' x '.trim() + 'AbC'.lowerAscii()", json!("ea-bxabc")),
        ("'hello'.substring(1, 3) + 'aXbX'.replace('X', '.', 1)", json!("ela.bX")),
        ("'héllo'.indexOf('l') == 2 && 'héllo'.lastIndexOf('l') == 3 && size('héllo') == 5", json!(true)),
        ("'%s is %d, %.2f, %x %b'.format(['a', 3, 2.5, 255, 5])", json!("a is 3, 2.50, ff 101")),
        ("'%s'.format([['a', 1]])", json!("[a, 1]")),
        ("'abc123'.find('[0-9]+') + 'a1b2'.findAll('[0-9]').join()", json!("12312")),
        ("'web-1'.matches('^web-[0-9]+$')", json!(true)),
        ("[1, 2].isSorted() && [1, 3, 2].max() == 3 && [1, 2].sum() == 3 && [5, 6].indexOf(6) == 1", json!(true)),
        ("url('https://example.com:8080/a?b=c').getPort() + url('/x').getEscapedPath()", json!("8080/x")),
        ("isURL('https://a.b') && !isURL('a b') && url('https://a/?q=1').getQuery()['q'] == ['1']", json!(true)),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('1k').asInteger() == 1000", json!(true)),
        ("quantity('1').add(quantity('500m')) == quantity('1500m') && !isQuantity('x')", json!(true)),
        ("sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])", json!(true)),
        ("ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('10.0.0.01') && ip.isCanonical('::1')", json!(true)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16'))", json!(true)),
        ("string(cidr('10.1.2.3/8').masked()) + string(cidr('10.0.0.0/8').prefixLength())", json!("10.0.0.0/88")),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('1.2')", json!(true)),
        ("semver('1.0.0-alpha.1').isLessThan(semver('1.0.0'))", json!(true)),
        ("format.dns1123Label().validate('a-b').hasValue()", json!(false)),
        ("format.named('dns1123Label').value().validate('A').value().size()", json!(1)),
        ("type(1) == int && type([]) == list && type(type(1)) == type && int('12') == 12", json!(true)),
        ("[[1], [2, 3]].flatten() == [1, 2, 3] && [1, 2, 1].distinct() == [1, 2] && lists.range(3) == [0, 1, 2]", json!(true)),
        ("[1, 2, 3].slice(0, 2).first().value() + [4].last().value()", json!(5)),
        ("object.nothing == 1 || true", json!(true)),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        ("1 + // the rest is silence\n 2", json!(3)),
    ];
    let wrong: Vec<_> = table.iter().map(|(s, w)| (s, w, eval(s))).filter(|(_, wanted, got)| got.as_ref() != Ok(*wanted)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn evaluations_fail_in_the_words_of_cel_go() {
    for (source, wanted) in [
        ("1 / 0", "division by zero"),
        ("[1][3]", "index out of bounds: 3"),
        ("object.nothing", "no such key: nothing"),
        ("{'a': 1}['b']", "no such key: b"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("optional.none().value()", "optional.none() dereference"),
        ("object.name + 1", "no such overload"),
        ("[1, 2].all(x, 1 / (x - 1) == 1)", "division by zero"),
        ("'x'.substring(5)", "index out of range: 5"),
    ] {
        assert_eq!(eval(source), Err(wanted.to_owned()), "{source}");
    }
}

#[test]
fn wrong_expressions_are_shown_with_a_pointer_into_them() {
    for (source, wanted) in [
        ("self.foo", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo\n | ....^"),
        ("foo", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^"),
        ("1 + 'a'", "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^"),
        ("self.name.foo()", "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^"),
        (
            "self.name.startsWith(1)",
            "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n | self.name.startsWith(1)\n | ....................^",
        ),
        ("self.replicas.x", "ERROR: <input>:1:14: type 'int' does not support field selection\n | self.replicas.x\n | .............^"),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "self.replicas.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(x, true)\n | ....^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        ("1 2", "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^"),
        ("has(self)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^"),
        ("true &&\n  for", "ERROR: <input>:2:3: reserved identifier: for\n |   for\n | ..^"),
    ] {
        assert_eq!(eval(source), Err(wanted.to_owned()), "{source}");
    }
    let two = eval("foo + bar").unwrap_err();
    assert_eq!(two.lines().filter(|l| l.starts_with("ERROR")).count(), 2, "{two}");
    assert!(eval("'a'.matches('(')").unwrap_err().contains("invalid matches argument"));
}

#[test]
fn the_estimate_knows_the_sizes_that_the_schema_allows() {
    let cost = |source: &str| env().compile(source).unwrap().max_cost();
    // A name, a selection, a comparison of up to 40 bytes with four characters.
    assert_eq!(cost("self.name == 'abcd'"), 3);
    assert_eq!(cost("self.replicas > 1"), 3);
    // Ten times (the condition's 2, the step's 3 and its result's name), and what stands around it.
    assert_eq!(cost("self.items.all(i, i.v > 0)"), 2 + 10 * (2 + 4) + 1);
    assert!(cost("self.tags.all(t, t.size() < 3)") < 500);
    assert!(cost("self.unbounded.all(x, self.unbounded.all(y, x != y))") > 10_000_000_000);
    assert!(cost("self.unbounded.all(x, x.contains('abc'))") > 1_000_000);
}

#[test]
fn an_empty_optional_costs_no_more_than_was_estimated() {
    for source in ["cel.bind(x, optional.of([]), x == x)", "optional.of('') == optional.of('')", "optional.none() == optional.of([])"] {
        let program = env().compile(source).unwrap();
        let (_, cost) = program.eval_costed(&[Value::json(&json!({}))]).to_owned_json();
        assert!(cost <= program.max_cost(), "{source}: {cost} of {}", program.max_cost());
    }
}

#[test]
fn a_budget_ends_an_evaluation_even_inside_an_or() {
    let list: Vec<u32> = (0..3000).collect();
    let list = json!(list);
    let env = Env::new().with_type("self", Type::Dyn);
    let program = env.compile("self.all(x, self.all(y, x >= 0)) || true").unwrap();
    let budget = Budget::new(50_000_000);
    let error = program.eval(&[Value::json(&list)], &budget).unwrap_err();
    assert!(error.exhausted);
    assert_eq!(error.message, "operation cancelled: actual cost limit exceeded");
    assert!((48_999_000..=49_000_000).contains(&budget.left()), "one call costs at most a million: {}", budget.left());
    let (value, cost) = env.compile("self.all(x, x >= 0)").unwrap().eval_costed(&[Value::json(&list)]).to_owned_json();
    assert_eq!(value, json!(true));
    // Two for the range and the result, and per element: condition 2, step 4.
    assert_eq!(cost, 2 + 3000 * 5);
}

trait Owned {
    fn to_owned_json(self) -> (Json, u64);
}

impl Owned for (ferrokube_cel::Evaluated<'_>, u64) {
    fn to_owned_json(self) -> (Json, u64) {
        (self.0.unwrap().to_json().unwrap(), self.1)
    }
}

struct Friendly;

impl Authorizer for Friendly {
    fn authorize(&self, check: &Check) -> Decision {
        let known =
            check.verb == "get" && check.resource == "pods" && check.namespace == "dev" && check.field_selector.as_deref() == Some("a=b");
        let account = check.service_account == Some(("dev".into(), "robot".into()));
        let path = check.path.as_deref() == Some("/healthz");
        Decision { allowed: known || account || path, reason: "because".into(), error: None }
    }
}

#[test]
fn the_authorizer_is_asked_what_the_expression_builds() {
    let env = Env::new()
        .with_type("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
        .with_type("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"));
    for (source, wanted) in [
        ("authorizer.group('').resource('pods').namespace('dev').fieldSelector('a=b').check('get').allowed()", true),
        ("authorizer.group('').resource('pods').namespace('prod').check('get').allowed()", false),
        ("authorizer.serviceAccount('dev', 'robot').group('').resource('x').check('get').allowed()", true),
        ("authorizer.path('/healthz').check('get').reason() == 'because'", true),
        ("authorizer.requestResource.check('delete').allowed()", false),
        ("authorizer.requestResource.check('delete').errored()", false),
    ] {
        let program = env.compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let who: &dyn Authorizer = &Friendly;
        let variables = [
            Value::Authz(std::rc::Rc::new(Authz::Authorizer(who, Check::default()))),
            Value::Authz(std::rc::Rc::new(Authz::Resource(who, Check::default()))),
        ];
        let value = program.eval(&variables, &Budget::new(u64::MAX)).unwrap();
        assert!(matches!(value, Value::Bool(b) if b == wanted), "{source}");
    }
}

#[test]
fn mutations_make_objects_and_patches() {
    let env = Env::new().with_type("object", Type::Dyn).with_mutations();
    let made = |source: &str| {
        let program = env.compile(source).map_err(|e| e.to_string())?;
        let object = json!({"a": 1});
        let variables = [Value::json(&object)];
        Ok::<_, String>(program.eval(&variables, &Budget::new(1_000_000)).unwrap().to_json().unwrap())
    };
    assert_eq!(
        made("Object{metadata: Object.metadata{labels: {'a': 'b'}}, spec: Object.spec{replicas: object.a}}"),
        Ok(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}))
    );
    assert_eq!(
        made("[JSONPatch{op: 'add', path: '/a', value: 2}, JSONPatch{op: 'remove', path: '/b'}]"),
        Ok(json!([{"op": "add", "path": "/a", "value": 2}, {"op": "remove", "path": "/b"}]))
    );
    assert!(made("Object{spec: Object.metadata{}}").unwrap_err().contains("expected type of field 'spec' is 'Object.spec'"));
    assert!(made("JSONPatch{nope: 1}").unwrap_err().contains("undefined field 'nope'"));
}
