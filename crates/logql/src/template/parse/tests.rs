use super::super::Template;

fn failed(text: &str) -> Option<String> {
    Template::parse("line", text).err().map(|e| e.to_string())
}

#[test]
fn accepts() {
    for text in [
        "",
        "plain",
        "{{.a}}",
        "{{ .a | lower | printf \"%s-%d\" }}",
        "{{ .x | }}",
        "{{- .a -}}",
        "a {{- /* note */ -}} b",
        "{{/* note */}}",
        "{{ if eq .a \"x\" }}1{{ else if .b }}2{{ else }}3{{ end }}",
        "{{ with .a }}{{ . }}{{ else with .b }}{{.}}{{ else }}x{{ end }}",
        "{{ range $i, $x := fromJson .l }}{{ $i }}{{ $x.a.b }}{{ break }}{{ else }}none{{ end }}",
        "{{ range 3 }}{{ continue }}{{ end }}",
        "{{ $x := 1 }}{{ $x = add $x 1 }}{{ $x }}{{ $.a }}",
        "{{define \"t\"}}{{.}}{{end}}{{template \"t\" .a}}{{template \"t\"}}",
        "{{block \"b\" .}}x{{end}}",
        "{{ __timestamp__.UnixNano }}{{ (index .a 1).b }}",
        "{{ `raw \"text\"` }}{{ 'x' }}{{ '\\n' }}{{ -1 }}{{ +1.5e3 }}{{ 0x1F }}{{ 1_000 }}{{ true }}{{ .5 }}",
        "{{ and (or .a .b) (not .c) nil }}",
        "{{ .a\n| upper }}",
        "}} {",
        "{{\"}}\"}}",
        "{{ __line__ }} {{ regexReplaceAll \"a\" .b \"${1}\" }}",
    ] {
        assert_eq!(failed(text), None, "{text}");
    }
}

#[test]
fn refuses() {
    let check = |text: &str, expected: &str| {
        assert_eq!(failed(text).as_deref(), Some(format!("template: line:{expected}").as_str()), "{text}");
    };
    check("{{ foo }}", "1: function \"foo\" not defined");
    check("a\nb {{ .x | foo }}", "2: function \"foo\" not defined");
    check("{{ .a", "1: unclosed action");
    check("{{", "1: unclosed action");
    check("{{}}", "1: missing value for command");
    check("{{ if }}x{{ end }}", "1: missing value for if");
    check("{{ if .a }}", "1: unexpected EOF");
    check("{{ end }}", "1: unexpected {{end}}");
    check("{{ else }}", "1: unexpected {{else}}");
    check("{{ if .a }}{{ else }}{{ else }}{{ end }}", "1: expected end; found {{else}}");
    check("{{ $x }}", "1: undefined variable \"$x\"");
    check("{{ if $x := .a }}{{end}}{{ $x }}", "1: undefined variable \"$x\"");
    check("{{ .a | 1 }}", "1: non executable command in pipeline stage 2");
    check("{{ (.a }}", "1: unclosed left paren");
    check("{{ .a) }}", "1: unexpected right paren");
    check("{{ \"a }}", "1: unterminated quoted string");
    check("{{ `a }}", "1: unterminated raw quoted string");
    check("{{ 'a }}", "1: malformed character constant: 'a");
    check("{{ .a.1 }}", "1: unexpected \".1\" in operand");
    check("{{ 1.a }}", "1: bad number syntax: \"1.a\"");
    check("{{ \"a\".b }}", "1: unexpected . after term \"\\\"a\\\"\"");
    check("{{ .a, }}", "1: unexpected \",\" in operand");
    check("{{ .a ! }}", "1: unrecognized character in action: U+0021 '!'");
    check("{{ .a! }}", "1: bad character U+0021 '!'");
    check("{{/* a", "1: unclosed comment");
    check("{{/* a */ x}}", "1: comment ends before closing delimiter");
    check("{{ break }}", "1: {{break}} outside {{range}}");
    check("{{ if .a }}{{ define \"x\" }}{{ end }}{{ end }}", "1: unexpected <define> in command");
    check("{{ template .a }}", "1: unexpected \".a\" in template clause");
    check("{{ $a, $b := .x }}", "1: too many declarations in command");
    check("{{ range $a, .b }}{{ end }}", "1: range can only initialize variables");
    check("{{ | lower }}", "1: unexpected \"|\" in command");
    check("{{ 99999999999999999999 }}", "1: integer overflow: \"99999999999999999999\"");
}

#[test]
fn bounds_nesting() {
    for (open, close) in [("{{if .a}}", "{{end}}"), ("{{(", ")}}"), ("{{if .a}}{{else if .b}}", "{{end}}")] {
        let text = open.repeat(5000) + &close.repeat(5000);
        assert!(failed(&text).is_some(), "{open}");
    }
    let parentheses = format!("{{{{ {}.a{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(failed(&parentheses).as_deref(), Some("template: line:1: nested too deeply: more than 100 levels"));
    let chain = format!("{{{{if .a}}}}{}{{{{end}}}}", "{{else if .b}}".repeat(5000));
    assert!(failed(&chain).is_some());
}
