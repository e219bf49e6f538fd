//! For any text, nothing panics. If it parses, its printed form parses to the same tree.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = millrace_logql::parse_matchers(text);
    let _ = millrace_logql::format_query(text);
    if let Ok(parsed) = millrace_logql::parse(text) {
        let again = millrace_logql::parse(&parsed.to_string()).expect("what was printed parses");
        assert_eq!(format!("{again:?}"), format!("{parsed:?}"));
    }
});
